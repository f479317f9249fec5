"""Moves planned batches onto a worker and their results back to whoever waits for them.

At most two batches are on their way at a time: one that is computed, and one that waits in the socket so that the device never idles. More
would only mean that a cancelled or more urgent text comes too late.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import LoadedModel, LoadSpec
from hubwire_server.scheduling.admission import Admission, Permit
from hubwire_server.scheduling.clock import MONOTONIC, Clock
from hubwire_server.scheduling.item import Item, ItemState, ItemTiming
from hubwire_server.scheduling.planner import Batch, BatchLimits, Planner
from hubwire_server.workers import frames
from hubwire_server.workers.supervisor import Supervisor, WorkerOptions

log = logging.getLogger("hubwire.dispatcher")

MAX_IN_FLIGHT = 2


@dataclass(eq=False, slots=True)
class _InFlight:
    number: int
    batch: Batch
    sent_ns: int


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
        self._room = asyncio.Event()
        self._room_turn = asyncio.Lock()
        self._admission.on_release = self._room.set
        self._in_flight: deque[_InFlight] = deque()
        self._number = 0
        self._idle = asyncio.Event()
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
        return self._admission.used_tokens

    # Executor

    def admit(self, tokens: int) -> Permit:
        """See Executor."""
        if self._closed is not None:
            raise self._closed()
        return self._admission.admit(tokens)

    async def admit_when_possible(self, tokens: int) -> Permit:
        """See Executor. Callers are served in turn."""
        async with self._room_turn:
            while self._closed is None and not self._admission.has_room(tokens):
                self._room.clear()
                await self._room.wait()
            return self.admit(tokens)

    def submit(self, items: Sequence[Item], permit: Permit) -> None:
        """See Executor."""
        for item in items:
            item.permit = permit
        self._planner.add(items)
        self._pump()

    def cancel(self, items: Iterable[Item]) -> None:
        """See Executor."""
        for item in self._planner.cancel(items):
            self._release(item)

    def close(self, error: Callable[[], HubwireError]) -> None:
        """Answers everything that waits or runs with an error, and whatever comes after it."""
        self._closed = error
        self._room.set()
        running = [item for entry in self._in_flight for item in entry.batch.running()]
        for item in running:
            item.sink.fail(item, error())
        self._planner.cancel(running)
        for item in self._planner.drop_all():
            self._fail(item, error())

    # ModelHost (tasks/model.py)

    async def load(self, spec: LoadSpec) -> LoadedModel:
        """See ModelHost."""
        return await self.worker.load(spec)

    async def unload(self, name: str) -> None:
        """See ModelHost."""
        while self._planner.waiting_of(name) or any(entry.batch.key.model == name for entry in self._in_flight):
            self._idle.clear()
            await self._idle.wait()
        self.worker.unload(name)

    # Listener

    def on_computed(self, message: frames.Computed | frames.BatchFailed, arrays: list[NDArray[Any]]) -> None:
        """See Listener."""
        entry = self._in_flight.popleft()
        if entry.number != message.batch:
            raise AssertionError(f"batch {message.batch} came back before {entry.number}. This is a bug.")
        self.worker.computing(bool(self._in_flight))
        if isinstance(message, frames.Computed):
            self._admission.measure(entry.batch.tokens, message.compute_ns)
            self._deliver(entry, message, arrays[0])
        else:
            error = HubwireError(Reason(message.reason), message.text, model=entry.batch.key.model)
            for item in entry.batch.items:
                self._fail_running(item, error)
        self._planner.finish(entry.batch)
        self._idle.set()
        self._pump()

    def on_died(self) -> None:
        """See Listener. The batch that was sent first was being computed and is suspect; the others had not begun."""
        lost = list(self._in_flight)
        self._in_flight.clear()
        for position, entry in enumerate(lost):
            for item in entry.batch.items:
                if item.state is ItemState.DONE:  # cancelled while it ran
                    self._release(item)
            if position > 0:
                self._planner.requeue(entry.batch)
                continue
            for item in self._planner.retry(entry.batch):
                text = "this text ended the worker process each time it was tried, the last time alone"
                self._release(item)
                item.sink.fail(item, HubwireError(Reason.WORKER_CRASHED, text, model=item.key.model))
        self._idle.set()

    def on_model(self, name: str, loaded: LoadedModel | HubwireError | None) -> None:
        """See Listener."""
        self._on_model(name, loaded)
        if isinstance(loaded, LoadedModel):
            # Which device "auto" is, only the worker knows.
            self._planner.set_limits(self._limits(loaded.description.device))
        if isinstance(loaded, HubwireError):
            for item in self._planner.drop_model(name):
                self._fail(item, loaded)
        self._pump()

    def _release(self, item: Item) -> None:
        assert item.permit is not None
        self._admission.release(item.permit, item.tokens)

    # The pump

    def _pump(self) -> None:
        """Sends batches while the worker can take them."""
        while len(self._in_flight) < MAX_IN_FLIGHT and len(self._planner):
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
        offsets = np.zeros(len(work) + 1, dtype=np.int64)
        np.cumsum([len(tokens.ids) for tokens in work], out=offsets[1:])
        key = batch.key
        message = frames.Forward(batch=self._number, model=key.model, operation=key.operation, pooling=key.pooling)
        arrays = [
            np.concatenate([tokens.ids for tokens in work]),
            np.concatenate([tokens.type_ids for tokens in work]),
            offsets,
            np.array([tokens.skip for tokens in work], dtype=np.int64),
        ]
        self.worker.compute(message, arrays)

    def _deliver(self, entry: _InFlight, message: frames.Computed, output: NDArray[np.float32]) -> None:
        failures = {failure.index: failure for failure in message.failures}
        ends = np.cumsum([item.tokens for item in entry.batch.items]) if entry.batch.key.operation == "tokens" else None
        for position, item in enumerate(entry.batch.items):
            if (failure := failures.get(position)) is not None:
                self._fail_running(item, HubwireError(Reason(failure.reason), failure.text, model=item.key.model))
                continue
            self._release(item)
            if item.state is ItemState.RUNNING:
                row = output[position] if ends is None else output[ends[position] - item.tokens : ends[position]]
                timing = ItemTiming(queue_ns=entry.sent_ns - item.enqueued_ns, compute_ns=message.compute_ns, batch=entry.number)
                item.sink.deliver(item, row, timing)

    def _fail_running(self, item: Item, error: HubwireError) -> None:
        """Answers a text of a batch with an error, unless it was cancelled while it ran."""
        if item.state is ItemState.RUNNING:
            self._fail(item, error)
        else:
            self._release(item)

    def _fail(self, item: Item, error: HubwireError) -> None:
        self._release(item)
        item.sink.fail(item, error)
