"""Moves planned batches onto a worker and their results back to whoever waits for them.

At most two batches are on their way at a time: one that is computed, and one that waits in the socket so that the device never idles. More
would only mean that a cancelled or more urgent text comes too late. On a CPU there is one: the processor has enough to do between batches,
which is to answer the last and to read the next, and the longer a batch waits to be formed, the more texts share it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import LoadedModel, LoadSpec
from hubwire_server.scheduling.admission import Admission, Permit
from hubwire_server.scheduling.clock import MONOTONIC, Clock
from hubwire_server.scheduling.item import BatchTiming, Item, ItemState, ItemTiming
from hubwire_server.scheduling.planner import Batch, BatchLimits, Planner
from hubwire_server.workers import frames
from hubwire_server.workers.supervisor import Supervisor, WorkerOptions

log = logging.getLogger("hubwire.dispatcher")

MAX_IN_FLIGHT = 2
MAX_IN_FLIGHT_ON_CPU = 1
"""On two cores with 64 callers of short texts: 31 texts a batch instead of 21, and 4 % less of the worker's time a text. Streams and mixed
lengths are as fast with one as with two."""
STREAM_SHARE = 2
"""Streams have a queue of their own, of half the size: they wait for room in it, while single calls are refused when theirs is full. With
one queue for both, either would keep the other out."""
STREAM_PARTS = 16
"""A stream asks for a sixteenth of its queue at a time."""


@dataclass(eq=False, slots=True)
class _InFlight:
    number: int
    batch: Batch
    sent_ns: int
    started_ns: int = 0
    """When the worker began with it, known once it is done."""


class Dispatcher:
    """The executor of one device (scheduling/executor.py), and the listener of its worker.

    limits gives the size of a batch on a device. on_model hears what happens to models.
    """

    def __init__(
        self,
        *,
        limits: Callable[[str], BatchLimits],
        max_waiting_tokens: int,
        worker: WorkerOptions,
        on_model: Callable[[str, LoadedModel | HubwireError | None], None],
        clock: Clock = MONOTONIC,
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._planner = Planner(limits("auto"), clock)
        self._admission = Admission(max_waiting_tokens=max_waiting_tokens)
        self._stream_admission = Admission(max_waiting_tokens=max(1, max_waiting_tokens // STREAM_SHARE))
        self._admission.on_release = self._stream_admission.on_release = self._on_release
        self._released = asyncio.Event()
        self._left = asyncio.Event()
        self._room_turn = asyncio.Lock()
        self._in_flight: deque[_InFlight] = deque()
        self._max_in_flight = MAX_IN_FLIGHT
        self._number = 0
        self._free_since_ns = 0
        """When the worker answered last: what it was sent before that, it began to read then."""
        self._closed: Callable[[], HubwireError] | None = None
        self._on_model = on_model
        self.worker = Supervisor(worker, self, clock)

    @property
    def waiting_texts(self) -> int:
        """How many texts wait for the device."""
        return len(self._planner)

    @property
    def used_tokens(self) -> int:
        """How many tokens are accepted and not answered."""
        return self._admission.used_tokens + self._stream_admission.used_tokens

    # Executor

    @property
    def stream_tokens(self) -> int:
        """See Executor."""
        return max(1, self._stream_admission.limit_tokens // STREAM_PARTS)

    def check(self, tokens: int) -> None:
        """See Executor."""
        if self._closed is not None:
            raise self._closed()
        self._admission.check(tokens)

    def admit(self, tokens: int) -> Permit:
        """See Executor."""
        self.check(tokens)
        return self._admission.take(tokens)

    async def admit_when_possible(self, tokens: int) -> Permit:
        """See Executor. Callers are served in turn."""
        async with self._room_turn:
            while self._closed is None and not self._stream_admission.has_room(tokens):
                self._released.clear()
                await self._released.wait()
            if self._closed is not None:
                raise self._closed()
            return self._stream_admission.take(tokens)

    def submit(self, items: Sequence[Item], permit: Permit) -> None:
        """See Executor."""
        for item in items:
            item.permit = permit
        if items and not self.worker.holds(items[0].key.model):
            for item in items:
                self._fail(item, HubwireError(Reason.MODEL_NOT_FOUND, "the model was unloaded"))
            return
        self._planner.add(items)
        self._pump()

    def cancel(self, items: Iterable[Item]) -> None:
        """See Executor."""
        for item in self._planner.cancel(items):
            self._release(item)

    async def idle(self) -> None:
        """Returns once nothing is accepted and unanswered."""
        await self._until(lambda: self.used_tokens == 0 and not self._in_flight)

    def close(self, error: Callable[[], HubwireError]) -> None:
        """Answers everything that waits or runs with an error, and whatever comes after it."""
        self._closed = error
        self._released.set()
        running = [item for entry in self._in_flight for item in entry.batch.running()]
        self._planner.cancel(running)
        for item in running:
            item.sink.fail(item, error())
        for item in self._planner.drop_all():
            self._fail(item, error())

    # ModelHost (tasks/model.py)

    async def load(self, spec: LoadSpec) -> LoadedModel:
        """See ModelHost. The first load starts the worker, where nobody has."""
        if self._closed is not None:
            raise self._closed()
        self.worker.start()
        return await self.worker.load(spec)

    def holds(self, key: str) -> bool:
        """See ModelHost."""
        return self.worker.holds(key)

    def is_ready(self, key: str) -> bool:
        """See ModelHost."""
        return self.worker.is_ready(key)

    async def drain(self, key: str) -> None:
        """See ModelHost."""
        await self._until(lambda: not self._planner.waiting_of(key) and all(entry.batch.key.model != key for entry in self._in_flight))

    def unload(self, key: str) -> None:
        """See ModelHost."""
        self.worker.unload(key)
        self._drop_model(key, HubwireError(Reason.MODEL_NOT_FOUND, "the model was unloaded"))

    # Listener

    def on_computed(self, message: frames.Computed | frames.BatchFailed, arrays: list[NDArray[Any]]) -> None:
        """See Listener."""
        entry = self._in_flight[0]
        if entry.number != message.batch:
            raise AssertionError(f"batch {message.batch} came back before {entry.number}. This is a bug.")
        entry.started_ns = max(entry.sent_ns, self._free_since_ns)
        self._free_since_ns = self._clock()
        if isinstance(message, frames.Computed):
            self._admission.measure(entry.batch.tokens, message.compute_ns)
            self._deliver(entry, message, arrays)
        else:
            for item in entry.batch.running():
                self._fail(item, HubwireError(Reason(message.reason), message.text))
        self._in_flight.popleft()
        self._release_cancelled(entry.batch)
        self._planner.finish(entry.batch)
        self._pump()

    def on_died(self, suspect: int | None) -> None:
        """See Listener."""
        lost = list(self._in_flight)
        self._in_flight.clear()
        for entry in lost:
            self._release_cancelled(entry.batch)
            if entry.number != suspect:
                self._planner.requeue(entry.batch)
                continue
            for item in self._planner.retry(entry.batch):
                text = "this text ended the worker process each time it was tried, the last time alone"
                self._fail(item, HubwireError(Reason.WORKER_CRASHED, text))

    def on_model(self, key: str, loaded: LoadedModel | HubwireError | None) -> None:
        """See Listener."""
        self._on_model(key, loaded)
        if isinstance(loaded, LoadedModel):
            # Which device "auto" is, only the worker knows.
            device = loaded.description.device
            self._planner.set_limits(self._limits(device))
            self._max_in_flight = MAX_IN_FLIGHT_ON_CPU if device.startswith("cpu") else MAX_IN_FLIGHT
        elif isinstance(loaded, HubwireError):
            self._drop_model(key, loaded)
        self._pump()

    # The pump

    def _pump(self) -> None:
        """Sends batches while the worker can take them."""
        while len(self._in_flight) < self._max_in_flight and len(self._planner):
            batch, expired = self._planner.next_batch(self.worker.is_ready)
            for item in expired:
                self._fail(item, HubwireError(Reason.DEADLINE_EXCEEDED, "the deadline passed before the text reached the device"))
            if batch is None:
                return
            self._send(batch)

    def _send(self, batch: Batch) -> None:
        self._number += 1
        self._in_flight.append(_InFlight(self._number, batch, self._clock()))
        work = [item.work for item in batch.items]
        alone = work[0] if len(work) == 1 else None
        key = batch.key
        message = frames.Forward(batch=self._number, model=key.model, operation=key.operation, option=key.option)
        arrays = [
            alone.ids if alone is not None else np.concatenate([tokens.ids for tokens in work]),
            alone.type_ids if alone is not None else np.concatenate([tokens.type_ids for tokens in work]),
            np.array([0, *accumulate(len(tokens.ids) for tokens in work)], dtype=np.int64),
        ]
        extras = [tokens.extra for tokens in work if tokens.extra is not None]
        if extras:
            lengths = (0 if tokens.extra is None else len(tokens.extra) for tokens in work)
            arrays += [np.concatenate(extras), np.array([0, *accumulate(lengths)], dtype=np.int64)]
        self.worker.compute(message, arrays)

    def _deliver(self, entry: _InFlight, message: frames.Computed, arrays: list[NDArray[Any]]) -> None:
        transfer_ns = max(0, self._free_since_ns - entry.started_ns - message.compute_ns)
        timing = BatchTiming(message.compute_ns, message.forward_ns, message.pool_ns, transfer_ns)
        failures = {failure.index: failure for failure in message.failures}
        offsets, outputs = (arrays[0].tolist(), arrays[1:]) if message.ragged else (None, arrays)
        for position, item in enumerate(entry.batch.items):
            if item.state is not ItemState.RUNNING:  # it was cancelled while it ran
                continue
            if (failure := failures.get(position)) is not None:
                self._fail(item, HubwireError(Reason(failure.reason), failure.text))
                continue
            item.state = ItemState.DONE
            self._release(item)
            where = position if offsets is None else slice(offsets[position], offsets[position + 1])
            try:
                item.sink.deliver(item, tuple(array[where] for array in outputs), ItemTiming(entry.started_ns - item.enqueued_ns, timing))
            except Exception:
                # It must not take the connection to the worker with it, and everybody's texts.
                log.exception("an answer could not be delivered; this is a bug")
                item.sink.fail(item, HubwireError(Reason.INTERNAL, "the answer could not be made"))

    # Every way out

    def _fail(self, item: Item, error: HubwireError) -> None:
        """Answers a text with an error of its own."""
        item.state = ItemState.DONE
        self._release(item)
        item.sink.fail(item, error)

    def _drop_model(self, key: str, error: HubwireError) -> None:
        for item in self._planner.drop_model(key):
            self._fail(item, HubwireError(error.reason, error.message))

    def _release_cancelled(self, batch: Batch) -> None:
        """Texts that were cancelled while they ran hold their tokens until the device is done with them."""
        for item in batch.items:
            self._release(item)

    def _release(self, item: Item) -> None:
        """Gives the tokens of a text back, once."""
        if item.permit is not None and item.state is ItemState.DONE:
            permit, item.permit = item.permit, None
            permit.release(item.tokens)

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Waits for something that can only change when a text leaves."""
        while not holds():
            self._left.clear()
            await self._left.wait()

    def _on_release(self) -> None:
        self._released.set()
        self._left.set()
