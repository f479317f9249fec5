"""Which texts and tokens the rows of a backend's output belong to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hubwire_server.backends.base import Head, RaggedBatch, RowKind
from hubwire_server.errors import HubwireError, Reason

Rows = NDArray[np.int64] | None
"""The places of chosen tokens in a batch, ascending; None for all of them."""


def part(batch: RaggedBatch, rows: Rows, first: int, last: int) -> tuple[RaggedBatch, Rows]:
    """The texts first to last of a batch, the last one excluded, and those of the chosen tokens that are in them."""
    start, stop = batch.offsets[first], batch.offsets[last]
    texts = RaggedBatch(ids=batch.ids[start:stop], type_ids=batch.type_ids[start:stop], offsets=batch.offsets[first : last + 1] - start)
    return texts, rows if rows is None else within(rows, start, stop)


def within(rows: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    """The chosen tokens of start to stop, stop excluded, counted from start."""
    low, high = np.searchsorted(rows, (start, stop))
    return rows[low:high] - start


def count(head: Head, batch: RaggedBatch, rows: Rows) -> int:
    """How many rows the output for a batch has."""
    if head.row_kind is RowKind.TEXT:
        return len(batch.offsets) - 1
    return len(batch.ids) if rows is None else len(rows)


def texts_of(head: Head, batch: RaggedBatch, rows: Rows) -> NDArray[np.int64]:
    """The text that each row of the output belongs to."""
    texts = np.arange(len(batch.offsets) - 1)
    if head.row_kind is RowKind.TEXT:
        return texts
    return np.repeat(texts, np.diff(batch.offsets)) if rows is None else np.searchsorted(batch.offsets, rows, side="right") - 1


def probe_rows(head: Head, batch: RaggedBatch) -> Rows:
    """The tokens that a check looks at, and that are timed: one in the middle of each text where a row is as wide as a vocabulary, else
    all. What a text's neighbours must not move shows in any of its tokens.
    """
    if head is not Head.MASKED_LM:
        return None
    return (batch.offsets[:-1] + batch.offsets[1:]) // 2


def check(head: Head, batch: RaggedBatch, rows: Rows) -> None:
    """Refuses what no backend can compute. Raises HubwireError (TEXT_EMPTY) for a text without tokens where each text has a row, and
    ValueError for rows that do not go with the head.
    """
    if head.row_kind is RowKind.TEXT:
        if rows is not None:
            raise ValueError(f"{head} gives a row a text, of which none can be left out")
        empty = np.flatnonzero(np.diff(batch.offsets) == 0)
        if len(empty):
            raise HubwireError(Reason.TEXT_EMPTY, "the text has no tokens", metadata={"index": str(empty[0])})
