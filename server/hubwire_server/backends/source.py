"""What a Chooser has to know of a model before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hubwire_server.backends.base import Backend, Head, RaggedBatch


class Comparer(Protocol):
    """Tells how close what one backend gives is to what another gives."""

    def outputs(self, backend: Backend, texts: RaggedBatch) -> NDArray[np.float32]:
        """What is compared of these texts. Raises what the backend raises."""
        ...

    def compare(self, expected: NDArray[np.float32], outputs: NDArray[np.float32]) -> float:
        """The cosine that goes into the description of a candidate."""
        ...

    def refusal(self, expected: NDArray[np.float32], outputs: NDArray[np.float32], dtype: str) -> str:
        """Why outputs of a candidate in this number format are not equal enough; empty where they are."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model that can be loaded with a head. path is the folder of its transformer."""

    path: Path
    head: Head
    lowercase: bool
    """Whether texts are put into lower case before the tokenizer."""
    comparer: Comparer
