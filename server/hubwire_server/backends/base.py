"""The contract between the worker and an engine that runs models.

A backend turns a ragged batch of token ids into what one head of a model makes of them, on the host. Everything around that (tokenization
in the front, pooling and decoding in the worker) is the same for every backend. Nothing here imports an engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

NO_LIMIT = 1 << 20
"""The max_tokens of a model that reads texts of any length, such as one with relative positions."""


class RowKind(StrEnum):
    """What a row of a backend's output belongs to."""

    TEXT = "text"
    TOKEN = "token"


class Head(StrEnum):
    """The part of a model that gives the output. The values stand in names of files."""

    BODY = "body"
    """The last hidden states: (T, hidden_size)."""
    SEQUENCE_CLASSIFICATION = "sequence_classification"
    """A score for each label of each text: (n, labels)."""
    TOKEN_CLASSIFICATION = "token_classification"
    """A score for each label of each token: (T, labels)."""
    QUESTION_ANSWERING = "question_answering"
    """How well an answer begins and ends at each token: (T, 2), the start logit and the end logit."""
    MASKED_LM = "masked_lm"
    """A score for each token of the vocabulary in the place of each token: (T, vocabulary)."""

    @property
    def row_kind(self) -> RowKind:
        """What a row of this head's output belongs to."""
        return RowKind.TEXT if self is Head.SEQUENCE_CLASSIFICATION else RowKind.TOKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a model may be loaded.

    device is "auto", "cpu", "cuda:0" or "mps". backend is "auto", "torch" or "onnx"; dtype is "auto", "float32", "float16", "bfloat16" or
    "int8". What "auto" comes to on a CPU is measured at load (choice.py).
    """

    device: str = "cpu"
    backend: str = "auto"
    dtype: str = "auto"
    threads: int = 1
    """How many CPU threads the engine may use."""
    cache_dir: Path | None = None
    """Where exported graphs and measured choices are kept. None keeps neither, and runs models by torch alone."""
    allow_pickle: bool = False
    """Read weights that are pickled (pytorch_model.bin). A pickle can run code."""
    allow_remote_code: bool = False
    """Run the Python code that a model folder carries."""
    pipeline_task: str = ""
    """The pipeline of transformers that the model is loaded for. Not for models with a head."""


@dataclass(frozen=True, slots=True)
class RaggedBatch:
    """The tokens of n texts: ids and type_ids have shape (T,), offsets has shape (n + 1,)."""

    ids: NDArray[np.int32]
    type_ids: NDArray[np.int32]
    offsets: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A way in which a model could run on a CPU, and how it did at load. The fields are those of hubwire.v1.BackendCandidate."""

    backend: str
    dtype: str
    chosen: bool = False
    cosine: float = 0.0
    short_ns: int = 0
    mixed_ns: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendDescription:
    """What a loaded model is and how it runs."""

    backend: str
    architecture: str
    device: str
    dtype: str
    head: Head
    row_size: int
    """The number of values in a row of the output."""
    max_tokens: int
    """The longest text that the model itself reads, special tokens included, or NO_LIMIT."""
    packed: bool
    """Whether texts are computed without padding."""
    packed_note: str
    """How the check of packing at load came out, for people. Empty for a backend that always pads."""


class Backend(Protocol):
    """An engine that holds one model."""

    @property
    def description(self) -> BackendDescription:
        """What was loaded."""
        ...

    def forward(self, batch: RaggedBatch, rows: NDArray[np.int64] | None = None) -> tuple[NDArray[Any], str]:
        """The output of the head (Head), C-contiguous on the host, and its dtype: "float32", "float16" or "bfloat16" (as uint16 bits). The
        array is only valid until the next call.

        rows, shape (m,), are places of tokens in the batch, ascending. With them only those tokens go through the head, and the output has
        shape (m, row_size). They are not for a head that gives a row a text."""
        ...

    def close(self) -> None:
        """Frees the model's memory."""
        ...
