"""From a ragged batch to rectangles: sorting texts by length, and cutting the sorted ones so that little of a rectangle is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_PADDING = 0.2
"""The largest part of a micro-batch that may be padding: that of the scheduler's planner, which backends may not import."""

MAX_PAIRS = 1 << 15
"""The most pairs of tokens whose attention a micro-batch computes: 85 texts of 12 tokens keep far below it, 8 of 64 reach it, 3 of 128 are
above it. Beyond it attention no longer fits a core's cache, and company gains a text nothing. Measured with MiniLM on mixed lengths: 6 %
more texts a second than without this limit.
"""


@dataclass(frozen=True, slots=True)
class TokenOrder:
    """The tokens of a batch in the order of their texts' lengths. lengths has one entry a text that has tokens, and does not fall."""

    lengths: NDArray[np.int64]
    _tokens: NDArray[np.int64] | None
    """Where each sorted token stands in the batch; None where the batch is sorted, and then texts is None, too."""
    _texts: NDArray[np.int64] | None = None
    """Which text of the batch each sorted one is, those without tokens included."""

    @classmethod
    def by_length(cls, offsets: NDArray[np.int64]) -> TokenOrder:
        """The order of a batch with these offsets. Texts of equal length keep their order."""
        lengths = np.diff(offsets)
        if not (lengths[1:] < lengths[:-1]).any():
            return cls(lengths[lengths > 0], None, None)
        texts = np.argsort(lengths, kind="stable")
        ordered = lengths[texts]
        starts = np.cumsum(ordered) - ordered
        return cls(ordered[ordered > 0], np.repeat(offsets[:-1][texts] - starts, ordered) + np.arange(offsets[-1]), texts)

    @property
    def is_sorted(self) -> bool:
        """Whether the batch is in this order already."""
        return self._tokens is None

    def sort(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        """Values of the batch's tokens, shape (T,), in this order."""
        return values if self._tokens is None else values[self._tokens]

    def places(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Where chosen tokens of the batch stand in this order, ascending; and for each of them which of rows it is, None where the two
        are in the same order.
        """
        if self._tokens is None:
            return rows, None
        places = np.empty_like(self._tokens)
        places[self._tokens] = np.arange(len(places))
        which = np.argsort(places[rows])
        return places[rows][which], which

    def restore(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """A row a token in this order as the batch has its tokens."""
        return _scatter(values, self._tokens)

    def restore_texts(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """A row a text in this order as the batch has its texts, all of which have tokens."""
        return _scatter(values, self._texts)


def _scatter(values: NDArray[np.float32], places: NDArray[np.int64] | None) -> NDArray[np.float32]:
    if places is None:
        return values
    scattered = np.empty_like(values)
    scattered[places] = values
    return scattered


def cut(lengths: Sequence[int] | NDArray[np.int64], budget_tokens: int, max_texts: int | None = None) -> list[tuple[int, int]]:
    """Cuts texts, whose lengths do not fall, into runs [first, last) of neighbours: each pads at most MAX_PADDING, takes at most
    budget_tokens tokens and MAX_PAIRS pairs with its padding unless it is a single text, and holds at most max_texts texts.
    """
    runs = []
    first = real = 0
    for text, length in enumerate(np.asarray(lengths).tolist()):
        taken = text - first + 1
        rectangle = taken * length
        full = rectangle > budget_tokens or rectangle * length > MAX_PAIRS or (max_texts is not None and taken > max_texts)
        if taken > 1 and (full or real + length < (1 - MAX_PADDING) * rectangle):
            runs.append((first, text))
            first, real = text, 0
        real += length
    if len(lengths):
        runs.append((first, len(lengths)))
    return runs
