"""How close a candidate is to torch in float32: by the vectors of an embedding model, by the outputs of a task head.

What is compared is what a caller gets of it. An embedding is a direction, and so its cosine counts. A score comes out of single logits, so
the largest difference of any of them counts too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubwire_server.backends.base import Backend, Head, RaggedBatch
from hubwire_server.backends.calibration import EQUAL_COSINE, MIN_COSINE
from hubwire_server.backends.embedding_head import EmbeddingHead
from hubwire_server.backends.rows import probe_rows
from hubwire_server.backends.sentence_folder import SentenceFolder

EQUAL_DIFFERENCE = 1e-4
"""The largest difference that outputs of a head in float32 may have to those of torch, in root mean squares of these. Measured: 1e-6 to
2e-5.
"""


class VectorComparer:
    """Compares the vectors of the model in a folder. See source.Comparer."""

    def __init__(self, folder: SentenceFolder, *, allow_pickle: bool) -> None:
        self._folder = folder
        self._allow_pickle = allow_pickle
        self._head: EmbeddingHead | None = None

    def outputs(self, backend: Backend, texts: RaggedBatch) -> NDArray[np.float32]:
        """One vector a text."""
        if self._head is None:
            size = backend.description.row_size
            self._head = EmbeddingHead.from_sentence_folder(self._folder, hidden_size=size, allow_pickle=self._allow_pickle)
        hidden, dtype = backend.forward(texts)
        return self._head.pool(hidden, dtype, texts.offsets)

    def compare(self, expected: NDArray[np.float32], outputs: NDArray[np.float32]) -> float:
        """The lowest cosine of any text."""
        return lowest_cosine(expected, outputs)

    def refusal(self, expected: NDArray[np.float32], outputs: NDArray[np.float32], dtype: str) -> str:
        """int8 is only here where it was asked for, and then whatever it is."""
        least = {"float32": EQUAL_COSINE, "int8": -1.0}.get(dtype, MIN_COSINE)
        return "" if self.compare(expected, outputs) >= least else f"not equal enough: a cosine of {least} is needed"


class OutputComparer:
    """Compares the outputs of a task head. See source.Comparer."""

    def __init__(self, head: Head) -> None:
        self._head = head

    def outputs(self, backend: Backend, texts: RaggedBatch) -> NDArray[np.float32]:
        """The outputs, of some tokens alone where a row is as wide as a vocabulary."""
        return to_float32(*backend.forward(texts, probe_rows(self._head, texts))).copy()  # valid until the next call only

    def compare(self, expected: NDArray[np.float32], outputs: NDArray[np.float32]) -> float:
        """The cosine of all outputs in one."""
        return lowest_cosine(expected.reshape(1, -1), outputs.reshape(1, -1))

    def refusal(self, expected: NDArray[np.float32], outputs: NDArray[np.float32], dtype: str) -> str:
        """A lower precision is only here where it was asked for, and then whatever it is."""
        difference = relative_difference(expected, outputs)
        if dtype == "float32" and not difference <= EQUAL_DIFFERENCE:  # not, so that NaN is a difference
            return f"not equal enough: an output differs by {difference:.1e} root mean squares, and {EQUAL_DIFFERENCE:.0e} is allowed"
        return ""


def lowest_cosine(expected: NDArray[np.float32], vectors: NDArray[np.float32]) -> float:
    """The lowest cosine of two rows, both of shape (n, d). Two rows of zeros are equal."""
    a, b = expected.astype(np.float64), vectors.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.where(norms > 0, np.einsum("nd,nd->n", a, b) / np.maximum(norms, 1e-30), (a == b).all(axis=1))
    return float(cosines.min())


def relative_difference(expected: NDArray[np.float32], outputs: NDArray[np.float32]) -> float:
    """The largest difference, in root mean squares of what is expected."""
    scale = np.sqrt(np.mean(np.square(expected, dtype=np.float64)))
    return float(np.abs(expected.astype(np.float64) - outputs).max() / max(scale, 1e-12))


def to_float32(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """The values of an array of any of a backend's dtypes (base.py)."""
    if dtype == "bfloat16":  # its 16 bits are the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)
