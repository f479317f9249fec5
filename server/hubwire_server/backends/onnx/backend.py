"""The onnx backend: an exported model on a CPU, without torch.

A batch runs as one or more rectangles of ids: its texts are sorted by length and cut into micro-batches (microbatches.py), each of which is
one run of the session. What the scheduler sends is sorted already and mostly one rectangle, so that nothing has to be put back into order.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubwire_server.backends.base import BackendDescription, Head, RaggedBatch, RowKind
from hubwire_server.backends.onnx.info import OnnxInfo
from hubwire_server.backends.onnx.microbatches import TokenOrder, cut
from hubwire_server.backends.onnx.session import SessionOptions, cores, open_session, run_options
from hubwire_server.backends.rows import Rows, check, count, within
from hubwire_server.errors import HubwireError, Reason

MEMORY_RETRY_AFTER_MS = 1000
"""When a text that did not fit into memory may be tried again."""

BATCH_TOKENS = 1024
"""The most tokens of a micro-batch, padding included: larger ones fall out of the cores' caches and are slower."""

TRIM_ABOVE_TOKENS = 2 * BATCH_TOKENS
"""Single texts that are longer than this give the memory of their run back, since attention takes the square of their length. With 12 heads
a text of 4,096 tokens leaves 4.4 GB behind, or 200 MB with this; it then takes 1.3 instead of 0.8 s, which is why shorter ones do not.
"""

MAX_VALUES = 1 << 24
"""About the most values that a run gives, unless it is of a single text: 64 MB. A row of a masked language model is as wide as its
vocabulary.
"""


@dataclass(frozen=True, slots=True)
class _Texts:
    """Sorted texts of a batch, and the places in them of the tokens that go through the head."""

    ids: NDArray[np.int32]
    type_ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    rows: Rows

    @property
    def is_wanted(self) -> bool:
        """Whether they give any row."""
        return self.rows is None or len(self.rows) > 0

    def part(self, first: int, last: int, start: int) -> _Texts:
        """The texts first to last, the last one excluded, of which start is the place of the first token."""
        lengths = self.lengths[first:last]
        stop = start + int(lengths.sum())
        rows = None if self.rows is None else within(self.rows, start, stop)
        return _Texts(self.ids[start:stop], self.type_ids[start:stop], lengths, rows)

    def halves(self) -> tuple[_Texts, _Texts]:
        """The shorter and the longer ones."""
        half = len(self.lengths) // 2
        middle = int(self.lengths[:half].sum())
        return self.part(0, half, 0), self.part(half, len(self.lengths), middle)


