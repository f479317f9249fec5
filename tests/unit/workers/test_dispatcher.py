"""The dispatcher: how many batches are on their way at a time, and what it says of where their time went."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from hubwire_server.models.description import LoadedModel
from hubwire_server.scheduling.item import BatchKey, Item, TokenArrays
from hubwire_server.scheduling.planner import BatchLimits
from hubwire_server.testing import _DESCRIPTION, ManualClock
from hubwire_server.workers import frames
from hubwire_server.workers.dispatcher import Dispatcher
from hubwire_server.workers.supervisor import WorkerOptions

KEY = BatchKey("m#1", "pool")


class Worker:
    """Remembers the texts of each batch that it is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, list[int]]] = []

    def holds(self, key: str) -> bool:
        return True

    def is_ready(self, key: str) -> bool:
        return True

    def compute(self, message: frames.Forward, arrays) -> None:
        ids, _, offsets = arrays
        self.sent.append((message.batch, [int(ids[low]) for low in offsets[:-1]]))


class Answers:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.timings = {}
        self.rows = {}

    def deliver(self, item, output, timing) -> None:
        (self.rows[item.index],) = output
        self.timings[item.index] = timing

    def fail(self, item, error) -> None:
        raise error


class Setup:
    """A dispatcher whose worker is on some device. answer() says that the batch it was sent first is done."""

    def __init__(self, device: str) -> None:
        self.clock = ManualClock()
        self.dispatcher = Dispatcher(
            limits=lambda device: BatchLimits(tokens=1000, texts=100),
            max_waiting_tokens=1000,
            worker=WorkerOptions(),
            on_model=lambda key, loaded: None,
            clock=self.clock,
        )
        self.worker = self.dispatcher.worker = Worker()
        self.dispatcher.on_model("m#1", LoadedModel(msgspec.structs.replace(_DESCRIPTION, device=device), ""))
        self.answers = Answers()
        self._answered = 0

    def submit(self, *numbers: int) -> None:
        items = []
        for number in numbers:
            ids = np.full(3, number, dtype=np.int32)
            items.append(Item(KEY, 3, "client", None, self.answers, number, TokenArrays(ids, np.zeros_like(ids))))
        self.dispatcher.submit(items, self.dispatcher.admit(3 * len(items)))

    def answer(self, compute_ns: int = 0, forward_ns: int = 0, pool_ns: int = 0) -> None:
        batch, texts = self.worker.sent[self._answered]
        self._answered += 1
        rows = np.array([[number] for number in texts], dtype=np.float32)
        self.dispatcher.on_computed(frames.Computed(batch=batch, compute_ns=compute_ns, forward_ns=forward_ns, pool_ns=pool_ns), [rows])


@pytest.mark.parametrize(
    ("device", "batches"),
    [("cpu", [[1], [2, 3, 4]]), ("cuda:0", [[1], [2], [3, 4]])],
    ids=["on a CPU one, so that the next one holds all that came meanwhile", "on a GPU two, so that it never waits"],
)
async def test_so_many_batches_are_on_their_way(device, batches):
    setup = Setup(device)
    for number in (1, 2, 3, 4):
        setup.submit(number)
    for _ in batches:
        setup.answer()
    assert [texts for _, texts in setup.worker.sent] == batches
    assert {number: row.tolist() for number, row in setup.answers.rows.items()} == {number: [number] for number in (1, 2, 3, 4)}


async def test_the_time_behind_another_batch_counts_as_queue_and_not_as_transfer():
    setup = Setup("cuda:0")
    setup.clock.now_ns = 10
    setup.submit(1)
    setup.clock.now_ns = 20
    setup.submit(2)  # waits in the socket until the first one is done
    setup.clock.now_ns = 50
    setup.answer(compute_ns=30, forward_ns=25, pool_ns=4)
    setup.clock.now_ns = 90
    setup.answer(compute_ns=33)
    first, second = setup.answers.timings[1], setup.answers.timings[2]
    assert (first.queue_ns, first.batch.transfer_ns) == (0, 10)
    assert (first.batch.compute_ns, first.batch.forward_ns, first.batch.pool_ns) == (30, 25, 4)
    assert (second.queue_ns, second.batch.transfer_ns, second.batch.compute_ns) == (30, 7, 33)


def test_a_ragged_output_is_cut_at_its_offsets():
    setup = Setup("cpu")
    setup.submit(1, 2, 3)
    number, _ = setup.worker.sent[0]
    offsets, values = np.array([0, 2, 2, 5], dtype=np.int64), np.arange(5, dtype=np.int32)
    setup.dispatcher.on_computed(frames.Computed(batch=number, compute_ns=0, ragged=True), [offsets, values])
    assert {number: rows.tolist() for number, rows in setup.answers.rows.items()} == {1: [0, 1], 2: [], 3: [2, 3, 4]}


def test_a_text_that_needs_nothing_more_may_share_a_batch_with_one_that_does():
    setup = Setup("cpu")
    ids = np.ones(3, dtype=np.int32)
    extras = [None, np.array([2], dtype=np.int64)]
    items = [Item(KEY, 3, "client", None, setup.answers, number, TokenArrays(ids, ids, extra)) for number, extra in enumerate(extras)]
    arrays = []
    setup.worker.compute = lambda message, sent: arrays.extend(sent)
    setup.dispatcher.submit(items, setup.dispatcher.admit(6))
    assert (arrays[3].tolist(), arrays[4].tolist()) == ([2], [0, 0, 1])


def test_an_answer_that_cannot_be_delivered_is_a_failure_of_its_own_text():
    setup = Setup("cpu")
    failed = []
    deliver = setup.answers.deliver

    def broken(item, output, timing):
        if item.index == 2:
            raise ZeroDivisionError
        deliver(item, output, timing)

    setup.answers.deliver = broken
    setup.answers.fail = lambda item, error: failed.append((item.index, error.reason))
    setup.submit(1, 2, 3)
    setup.answer()
    assert failed == [(2, "INTERNAL")]
    assert sorted(setup.answers.rows) == [1, 3]
