"""Streams of texts of any length with bounded memory, for every task that has them.

    push() ─ checks ─ window ─ tokenize ─ permit ─ scheduler ─▶ finished ─▶ results()

The window bounds the texts that were read and whose results were not taken yet. A caller that does not read its results fills it, push()
waits, and the caller is not read from: that is the backpressure.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.registry import ReadyModel
from hubwire_server.scheduling.item import BatchKey, Item, ItemTiming, Output
from hubwire_server.tasks.answer import Timings, Usage
from hubwire_server.tasks.text_task import TextTask, make_items
from hubwire_server.tasks.texts import Caller, Reading, Tokenized

log = logging.getLogger("hubwire.stream")

WINDOW_TEXTS = 512
"""Enough for several batches of short texts to be on their way, so that the device never waits for the network."""
CHUNK_TEXTS = 128
"""How many texts of one message are tokenized at a time."""


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One text of a stream, or one pair."""

    id: str
    text: str
    pair: str | None = None


class StreamPlan(Protocol):
    """The options of a stream, settled for one model, and what becomes of its texts."""

    @property
    def model(self) -> ReadyModel:
        """The model that computes them."""
        ...

    @property
    def key(self) -> BatchKey:
        """What they share."""
        ...

    @property
    def reading(self) -> Reading:
        """How they become tokens."""
        ...

    @property
    def most_results(self) -> int:
        """How many results one message may hold."""
        ...

    def extras(self, tokenized: Tokenized) -> Sequence[NDArray[Any]] | None:
        """See text_task.Extras."""
        ...

    def refusal(self, tokenized: Tokenized, rows: Sequence[int]) -> HubwireError | None:
        """What speaks against computing the rows of an entry."""
        ...

    def value(self, entry: StreamEntry, tokenized: Tokenized, rows: Sequence[int], outputs: Sequence[Output]) -> Any:
        """The answer to one entry, from the outputs of its rows of the tokenized batch. It must not keep views into outputs. Raises
        HubwireError where there is none."""
        ...


@dataclass(eq=False, slots=True)
class StreamResult:
    """The outcome of one entry: a value, which the plan made, or an error."""

    id: str
    sequence: int
    arrived_ns: int
    tokens: int = 0
    truncated: bool = False
    value: Any = None
    error: HubwireError | None = None
    timings: list[ItemTiming] = field(default_factory=list)
    decode_ns: int = 0
    tokenize_ns: int = 0


@dataclass(eq=False, slots=True)
class _Pending:
    """An entry whose rows are being computed."""

    entry: StreamEntry
    result: StreamResult
    tokenized: Tokenized
    rows: list[int]
    items: list[Item] = field(default_factory=list)
    outputs: dict[int, Output] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StreamResults:
    """Results that became ready together, in the order in which they are to be sent."""

    results: Sequence[StreamResult]
    arrived_ns: int
    """When the message that brought the oldest of them arrived, on the clock of time.perf_counter_ns."""
    usage: Usage
    timings: Timings


