"""What every task on texts does with a request: tokens, admission, batches that it shares with other requests, the answer as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from hubwire_server.errors import HubwireError
from hubwire_server.models.registry import ReadyModel, Registry
from hubwire_server.scheduling.executor import Executor
from hubwire_server.scheduling.item import BatchKey, Item, Output, Sink, TokenArrays
from hubwire_server.tasks.answer import Timings, Usage
from hubwire_server.tasks.gather import Gather
from hubwire_server.tasks.texts import MAX_WINDOW_TOKENS, MAX_WINDOWS, Caller, Reading, Texts, Tokenized, too_many_windows

Extras = Callable[[Tokenized], Sequence[NDArray[Any]] | None]
"""What the worker needs of each row besides its tokens: one array a row, or None where that is nothing. Raises HubwireError where a text
does not have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextWork:
    """Texts to be computed by one model. They were checked; field is where they are in the request.

    pairs is the second text of each; words is the words of each, where the caller split them. extras is called once tokens are there.
    """

    model: ReadyModel
    key: BatchKey
    reading: Reading
    texts: Sequence[str]
    pairs: Sequence[str] | None = None
    words: Sequence[Sequence[str]] | None = None
    extras: Extras = lambda tokenized: None
    field: str = "texts"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedTexts:
    """The output of each row of tokenized.batch, in that order."""

    tokenized: Tokenized
    outputs: Sequence[Output]
    usage: Usage
    timings: Timings

    def array(self, index: int = 0) -> NDArray[Any]:
        """One array of the outputs of all rows: a row a row, or, where an operation gives a row a token, a row a token."""
        arrays = [output[index] for output in self.outputs]
        if arrays[0].ndim == 1:
            return np.stack(arrays) if len(arrays) > 1 else arrays[0][None]
        return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


class Closable(Protocol):
    """A stream (stream.py), as far as tasks know it."""

    def close(self, error: HubwireError) -> None:
        """Ends it with an error."""
        ...


class TextTask:
    """Computes texts with the models of a registry on an executor. All tasks on texts share one."""

    def __init__(self, registry: Registry, executor: Executor, texts: Texts) -> None:
        self.registry = registry
        self.executor = executor
        self.texts = texts
        self.streams: WeakSet[Closable] = WeakSet()

    def close(self, error: HubwireError) -> None:
        """Ends every stream with an error, after what it accepted is answered."""
        for stream in list(self.streams):
            stream.close(error)

    async def compute(self, work: TextWork, caller: Caller, arrived_ns: int) -> ComputedTexts:
        """Computes all texts, or raises HubwireError for the first that cannot be. arrived_ns is when the request came, on the clock of
        time.perf_counter_ns."""
        # A text has a token at least: where not even those fit, there is no need to count them.
        self.executor.check(len(work.texts))
        decode_ns = time.perf_counter_ns() - arrived_ns
        model = work.model
        if work.reading.windows is not None:
            self.texts.check_windows(work.texts, work.pairs)
        with self.registry.lease(model):
            tokenized = await self.texts.tokenize(model, work.texts, work.reading, pairs=work.pairs, words=work.words)
            if tokenized.too_long:
                index = tokenized.too_long[0]
                raise tokenized.too_long_error(index, f"{work.field}[{index}]")
            if work.reading.windows is not None:
                _check_windows(tokenized)
            extras = work.extras(tokenized)
            self.registry.check_served(model, leased=True)
            timings = Timings(decode_ns=decode_ns, tokenize_ns=tokenized.elapsed_ns)
            sources = tokenized.batch.sources
            gather = Gather(model.name, len(sources), timings, lambda row: f"{work.field}[{sources[row]}]")
            items = make_items(work.key, tokenized, range(len(sources)), extras, caller, gather)
            permit = self.executor.admit(len(tokenized.batch.ids))
            self.executor.submit(items, permit)
            try:
                await gather.done
            except BaseException:
                self.executor.cancel(items)
                # The future in gather keeps the error, and the traceback of the error this frame: with these names the texts would be in
                # a cycle, which holds them until the collector comes by.
                del gather, items
                raise
        return ComputedTexts(tokenized=tokenized, outputs=gather.outputs, usage=usage_of(tokenized), timings=timings)


def batch_key(model: ReadyModel, operation: str, option: str = "") -> BatchKey:
    """What texts must share to be computed together."""
    return BatchKey(model.key, operation, option, padded=not model.description.packed)


def make_items(
    key: BatchKey, tokenized: Tokenized, rows: Sequence[int], extras: Sequence[NDArray[Any]] | None, caller: Caller, sink: Sink
) -> list[Item]:
    """Rows of a tokenized batch as work for the scheduler, without their permit. The index of each is that of its row."""
    batch = tokenized.batch
    ids, type_ids, offsets = batch.ids, batch.type_ids, batch.offsets.tolist()
    items = []
    for row in rows:
        low, high = offsets[row], offsets[row + 1]
        work = TokenArrays(ids[low:high], type_ids[low:high], None if extras is None else extras[row])
        items.append(Item(key, high - low, caller.client, caller.deadline_ns, sink, row, work))
    return items


def usage_of(tokenized: Tokenized) -> Usage:
    """What the texts consumed."""
    return Usage(input_tokens=len(tokenized.batch.ids), truncated_texts=int(np.count_nonzero(tokenized.truncated)))


def _check_windows(tokenized: Tokenized) -> None:
    """Raises HubwireError where a request is read in more windows than one may take: a short text with tiny windows makes thousands."""
    for count, limit, what in (
        (len(tokenized.batch.sources), MAX_WINDOWS, "windows"),
        (len(tokenized.batch.ids), MAX_WINDOW_TOKENS, "tokens"),
    ):
        if count > limit:
            raise too_many_windows(count, limit, what)