class OnnxBackend:
    """One exported model. Not safe for use by two threads at once.

    folder holds the graph, and info is what read_info finds there. budget_tokens is the size of a micro-batch; one text is always taken,
    however long it is. Raises HubwireError (MODEL_LOAD_FAILED) where ONNX Runtime cannot open the graph.
    """

    def __init__(self, folder: Path, info: OnnxInfo, options: SessionOptions, *, budget_tokens: int = BATCH_TOKENS) -> None:
        self._session = open_session(folder, options)
        self._core = cores(options)[:1]
        self._info = info
        self._outputs = [output.name for output in self._session.get_outputs()][:1]
        self._options = run_options()
        self._trimming_options = run_options(trim_memory=True)
        self._budget = budget_tokens
        self.description = BackendDescription(
            backend="onnx",
            architecture=info.architecture,
            device="cpu",
            dtype=info.dtype,
            head=info.head,
            row_size=info.row_size,
            max_tokens=info.max_tokens,
            packed=False,
            packed_note="",
        )

    def forward(self, batch: RaggedBatch, rows: NDArray[np.int64] | None = None) -> tuple[NDArray[Any], str]:
        """The output of the head (base.py), always in float32. A micro-batch that does not fit into memory is halved, down to single texts.

        Raises HubwireError: OVERLOADED where a single text does not fit, or the output of all does not, INTERNAL where a token has no
        embedding, and what rows.check refuses.
        """
        head = self._info.head
        check(head, batch, rows)
        self._check_vocabulary(batch)
        wanted = count(head, batch, rows)
        if not wanted:
            return np.empty((0, self._info.row_size), np.float32), "float32"
        if len(batch.offsets) == 2:  # one text: nothing to sort, to fill up or to put back
            return self._run_halving(_Texts(batch.ids, batch.type_ids, np.array([len(batch.ids)]), rows))[0], "float32"
        order = TokenOrder.by_length(batch.offsets)
        places, which = (None, None) if rows is None else order.places(rows)
        texts = _Texts(order.sort(batch.ids), order.sort(batch.type_ids), order.lengths, places)
        try:
            budget = self._budget if wanted * self._info.row_size <= MAX_VALUES else self._narrow_budget
            values = self._run_all(texts, budget, 1 if self._is_apart(batch) else None)
            return self._restore(order, values, which), "float32"
        except MemoryError as error:
            raise _too_little_memory(f"a batch of {len(batch.ids)} tokens") from error

    @property
    def _narrow_budget(self) -> int:
        """The size of a micro-batch of which every token gives a row, for rows that are wide."""
        return min(self._budget, max(1, MAX_VALUES // self._info.row_size))

    def _is_apart(self, batch: RaggedBatch) -> bool:
        """Whether no two texts may run in one rectangle."""
        # The scale of int8 activations spans the whole rectangle, so a text's answer would depend on what it is computed with.
        if self._info.dtype == "int8":
            return True
        if self._info.eos_id < 0:
            return False
        counts = np.add.reduceat(batch.ids == self._info.eos_id, batch.offsets[:-1], dtype=np.int64)
        return bool((counts != counts[0]).any())

    def _run_all(self, texts: _Texts, budget: int, max_texts: int | None) -> NDArray[np.float32]:
        parts = []
        start = 0
        for first, last in cut(texts.lengths, budget, max_texts):
            part = texts.part(first, last, start)
            start += len(part.ids)
            if part.is_wanted:
                parts += self._run_halving(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _restore(self, order: TokenOrder, values: NDArray[np.float32], which: Rows) -> NDArray[np.float32]:
        """Rows in the order of a batch."""
        if self._info.head.row_kind is RowKind.TEXT:
            return order.restore_texts(values)
        if which is None:
            return values if order.is_sorted else order.restore(values)
        restored = np.empty_like(values)
        restored[which] = values
        return restored

    def close(self) -> None:
        """Frees the model's memory. The backend cannot be used after it."""
        del self._session

    def _run_halving(self, texts: _Texts, *, trim: bool = False) -> list[NDArray[np.float32]]:
        """The rows of texts whose lengths do not fall, in one part, or in several where the memory was too small for one."""
        try:
            values = self._run(texts, trim)
            # ONNX Runtime's memory holds what it returns, and cannot be given back while that is in use.
            return [values.copy() if trim else values]
        except Exception as error:
            # ONNX Runtime raises plain exceptions of its own, and MemoryError where it is Python that finds no memory.
            if not _is_out_of_memory(error):
                raise
        if len(texts.lengths) == 1:
            raise _too_little_memory(f"a text of {len(texts.ids)} tokens")
        # What the run had got before it failed is still held, in pieces of the wrong size: each half gives its memory back.
        return [values for half in texts.halves() if half.is_wanted for values in self._run_halving(half, trim=True)]

    def _run(self, texts: _Texts, trim: bool) -> NDArray[np.float32]:
        """One run of the session: a row a text, or a row a token that goes through the head."""
        shape = (len(texts.lengths), int(texts.lengths[-1]))
        mask = None if len(texts.ids) == shape[0] * shape[1] else np.arange(shape[1]) < texts.lengths[:, None]
        feeds = {
            "input_ids": _rectangle(texts.ids, shape, mask, self._info.pad_id),
            "attention_mask": np.ones(shape, np.int64) if mask is None else mask.astype(np.int64),
        }
        if self._info.takes_type_ids:
            feeds["token_type_ids"] = _rectangle(texts.type_ids, shape, mask, 0)
        if self._info.head.row_kind is RowKind.TEXT:
            return self._run_session(feeds, trim)
        if self._info.head is not Head.BODY:
            places = np.arange(len(texts.ids)) if mask is None else np.flatnonzero(mask)
            return self._run_session({**feeds, "positions": places if texts.rows is None else places[texts.rows]}, trim)
        hidden = self._run_session(feeds, trim)
        tokens: NDArray[np.float32] = hidden.reshape(-1, hidden.shape[-1]) if mask is None else hidden[mask]
        return tokens if texts.rows is None else tokens[texts.rows]

    def _run_session(self, feeds: dict[str, NDArray[np.int64]], trim: bool) -> NDArray[np.float32]:
        options = self._trimming_options if trim or feeds["input_ids"].size > TRIM_ABOVE_TOKENS else self._options
        # Only during the run: threads that others start from this one, such as torch's, would inherit it.
        before = self._go_to_core()
        try:
            return self._session.run(self._outputs, feeds, options)[0]  # type: ignore[no-any-return]  # it ships no types
        finally:
            self._go_back(before)

    def _go_to_core(self) -> set[int]:
        """Ties this thread to its core, if it has one. Returns the cores that it could use before, or none where it still can.

        The cores of a process may be changed while it runs. Where its own is gone, the thread does without from then on.
        """
        if not self._core:
            return set()
        try:
            before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, self._core)
        except OSError:
            self._core = []
            return set()
        return before

    def _go_back(self, before: set[int]) -> None:
        if before:
            try:
                os.sched_setaffinity(0, before)
            except OSError:  # all of them were taken away during the run, and the kernel has given the thread others
                self._core = []

    def _check_vocabulary(self, batch: RaggedBatch) -> None:
        """A tokenizer that knows more tokens than the model would make the run fail, or count ids below zero from the end."""
        # Read without their sign, ids below zero are above all others: one pass finds both kinds.
        unsigned = batch.ids.view(np.uint32)
        if len(unsigned) and unsigned.max() >= self._info.vocabulary_size:
            position = int(np.argmax(unsigned >= self._info.vocabulary_size))
            text = int(np.searchsorted(batch.offsets, position, side="right")) - 1
            raise HubwireError(
                Reason.INTERNAL,
                f"the tokenizer gives token {batch.ids[position]}, but the model has {self._info.vocabulary_size} embeddings",
                metadata={"index": str(text)},
            )


def _rectangle(values: NDArray[np.int32], shape: tuple[int, int], mask: NDArray[np.bool_] | None, fill: int) -> NDArray[np.int64]:
    """The values of texts one after the other as a rectangle, filled up where mask is False."""
    if mask is None:
        return values.astype(np.int64).reshape(shape)
    rectangle = np.full(shape, fill, np.int64)
    rectangle[mask] = values
    return rectangle


def _too_little_memory(what: str) -> HubwireError:
    return HubwireError(Reason.OVERLOADED, f"the machine has too little memory for {what}", retry_after_ms=MEMORY_RETRY_AFTER_MS)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "Failed to allocate memory" in text or "bad_alloc" in text
