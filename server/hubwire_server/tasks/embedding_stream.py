"""Text to vectors, for a stream of any length with bounded memory.

    push() ─ checks ─ window ─ tokenize ─ permit ─ scheduler ─▶ finished ─▶ results()

The window bounds the texts that were read and whose results were not taken yet. A caller that does not read its results fills it, push()
waits, and the caller is not read from: that is the backpressure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.scheduling.item import Item, ItemTiming
from hubwire_server.tasks.answer import Timings, Usage
from hubwire_server.tasks.embedding import EmbeddingTask, EmbedPlan
from hubwire_server.tasks.texts import Caller

WINDOW_TEXTS = 512
"""Enough for several batches of short texts to be on their way, so that the device never waits for the network."""
MAX_RESPONSE_BYTES = 2_097_152
"""About as much as one message of results holds: gRPC clients take 4 MiB unless they are told otherwise."""
CHUNK_TEXTS = 128
"""How many texts of one message are tokenized at a time."""


@dataclass(eq=False, slots=True)
class StreamResult:
    """The outcome of one text: a vector of shape (dimensions,), or an error."""

    id: str
    sequence: int
    arrived_ns: int
    tokens: int = 0
    truncated: bool = False
    vector: NDArray[np.float32] | None = None
    error: HubwireError | None = None
    timing: ItemTiming | None = None
    decode_ns: int = 0
    tokenize_ns: int = 0


@dataclass(frozen=True, slots=True)
class StreamResults:
    """Results that became ready together, in the order in which they are to be sent."""

    results: Sequence[StreamResult]
    arrived_ns: int
    """When the message that brought the oldest of them arrived, on the clock of time.perf_counter_ns."""
    usage: Usage
    timings: Timings


class EmbedStream:
    """One stream: texts go in through push(), each comes out of results() exactly once."""

    def __init__(self, task: EmbeddingTask, plan: EmbedPlan, caller: Caller, *, ordered: bool) -> None:
        self._task = task
        self.plan = plan
        self._caller = caller
        self._ordered = ordered
        self._pushed = 0
        self._taken = 0
        self._input_closed = False
        self._waiting: dict[int, tuple[Item, StreamResult]] = {}
        self._finished: dict[int, StreamResult] = {}
        self._closed: HubwireError | None = None
        self._most_results = max(1, MAX_RESPONSE_BYTES // (4 * plan.format.dimensions))
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        task.streams.add(self)

    async def push(self, entries: Sequence[tuple[str, str]], arrived_ns: int) -> None:
        """Accepts (id, text) pairs, and returns once they are on their way. arrived_ns is when they came, on the clock of
        time.perf_counter_ns.

        Raises HubwireError where the stream cannot go on: its model is gone, or the server ends. What was accepted is answered first.
        """
        self._task.texts.check_count(len(entries), "items.items")
        decode_ns = time.perf_counter_ns() - arrived_ns
        for low in range(0, len(entries), CHUNK_TEXTS):
            await self._push_chunk(entries[low : low + CHUNK_TEXTS], arrived_ns, decode_ns)

    def close_input(self) -> None:
        """No more texts will come: results() ends when all are answered."""
        self._input_closed = True
        self._ready.set()

    def close(self, error: HubwireError) -> None:
        """Ends the stream with an error once everything that was accepted is answered."""
        self._closed = error
        self._ready.set()

    def abort(self) -> None:
        """Nobody waits any more: what is queued is dropped."""
        self._task.executor.cancel([item for item, _ in self._waiting.values()])
        self._waiting.clear()

    async def results(self) -> AsyncGenerator[StreamResults, None]:
        """The outcomes, as they become ready or in order. Raises what close was given."""
        while True:
            ready = self._take_ready()
            if ready:
                self._taken += len(ready)
                self._room.set()
                yield _collect(ready)
            elif self._closed is not None and self._taken == self._pushed:
                raise self._closed
            elif self._input_closed and self._taken == self._pushed:
                return
            else:
                self._ready.clear()
                await self._ready.wait()

    # Sink

    def deliver(self, item: Item, output: NDArray[np.float32], timing: ItemTiming) -> None:
        """See Sink. The row is copied: it would otherwise keep the memory of its whole batch."""
        _, result = self._waiting.pop(item.index)
        result.vector = output.copy()
        result.timing = timing
        self._finish(result)

    def fail(self, item: Item, error: HubwireError) -> None:
        """See Sink."""
        _, result = self._waiting.pop(item.index)
        self._finish(result, error)

    def _finish(self, result: StreamResult, error: HubwireError | None = None) -> None:
        if error is not None:
            result.error = error.about(field="text", model=self.plan.model.name)
        self._finished[result.sequence] = result
        self._ready.set()

    async def _push_chunk(self, entries: Sequence[tuple[str, str]], arrived_ns: int, decode_ns: int) -> None:
        while self._pushed - self._taken + len(entries) > WINDOW_TEXTS:
            self._room.clear()
            await self._room.wait()
        self._task.registry.check_served(self.plan.model)
        good: list[tuple[StreamResult, str]] = []
        for id_, text in entries:
            result = StreamResult(id_, self._pushed, arrived_ns, decode_ns=decode_ns)
            self._pushed += 1
            if (error := self._task.texts.text_error(text, "text")) is not None:
                self._finish(result, error)
            else:
                good.append((result, text))
        if not good:
            return
        unanswered = [result for result, _ in good]
        try:
            with self._task.registry.lease(self.plan.model):
                await self._submit(unanswered, [text for _, text in good])
        except BaseException as raised:
            # Every text that was accepted has its answer, whatever ends the stream.
            error = raised if isinstance(raised, HubwireError) else HubwireError(Reason.INTERNAL, f"the stream failed: {raised!r}")
            for result in unanswered:
                if result.sequence not in self._waiting and result.error is None and result.vector is None:
                    self._finish(result, error)
            raise

    async def _submit(self, results: list[StreamResult], texts: list[str]) -> None:
        plan = self.plan
        self._task.texts.check_prompt(plan.prompt, len(texts), "options.options.prompt")
        tokenized = await self._task.texts.tokenize(plan.model, texts, prompt=plan.prompt, truncation=plan.truncation)
        for index in tokenized.too_long:
            self._finish(results[index], tokenized.too_long_error(index, "text"))
        fitting = [index for index, result in enumerate(results) if result.error is None]
        items = plan.items(tokenized, fitting, self._caller, self)
        for item, index in zip(items, fitting, strict=True):
            result = results[index]
            item.index = result.sequence
            result.tokens = item.tokens
            result.truncated = bool(tokenized.truncated[index])
            result.tokenize_ns = tokenized.elapsed_ns
        by_sequence = {result.sequence: result for result in results}
        for part in _parts(items, self._task.executor.stream_tokens):
            permit = await self._task.executor.admit_when_possible(sum(item.tokens for item in part))
            for item in part:
                self._waiting[item.index] = (item, by_sequence[item.index])
            self._task.executor.submit(part, permit)

    def _take_ready(self) -> list[StreamResult]:
        ready: list[StreamResult] = []
        while self._finished and len(ready) < self._most_results:
            sequence = self._taken + len(ready) if self._ordered else next(iter(self._finished))
            if (result := self._finished.pop(sequence, None)) is None:
                break
            ready.append(result)
        return ready


def _parts(items: Sequence[Item], tokens: int) -> Iterator[list[Item]]:
    """Runs of items of at most so many tokens, or of one item that has more."""
    part: list[Item] = []
    size = 0
    for item in items:
        if part and size + item.tokens > tokens:
            yield part
            part, size = [], 0
        part.append(item)
        size += item.tokens
    if part:
        yield part


def _collect(ready: list[StreamResult]) -> StreamResults:
    timings = Timings(
        decode_ns=max(result.decode_ns for result in ready),
        tokenize_ns=max(result.tokenize_ns for result in ready),
    )
    for result in ready:
        if result.timing is not None:
            timings.add(result.timing)
    usage = Usage(
        input_tokens=sum(result.tokens for result in ready if result.error is None),
        truncated_texts=sum(result.truncated for result in ready),
    )
    return StreamResults(ready, min(result.arrived_ns for result in ready), usage, timings)
