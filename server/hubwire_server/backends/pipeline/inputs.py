"""What a caller sends, as a pipeline takes it: bytes become images, sounds and arrays, by the kind of the pipeline."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any

from hubwire_server.backends.pipeline import media
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.pipelines import Blob, PipelineInput

REFERENCE = re.compile(r"blob:(0|[1-9][0-9]{0,5})", re.ASCII)
DEFAULT_SAMPLING_RATE = 16_000
"""Of a pipeline whose feature extractor does not say, which is the rate of nearly all models of speech."""
MAX_REFERENCES = 256
"""How often an input may refer to its blobs: a pipeline does its work for each reference, even for two to the same blob."""


class Kind(Enum):
    """What a pipeline reads in the place of a blob."""

    TEXT = auto()
    IMAGE = auto()
    SOUND = auto()


KINDS: Mapping[str, Kind] = {
    "any-to-any": Kind.IMAGE,
    "audio-classification": Kind.SOUND,
    "automatic-speech-recognition": Kind.SOUND,
    "decision": Kind.IMAGE,
    "depth-estimation": Kind.IMAGE,
    "document-question-answering": Kind.IMAGE,
    "image-classification": Kind.IMAGE,
    "image-feature-extraction": Kind.IMAGE,
    "image-segmentation": Kind.IMAGE,
    "image-text-to-text": Kind.IMAGE,
    "keypoint-matching": Kind.IMAGE,
    "mask-generation": Kind.IMAGE,
    "object-detection": Kind.IMAGE,
    "zero-shot-audio-classification": Kind.SOUND,
    "zero-shot-image-classification": Kind.IMAGE,
    "zero-shot-object-detection": Kind.IMAGE,
}
"""Pipelines that read more than text."""

READS_TEXT_TOO = frozenset({"any-to-any", "decision", "image-text-to-text"})
"""Of those, the ones for which a text is no path and no address."""


class InputReader:
    """Reads the inputs of one pipeline."""

    def __init__(self, task: str, pipeline: Any) -> None:
        self._task = task
        self._kind = KINDS.get(task, Kind.TEXT)
        extractor = getattr(pipeline, "feature_extractor", None)
        self._rate: int = getattr(extractor, "sampling_rate", DEFAULT_SAMPLING_RATE)
        # Only speech recognition takes a sound's rate with it wherever it stands; the zero-shot pipeline reads plain samples.
        self._plain_samples = task == "zero-shot-audio-classification"

    def read(self, given: PipelineInput) -> Any:
        """What to call the pipeline with. Raises HubwireError: PIPELINE_INPUT_INVALID or MEDIA_INVALID."""
        if given.text is not None:
            return self._text(given.text)
        if given.blob is not None:
            return self._media(given.blob, media.Allowance())
        assert given.fields is not None
        fields = _References(self._media, given.blobs).resolve(given.fields)
        # A list cannot be written as a Struct: the messages of a chat, two images to be matched.
        return fields["inputs"] if set(fields) == {"inputs"} else fields

    def _text(self, text: str) -> str:
        if self._kind is not Kind.TEXT and self._task not in READS_TEXT_TOO:
            what = "a sound" if self._kind is Kind.SOUND else "an image"
            raise HubwireError(Reason.PIPELINE_INPUT_INVALID, f"{self._task} reads {what}: give its bytes as a blob, not a text")
        return text

    def _media(self, blob: Blob, allowance: media.Allowance) -> Any:
        """What a pipeline takes in the place of a blob. Raises HubwireError: PIPELINE_INPUT_INVALID or MEDIA_INVALID."""
        if blob.dtype:
            return media.array(blob)
        if blob.media_type.startswith("audio/") or (self._kind is Kind.SOUND and not blob.media_type.startswith("image/")):
            sound = media.sound(blob, self._rate, allowance)
            return sound["raw"] if self._plain_samples else sound
        if blob.media_type.startswith("image/") or self._kind is Kind.IMAGE:
            return media.image(blob, allowance)
        raise HubwireError(Reason.PIPELINE_INPUT_INVALID, f"{self._task} reads text, not bytes")


class _References:
    """The blobs of one input, each of which is unpacked once, however often the input refers to it."""

    def __init__(self, unpack: Callable[[Blob, media.Allowance], Any], blobs: tuple[Blob, ...]) -> None:
        self._unpack = unpack
        self._blobs = blobs
        self._unpacked: dict[int, Any] = {}
        self._allowance = media.Allowance()
        self._count = 0

    def resolve(self, value: Any) -> Any:
        """The value with media in the place of references."""
        if isinstance(value, dict):
            return {name: self.resolve(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.resolve(inner) for inner in value]
        if not isinstance(value, str) or not (match := REFERENCE.fullmatch(value)):
            return value
        return self._medium(int(match[1]))

    def _medium(self, index: int) -> Any:
        if index >= len(self._blobs):
            text = f"'blob:{index}' refers to a blob, and the input has {len(self._blobs)}"
            raise HubwireError(Reason.PIPELINE_INPUT_INVALID, text)
        self._count += 1
        if self._count > MAX_REFERENCES:
            raise HubwireError(Reason.PIPELINE_INPUT_INVALID, f"the input refers to blobs more than {MAX_REFERENCES} times")
        if index not in self._unpacked:
            self._unpacked[index] = self._unpack(self._blobs[index], self._allowance)
        else:
            # The pipeline makes something of its own of each.
            self._allowance.take_again(self._unpacked[index])
        unpacked = self._unpacked[index]
        # Pipelines take the parts of a sound out of its dictionary.
        return dict(unpacked) if isinstance(unpacked, dict) else unpacked
