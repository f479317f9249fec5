"""The contract between the worker and an engine that runs models.

A backend turns a ragged batch of token ids into the last hidden states of those tokens, on the host. Everything around that (tokenization
in the front, pooling and the modules after it in the worker) is the same for every backend. Nothing here imports an engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

NO_LIMIT = 1 << 20
"""The max_tokens of a model that reads texts of any length, such as one with relative positions."""


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
    hidden_size: int
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

    def forward(self, batch: RaggedBatch) -> tuple[NDArray[Any], str]:
        """The last hidden states of all tokens, shape (T, hidden_size), C-contiguous on the host, and their dtype: "float32", "float16" or
        "bfloat16" (as uint16 bits). The array is only valid until the next call."""
        ...

    def close(self) -> None:
        """Frees the model's memory."""
        ...