class TextStream:
    """One stream: texts go in through push(), each comes out of results() exactly once."""

    def __init__(self, task: TextTask, plan: StreamPlan, caller: Caller, *, ordered: bool) -> None:
        self._task = task
        self.plan = plan
        self._caller = caller
        self._ordered = ordered
        self._pushed = 0
        self._taken = 0
        self._input_closed = False
        self._waiting: dict[int, _Pending] = {}
        """By the index of each of its items."""
        self._items = 0
        self._finished: dict[int, StreamResult] = {}
        self._closed: HubwireError | None = None
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        task.streams.add(self)

    async def push(self, entries: Sequence[StreamEntry], arrived_ns: int) -> None:
        """Accepts entries, and returns once they are on their way. arrived_ns is when they came, on the clock of
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
        self._task.executor.cancel([item for pending in set(self._waiting.values()) for item in pending.items])
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

    def deliver(self, item: Item, output: Output, timing: ItemTiming) -> None:
        """See Sink."""
        pending = self._waiting.pop(item.index)
        pending.outputs[item.index] = output
        pending.result.timings.append(timing)
        if pending.result.error is not None or len(pending.outputs) < len(pending.rows):
            return
        outputs = [pending.outputs[item.index] for item in pending.items]
        try:
            pending.result.value = self.plan.value(pending.entry, pending.tokenized, pending.rows, outputs)
        except HubwireError as error:
            self._finish(pending.result, error)
        except Exception:
            log.exception("the answer to a text of a stream could not be made; this is a bug")
            self._finish(pending.result, HubwireError(Reason.INTERNAL, "the answer could not be made"))
        else:
            self._finish(pending.result)

    def fail(self, item: Item, error: HubwireError) -> None:
        """See Sink. The first row of an entry that fails is its answer; the others are computed to nobody."""
        pending = self._waiting.pop(item.index)
        if pending.result.error is None:
            self._finish(pending.result, error)

    def _finish(self, result: StreamResult, error: HubwireError | None = None) -> None:
        if error is not None:
            result.error = error.about(field="text", model=self.plan.model.name)
        self._finished[result.sequence] = result
        self._ready.set()

    async def _push_chunk(self, entries: Sequence[StreamEntry], arrived_ns: int, decode_ns: int) -> None:
        while self._pushed - self._taken + len(entries) > WINDOW_TEXTS:
            self._room.clear()
            await self._room.wait()
        self._task.registry.check_served(self.plan.model)
        good: list[tuple[StreamResult, StreamEntry]] = []
        for entry in entries:
            result = StreamResult(entry.id, self._pushed, arrived_ns, decode_ns=decode_ns)
            self._pushed += 1
            if (error := self._entry_error(entry)) is not None:
                self._finish(result, error)
            else:
                good.append((result, entry))
        try:
            # The tokenizer reads texts or pairs, not both at once.
            for group in ([pair for pair in good if pair[1].pair is None], [pair for pair in good if pair[1].pair is not None]):
                if group:
                    with self._task.registry.lease(self.plan.model):
                        await self._submit(group)
        except BaseException as raised:
            # Every text that was accepted has its answer, whatever ends the stream.
            error = raised if isinstance(raised, HubwireError) else HubwireError(Reason.INTERNAL, f"the stream failed: {raised!r}")
            under_way = {pending.result.sequence for pending in self._waiting.values()}
            for result, _ in good:
                if result.sequence not in under_way and result.error is None and result.value is None:
                    self._finish(result, error)
            raise

    def _entry_error(self, entry: StreamEntry) -> HubwireError | None:
        error = self._task.texts.text_error(entry.text, "text")
        if error is None and entry.pair is not None:
            error = self._task.texts.text_error(entry.pair, "text_pair")
        return error

    async def _submit(self, group: list[tuple[StreamResult, StreamEntry]]) -> None:
        plan, texts = self.plan, self._task.texts
        texts.check_prompt(plan.reading.prompt, len(group), "options.options.prompt")
        pairs = [entry.pair or "" for _, entry in group] if group[0][1].pair is not None else None
        tokenized = await texts.tokenize(plan.model, [entry.text for _, entry in group], plan.reading, pairs=pairs)
        for index in tokenized.too_long:
            self._finish(group[index][0], tokenized.too_long_error(index, "text"))
        pendings = self._pendings(group, tokenized)
        for part in _parts(pendings, self._task.executor.stream_tokens):
            items = [item for pending in part for item in pending.items]
            permit = await self._task.executor.admit_when_possible(sum(item.tokens for item in items))
            for pending in part:
                self._waiting.update(dict.fromkeys((item.index for item in pending.items), pending))
            self._task.executor.submit(items, permit)

    def _pendings(self, group: list[tuple[StreamResult, StreamEntry]], tokenized: Tokenized) -> list[_Pending]:
        """The entries of a group that were not refused, with their rows as work."""
        rows: dict[int, list[int]] = {}
        for row, source in enumerate(tokenized.batch.sources.tolist()):
            rows.setdefault(source, []).append(row)
        extras = self.plan.extras(tokenized)
        pendings = []
        for index, (result, entry) in enumerate(group):
            if result.error is not None:
                continue
            if (error := self.plan.refusal(tokenized, rows[index])) is not None:
                self._finish(result, error)
                continue
            pending = _Pending(entry, result, tokenized, rows[index])
            pending.items = make_items(self.plan.key, tokenized, pending.rows, extras, self._caller, self)
            for item in pending.items:
                item.index = self._items
                self._items += 1
            result.tokens = sum(item.tokens for item in pending.items)
            result.truncated = bool(tokenized.truncated[pending.rows].any())
            result.tokenize_ns = tokenized.elapsed_ns
            pendings.append(pending)
        return pendings

    def _take_ready(self) -> list[StreamResult]:
        ready: list[StreamResult] = []
        while self._finished and len(ready) < self.plan.most_results:
            sequence = self._taken + len(ready) if self._ordered else next(iter(self._finished))
            if (result := self._finished.pop(sequence, None)) is None:
                break
            ready.append(result)
        return ready


def _parts(pendings: Sequence[_Pending], tokens: int) -> Iterator[list[_Pending]]:
    """Runs of entries of at most so many tokens, or of one that has more."""
    part: list[_Pending] = []
    size = 0
    for pending in pendings:
        if part and size + pending.result.tokens > tokens:
            yield part
            part, size = [], 0
        part.append(pending)
        size += pending.result.tokens
    if part:
        yield part


def _collect(ready: list[StreamResult]) -> StreamResults:
    timings = Timings(
        decode_ns=max(result.decode_ns for result in ready),
        tokenize_ns=max(result.tokenize_ns for result in ready),
    )
    for result in ready:
        for timing in result.timings:
            timings.add(timing)
    usage = Usage(
        input_tokens=sum(result.tokens for result in ready if result.error is None),
        truncated_texts=sum(result.truncated for result in ready),
    )
    return StreamResults(ready, min(result.arrived_ns for result in ready), usage, timings)
