"""The onnx backend: an exported model on a CPU, without torch.

A batch runs as one or more rectangles of ids: its texts are sorted by length and cut into micro-batches (microbatches.py), each of which is
one run of the session. What the scheduler sends is sorted already and mostly one rectangle, so that nothing has to be put back into order.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubwire_server.backends.base import BackendDescription, Head, RaggedBatch
from hubwire_server.backends.onnx.info import OnnxInfo
from hubwire_server.backends.onnx.microbatches import TokenOrder, cut
from hubwire_server.backends.onnx.session import SessionOptions, cores, open_session, run_options
from hubwire_server.errors import HubwireError, Reason

MEMORY_RETRY_AFTER_MS = 1000
"""When a text that did not fit into memory may be tried again."""

BATCH_TOKENS = 1024
"""The most tokens of a micro-batch, padding included: larger ones fall out of the cores' caches and are slower."""

TRIM_ABOVE_TOKENS = 2 * BATCH_TOKENS
"""Single texts that are longer than this give the memory of their run back, since attention takes the square of their length. With 12 heads
a text of 4,096 tokens leaves 4.4 GB behind, or 200 MB with this; it then takes 1.3 instead of 0.8 s, which is why shorter ones do not.
"""

_Ids = NDArray[np.int32]
_Rectangle = NDArray[np.int64]


class OnnxBackend:
    """One exported model. Not safe for use by two threads at once.

    folder holds the graph, and info is what read_info finds there. budget_tokens is the size of a micro-batch; one text is always taken,
    however long it is. Raises HubwireError (MODEL_LOAD_FAILED) where ONNX Runtime cannot open the graph.
    """

    def __init__(self, folder: Path, info: OnnxInfo, options: SessionOptions, *, budget_tokens: int = BATCH_TOKENS) -> None:
        self._session = open_session(folder, options)
        self._core = cores(options)[:1]
        self._info = info
        self._outputs = list(info.outputs[:1])
        self._options = run_options()
        self._trimming_options = run_options(trim_memory=True)
        self._budget = budget_tokens
        # The scale of int8 activations spans the whole rectangle, so a text's answer would depend on what it is computed with.
        self._texts = 1 if info.dtype == "int8" else None
        self.description = BackendDescription(
            backend="onnx",
            architecture=info.architecture,
            device="cpu",
            dtype=info.dtype,
            head=Head.BODY,
            row_size=info.hidden_size,
            max_tokens=info.max_tokens,
            packed=False,
            packed_note="",
        )

    def forward(self, batch: RaggedBatch, rows: NDArray[np.int64] | None = None) -> tuple[NDArray[Any], str]:
        """The last hidden states of all tokens (base.py), always in float32. A micro-batch that does not fit into memory is halved, down to
        single texts.

        Raises HubwireError: OVERLOADED where a single text does not fit, or the hidden states of all do not, INTERNAL where a token has no
        embedding.
        """
        hidden = self._forward(batch)
        return hidden if rows is None else hidden[rows], "float32"

    def _forward(self, batch: RaggedBatch) -> NDArray[np.float32]:
        self._check_vocabulary(batch)
        if not len(batch.ids):
            return np.empty((0, self._info.hidden_size), np.float32)
        if len(batch.offsets) == 2:  # one text: nothing to sort, to fill up or to put back
            return self._run_halving(batch.ids, batch.type_ids, np.array([len(batch.ids)]))[0]
        order = TokenOrder.by_length(batch.offsets)
        ids, type_ids = order.sort(batch.ids), order.sort(batch.type_ids)
        parts = []
        stop = 0
        for first, last in cut(order.lengths, self._budget, self._texts):
            lengths = order.lengths[first:last]
            start, stop = stop, stop + int(lengths.sum())
            parts += self._run_halving(ids[start:stop], type_ids[start:stop], lengths)
        try:
            return order.restore(parts[0] if len(parts) == 1 else np.concatenate(parts))
        except MemoryError as error:
            raise _too_little_memory(f"a batch of {len(ids)} tokens") from error

    def close(self) -> None:
        """Frees the model's memory. The backend cannot be used after it."""
        del self._session

    def _run_halving(self, ids: _Ids, type_ids: _Ids, lengths: NDArray[np.int64], *, trim: bool = False) -> list[NDArray[np.float32]]:
        """The hidden states of texts whose lengths do not fall, in one part, or in several where the memory was too small for one."""
        try:
            hidden = self._run(ids, type_ids, lengths, trim)
            # ONNX Runtime's memory holds what it returns, and cannot be given back while that is in use.
            return [hidden.copy() if trim else hidden]
        except Exception as error:
            # ONNX Runtime raises plain exceptions of its own, and MemoryError where it is Python that finds no memory.
            if not _is_out_of_memory(error):
                raise
        if len(lengths) == 1:
            raise _too_little_memory(f"a text of {len(ids)} tokens")
        half = len(lengths) // 2
        middle = int(lengths[:half].sum())
        # What the run had got before it failed is still held, in pieces of the wrong size: each half gives its memory back.
        first = self._run_halving(ids[:middle], type_ids[:middle], lengths[:half], trim=True)
        return first + self._run_halving(ids[middle:], type_ids[middle:], lengths[half:], trim=True)

    def _run(self, ids: _Ids, type_ids: _Ids, lengths: NDArray[np.int64], trim: bool) -> NDArray[np.float32]:
        """One run of the session: the hidden states of all tokens, shape (T, hidden_size)."""
        count, longest = len(lengths), int(lengths[-1])
        if len(ids) == count * longest:
            hidden = self._run_rectangle(
                ids.astype(np.int64).reshape(count, longest),
                type_ids.astype(np.int64).reshape(count, longest),
                np.ones((count, longest), np.int64),
                trim,
            )
            return hidden.reshape(-1, hidden.shape[-1])
        mask = np.arange(longest) < lengths[:, None]
        padded = np.full(mask.shape, self._info.pad_id, np.int64)
        padded[mask] = ids
        padded_types = np.zeros(mask.shape, np.int64)
        padded_types[mask] = type_ids
        kept: NDArray[np.float32] = self._run_rectangle(padded, padded_types, mask.astype(np.int64), trim)[mask]
        return kept

    def _run_rectangle(self, ids: _Rectangle, type_ids: _Rectangle, mask: _Rectangle, trim: bool) -> NDArray[np.float32]:
        feeds = {"input_ids": ids, "attention_mask": mask}
        if self._info.takes_type_ids:
            feeds["token_type_ids"] = type_ids
        options = self._trimming_options if trim or ids.size > TRIM_ABOVE_TOKENS else self._options
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


def _too_little_memory(what: str) -> HubwireError:
    return HubwireError(Reason.OVERLOADED, f"the machine has too little memory for {what}", retry_after_ms=MEMORY_RETRY_AFTER_MS)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "Failed to allocate memory" in text or "bad_alloc" in text
