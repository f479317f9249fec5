"""What a pipeline returns, as JSON and blobs: no pickle, no Python objects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image

from hubwire_server.backends.pipeline import media
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.pipelines import Answered, Blob

MAX_OUTPUT_BYTES = 268_435_456
"""What the blobs of one answer may hold. Few clients take as much."""
MAX_OUTPUT_VALUES = 1_000_000
"""The most numbers, texts and names in an answer outside of blobs."""


def to_answer(output: Any) -> Answered:
    """The answer that holds an output. Raises HubwireError: OUTPUT_NOT_FINITE, PIPELINE_INPUT_INVALID where it is too large, or INTERNAL
    for a type that no JSON holds."""
    converter = _Converter()
    value = converter.convert(output)
    return Answered(value=value, blobs=tuple(converter.blobs))


class _Converter:
    def __init__(self) -> None:
        self.blobs: list[Blob] = []
        self._bytes = 0
        self._values = 0

    def convert(self, value: Any) -> Any:
        """The value as JSON has it."""
        self._values += 1
        if self._values > MAX_OUTPUT_VALUES:
            raise HubwireError(Reason.PIPELINE_INPUT_INVALID, f"the answer would have more than {MAX_OUTPUT_VALUES} values")
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int | float | np.generic):
            return _number(value)
        if isinstance(value, dict):  # also the outputs of models
            return {str(key): self.convert(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set):
            return [self.convert(inner) for inner in value]
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu()
            value = (value.float() if value.dtype is torch.bfloat16 else value).numpy()
        if isinstance(value, np.ndarray):
            return _number(value[()]) if value.ndim == 0 else self._add(media.array_blob(value))
        if isinstance(value, Image.Image):
            return self._add(media.image_blob(value))
        if isinstance(value, bytes):
            return self._add(Blob(data=value, media_type="application/octet-stream"))
        if hasattr(value, "messages"):  # transformers' Chat
            return self.convert(value.messages)
        raise HubwireError(Reason.INTERNAL, f"the pipeline returned a {type(value).__name__}")

    def _add(self, blob: Blob) -> str:
        self._bytes += len(blob.data)
        if self._bytes > MAX_OUTPUT_BYTES:
            text = f"the answer would have more than {MAX_OUTPUT_BYTES} bytes of arrays and images"
            raise HubwireError(Reason.PIPELINE_INPUT_INVALID, text)
        self.blobs.append(blob)
        return f"blob:{len(self.blobs) - 1}"


def _number(value: Any) -> Any:
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, float) and not math.isfinite(number):
        raise HubwireError(Reason.OUTPUT_NOT_FINITE, "the pipeline returned NaN or infinity")
    return number
