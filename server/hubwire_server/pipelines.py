"""The pipelines by name, and the form in which an input goes to the pipeline worker and its answer comes back.

Both are needed on both sides of the socket, and the front holds no transformers: the names are a table here, and a test compares it with
the list of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hubwire_server.errors import HubwireError, Reason

_PACKAGE = "hubwire.v1."

PIPELINES: Mapping[str, str] = {
    "any-to-any": "",
    "audio-classification": "",
    "automatic-speech-recognition": "",
    "decision": "",
    "depth-estimation": "",
    "document-question-answering": "",
    "feature-extraction": f"{_PACKAGE}EmbeddingService",
    "fill-mask": f"{_PACKAGE}FillMaskService",
    "image-classification": "",
    "image-feature-extraction": "",
    "image-segmentation": "",
    "image-text-to-text": "",
    "keypoint-matching": "",
    "mask-generation": "",
    "object-detection": "",
    "summarization": "",
    "table-question-answering": "",
    "text-classification": f"{_PACKAGE}TextClassificationService",
    "text-generation": "",
    "text-to-audio": "",
    "text2text-generation": "",
    "token-classification": f"{_PACKAGE}TokenClassificationService",
    "translation": "",
    "zero-shot-audio-classification": "",
    "zero-shot-classification": f"{_PACKAGE}TextClassificationService",
    "zero-shot-image-classification": "",
    "zero-shot-object-detection": "",
}
"""The pipelines that a model can be loaded for, and the service that serves the same better; empty where there is none."""

SEQ2SEQ = ("summarization", "text2text-generation", "translation")
"""Those that transformers 5 has no more, and that are run here (backends/pipeline/seq2seq.py)."""

ALIASES: Mapping[str, str] = {
    "sentiment-analysis": "text-classification",
    "ner": "token-classification",
    "text-to-speech": "text-to-audio",
    "image-to-text": "image-text-to-text",
}
"""Other names of some, as transformers has them."""

REPLACEMENTS: Mapping[str, str] = {
    "question-answering": "use hubwire.v1.QuestionAnsweringService",
    "sentence-similarity": "use hubwire.v1.EmbeddingService, or hubwire.v1.RerankService",
    "text-ranking": "use hubwire.v1.RerankService",
    "visual-question-answering": "use image-text-to-text",
    "vqa": "use image-text-to-text",
    "image-to-image": "use a library for generating images, such as diffusers",
    "conversational": "use text-generation",
    "video-classification": "this server decodes no video: classify its frames with image-classification",
}
"""What is no pipeline here, and what to use instead."""

TRANSLATION = re.compile(r"translation_\w+_to_\w+", re.ASCII)
"""A translation whose languages are part of its name: translation_en_to_de."""


def canonical(task: str, field: str) -> str:
    """The name of a pipeline under which models are loaded. Raises HubwireError with the reason PIPELINE_NOT_SUPPORTED, which names what to
    use instead."""
    name = ALIASES.get(task, task)
    if name in PIPELINES or TRANSLATION.fullmatch(name):
        return name
    hint = REPLACEMENTS.get(name, "ListPipelines names those that there are")
    raise HubwireError(Reason.PIPELINE_NOT_SUPPORTED, f"there is no pipeline {task[:64]!r}: {hint}", field=field)


class Blob(msgspec.Struct, frozen=True, kw_only=True):
    """See hubwire.v1.Blob."""

    data: bytes
    media_type: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()


class PipelineInput(msgspec.Struct, frozen=True, kw_only=True):
    """See hubwire.v1.PipelineInput: one of text, blob and fields is there. In fields, "blob:0" stands for the first of blobs."""

    text: str | None = None
    blob: Blob | None = None
    fields: dict[str, Any] | None = None
    blobs: tuple[Blob, ...] = ()


class PipelineOutput(msgspec.Struct, frozen=True, kw_only=True):
    """See hubwire.v1.PipelineOutput: value is what JSON has, with "blob:0" in the place of the first of blobs."""

    value: Any
    blobs: tuple[Blob, ...] = ()


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """An input on its way to the worker. deadline_ns is on the clock of time.monotonic_ns, which all processes of a machine share."""

    input: PipelineInput
    parameters: dict[str, Any]
    deadline_ns: int | None = None


class PackedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A Call whose parts are encoded already (pack), so that parameters are encoded once for all inputs. In a payload it is a Call."""

    input: msgspec.Raw
    parameters: msgspec.Raw
    deadline_ns: int | None = None


class Answered(PipelineOutput, frozen=True, tag=True, kw_only=True):
    """The answer to a call, from the worker."""


class Refused(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The error of a call, from the worker: the arguments of a HubwireError."""

    reason: str
    text: str


Payload = NDArray[np.uint8]
MAX_REFUSED_BYTES = 8_192
"""More than a Refused takes, whose text is cut; a larger payload is an answer, and need not be decoded to know it."""
_calls = msgspec.msgpack.Decoder(Call)
_answers = msgspec.msgpack.Decoder(Answered | Refused)
_encoder = msgspec.msgpack.Encoder()


def pack(part: PipelineInput | dict[str, Any]) -> msgspec.Raw:
    """An input or parameters, encoded for a PackedCall."""
    return msgspec.Raw(_encoder.encode(part))


def to_payload(message: Call | PackedCall | Answered | Refused) -> Payload:
    """The bytes of a message as an array, which is what frames carry."""
    return np.frombuffer(_encoder.encode(message), dtype=np.uint8)


def read_call(payload: Payload) -> Call:
    """The call in a payload."""
    return _calls.decode(payload.data)


def read_answer(payload: Payload) -> PipelineOutput | HubwireError:
    """The answer in a payload, or its error."""
    answer = _answers.decode(payload.data)
    return HubwireError(Reason(answer.reason), answer.text) if isinstance(answer, Refused) else answer
