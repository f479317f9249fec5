"""The planner, driven by hand under a clock that the test moves."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hubwire_server.scheduling.item import BatchKey, Item, ItemState, TokenArrays
from hubwire_server.scheduling.planner import MAX_LOOK, MAX_PADDING, Batch, BatchLimits, Planner, similar_lengths
from hubwire_server.testing import ManualClock

EMPTY = np.empty(0, dtype=np.int32)
PACKED = BatchKey("m", "pool")
PADDED = BatchKey("m", "pool", padded=True)


class NoSink:
    """The planner never calls a sink: that is the dispatcher's."""

    def deliver(self, item, output, timing):
        raise AssertionError

    def fail(self, item, error):
        raise AssertionError


def text(tokens: int, *, client: str = "a", deadline_ns: int | None = None, key: BatchKey = PACKED) -> Item:
    return Item(key, tokens, client, deadline_ns, NoSink(), 0, TokenArrays(EMPTY, EMPTY))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000)


@pytest.fixture
def planner(clock: ManualClock) -> Planner:
    return Planner(BatchLimits(tokens=100, texts=8), clock)


def take(planner: Planner) -> list[Item]:
    batch, _ = planner.next_batch()
    return batch.items if batch is not None else []


def test_nothing_waits_then_there_is_no_batch(planner):
    assert planner.next_batch() == (None, [])


def test_a_batch_holds_what_waits_up_to_the_token_budget(planner):
    items = [text(40), text(40), text(40)]
    planner.add(items)
    assert take(planner) == items[:2]
    assert len(planner) == 1
    assert take(planner) == items[2:]
    assert len(planner) == 0


def test_a_batch_holds_at_most_the_number_of_texts(planner):
    planner.add([text(1) for _ in range(20)])
    assert [len(take(planner)) for _ in range(3)] == [8, 8, 4]


def test_a_text_over_the_budget_runs_alone(planner):
    long, short = text(500), text(5)
    planner.add([long, short])
    assert take(planner) == [long]
    assert take(planner) == [short]


def test_a_batch_is_sorted_by_length(planner):
    planner.add([text(30), text(10), text(20)])
    assert [item.tokens for item in take(planner)] == [10, 20, 30]


def test_the_earliest_deadline_of_a_client_runs_first_and_none_comes_last(planner):
    late, none, early = text(90, deadline_ns=9_000), text(90), text(90, deadline_ns=2_000)
    planner.add([late, none, early])
    assert [take(planner)[0] for _ in range(3)] == [early, late, none]


def test_texts_of_different_keys_never_share_a_batch(planner):
    other = BatchKey("m", "pool", "cls")
    planner.add([text(1), text(1, key=other), text(1)])
    assert [len(take(planner)) for _ in range(2)] == [2, 1]


def test_an_expired_text_is_handed_back_and_never_computed(planner, clock):
    dead, alive = text(10, deadline_ns=2_000), text(10, deadline_ns=5_000)
    planner.add([dead, alive])
    clock.now_ns = 2_000
    batch, expired = planner.next_batch()
    assert expired == [dead]
    assert batch is not None
    assert batch.items == [alive]
    assert dead.state is ItemState.DONE
    assert len(planner) == 0


def test_a_cancelled_text_is_never_computed_and_leaves_nothing(planner):
    items = [text(10) for _ in range(200)]
    planner.add(items)
    assert planner.cancel(items) == items
    assert len(planner) == 0
    assert take(planner) == []
    assert planner._heaps == {}  # the memory is free too


def test_a_text_that_is_cancelled_while_it_runs_is_not_returned_again(planner):
    item = text(10)
    planner.add([item])
    batch, _ = planner.next_batch()
    assert planner.cancel([item]) == []
    planner.requeue(batch)
    assert len(planner) == 0


def test_a_client_that_arrives_late_is_served_before_the_backlog_of_another(planner):
    planner.add([text(50, client="stream") for _ in range(100)])
    take(planner)
    single = text(50, client="single")
    planner.add([single])
    assert single in take(planner)


def test_two_clients_with_a_backlog_get_equal_tokens_whatever_the_size_of_their_texts(planner):
    planner.add([text(50, client="large") for _ in range(100)])
    planner.add([text(10, client="small") for _ in range(500)])
    served = {"large": 0, "small": 0}
    for _ in range(30):
        for item in take(planner):
            served[item.client] += item.tokens
    assert abs(served["large"] - served["small"]) <= 100


def test_an_idle_client_saves_up_nothing(planner):
    planner.add([text(10, client="early")])
    take(planner)
    planner.add([text(50, client="busy") for _ in range(40)])
    for _ in range(10):
        take(planner)
    planner.add([text(50, client="early") for _ in range(40)])
    served = {"busy": 0, "early": 0}
    for _ in range(10):
        for item in take(planner):
            served[item.client] += item.tokens
    assert abs(served["busy"] - served["early"]) <= 100


def test_a_client_with_a_history_is_not_overtaken_by_new_ones_without_end(planner):
    planner.add([text(100, client="old") for _ in range(50)])
    for _ in range(50):
        take(planner)
    planner.add([text(10, client=f"first {n}") for n in range(12)])
    last = text(10, client="old")
    planner.add([last])
    for batch in range(100):
        if last in take(planner):
            break
        planner.add([text(100, client=f"new {batch}")])
    assert batch < 20


def test_texts_that_are_looked_at_and_put_back_cost_their_clients_nothing(clock):
    """A padded backend takes what has similar lengths: a long text of an old client must not wait behind short ones of new clients for
    ever."""
    planner = Planner(BatchLimits(tokens=200, texts=16), clock)
    planner.add([text(10, client="old", key=PADDED)])
    take(planner)
    long = text(90, client="old", key=PADDED)
    planner.add([long])
    for number in range(50):
        planner.add([text(10, client=f"new {number} {index}", key=PADDED) for index in range(9)])
        if long in take(planner):
            break
    assert number < 20


def test_the_services_own_time_never_goes_back(planner):
    times = []
    planner.add([text(40, client=name) for name in "abc" for _ in range(5)])
    for _ in range(4):
        batch, _ = planner.next_batch()
        times.append(planner._shares._now)
        planner.requeue(batch)
        times.append(planner._shares._now)
    assert times == sorted(times)


def test_a_requeued_batch_is_not_charged_to_its_client(planner):
    planner.add([text(50, client="unlucky"), text(50, client="unlucky")])
    batch, _ = planner.next_batch()
    planner.requeue(batch)
    planner.add([text(50, client="other") for _ in range(4)])
    assert take(planner) == batch.items


def test_retries_whose_model_is_gone_are_let_go_of(planner):
    planner.add([text(10), text(10)])
    planner.retry(planner.next_batch()[0])
    planner.drop_model("m")
    assert planner.next_batch(lambda model: False) == (None, [])
    assert len(planner._retries) == 0


def test_clients_that_are_gone_cost_no_memory(planner):
    for number in range(2_000):
        planner.add([text(60, client=f"client {number}"), text(60, client=f"neighbour {number}")])
        take(planner)
    while take(planner):
        pass
    assert len(planner._shares._served) < 64
    assert planner._shares._waiting == {}


def test_models_that_are_not_ready_are_passed_over(planner):
    other = text(10, key=BatchKey("other", "pool"))
    planner.add([text(10), other])
    batch, _ = planner.next_batch(lambda model: model == "other")
    assert batch.items == [other]
    assert planner.next_batch(lambda model: False) == (None, [])
    assert len(planner) == 1


def test_a_requeued_batch_stands_where_it_stood(planner):
    first, second = text(100), text(100)
    planner.add([first, second])
    batch, _ = planner.next_batch()
    planner.requeue(batch)
    assert len(planner) == 2
    assert take(planner) == [first]


def test_a_batch_that_died_is_retried_once_as_it_was_and_before_anything_else(planner):
    items = [text(20), text(30)]
    planner.add(items)
    batch, _ = planner.next_batch()
    planner.add([text(5, deadline_ns=1_001)])
    assert planner.retry(batch) == []
    assert take(planner) == items


def test_a_batch_that_died_twice_is_split_and_only_the_text_that_kills_alone_is_given_up(planner):
    good, poison, fine = text(10), text(20), text(30)
    planner.add([good, poison, fine])
    planner.retry(planner.next_batch()[0])
    planner.retry(planner.next_batch()[0])
    given_up = []
    served = []
    while (batch := planner.next_batch()[0]) is not None:
        assert len(batch.items) == 1
        if batch.items == [poison]:
            given_up += planner.retry(batch)
        else:
            planner.finish(batch)
            served += batch.items
    assert given_up == [poison]
    assert served == [good, fine]
    assert len(planner) == 0


def test_a_single_text_that_kills_the_worker_twice_is_given_up(planner):
    poison = text(10)
    planner.add([poison])
    assert planner.retry(planner.next_batch()[0]) == []
    assert planner.retry(planner.next_batch()[0]) == [poison]
    assert planner.next_batch() == (None, [])


def test_cancelling_a_text_that_waits_for_its_retry_drops_it(planner):
    items = [text(10), text(20)]
    planner.add(items)
    planner.retry(planner.next_batch()[0])
    assert planner.cancel(items[:1]) == items[:1]
    assert take(planner) == items[1:]
    assert len(planner) == 0


def test_dropping_a_model_drops_its_texts_alone(planner):
    other = text(10, key=BatchKey("other", "pool"))
    mine = [text(10), text(10)]
    planner.add([*mine, other])
    assert planner.drop_model("m") == mine
    assert take(planner) == [other]


@pytest.mark.parametrize("seed", range(20))
def test_padding_stays_within_its_bound_and_every_text_runs_once(seed):
    rng = random.Random(seed)
    planner = Planner(BatchLimits(tokens=512, texts=32), ManualClock())
    items = [text(rng.choice([3, 5, 8, 30, 60, 200]), client=rng.choice("abc"), key=PADDED) for _ in range(200)]
    planner.add(items)
    seen: list[Item] = []
    while batch := take(planner):
        longest = max(item.tokens for item in batch)
        padded = longest * len(batch)
        assert padded - sum(item.tokens for item in batch) <= MAX_PADDING * padded + 1e-9
        assert len(batch) == 1 or padded <= 512
        seen += batch
    assert sorted(map(id, seen)) == sorted(map(id, items))
    assert len(planner) == 0


def test_similar_lengths_keeps_the_text_whose_turn_it_is():
    chosen = [text(100), text(10), text(11), text(12)]
    assert similar_lengths(chosen, BatchLimits(tokens=1_000, texts=16)) == [chosen[0]]
    chosen = [text(10), text(100), text(11), text(12)]
    assert [item.tokens for item in similar_lengths(chosen, BatchLimits(tokens=1_000, texts=16))] == [10, 11, 12]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_every_text_ends_exactly_once_and_the_count_is_right(seed):
    """Random adds, cancels, deadlines, deaths and results against a plain list."""
    rng = random.Random(seed)
    clock = ManualClock()
    planner = Planner(BatchLimits(tokens=64, texts=6), clock)
    waiting: set[int] = set()
    flying: list[Batch] = []
    everything: list[Item] = []
    for _ in range(400):
        action = rng.random()
        if action < 0.4:
            new = [
                text(
                    rng.randint(1, 40),
                    client=rng.choice("abcd"),
                    deadline_ns=rng.choice([None, clock.now_ns + rng.randint(1, 50)]),
                    key=rng.choice([PACKED, PADDED, BatchKey("n", "pool")]),
                )
                for _ in range(rng.randint(1, 5))
            ]
            planner.add(new)
            everything += new
            waiting |= set(map(id, new))
        elif action < 0.5 and everything:
            for item in planner.cancel(rng.sample(everything, min(3, len(everything)))):
                waiting.remove(id(item))
        elif action < 0.8:
            batch, expired = planner.next_batch()
            for item in expired:
                assert item.deadline_ns <= clock.now_ns
                waiting.remove(id(item))
            if batch is not None:
                for item in batch.items:
                    assert item.state is ItemState.RUNNING
                    waiting.remove(id(item))
                flying.append(batch)
        elif flying:
            batch = flying.pop(0)
            back = [id(item) for item in batch.running()]
            fate = rng.random()
            if fate < 0.6:
                planner.finish(batch)
            elif fate < 0.8:
                planner.requeue(batch)
                waiting |= set(back)
            else:
                given_up = planner.retry(batch)
                waiting |= set(back) - set(map(id, given_up))
        clock.now_ns += rng.randint(0, 3)
        assert len(planner) == len(waiting)
    for batch in flying:
        planner.finish(batch)
    while True:
        batch, expired = planner.next_batch()
        waiting -= set(map(id, expired))
        if batch is None:
            break
        waiting -= {id(item) for item in batch.items}
        planner.finish(batch)
    assert waiting == set()
    assert len(planner) == 0
    assert all(item.state is ItemState.DONE for item in everything)


def test_more_texts_are_looked_at_than_a_batch_holds_to_find_those_of_similar_length():
    planner = Planner(BatchLimits(tokens=100, texts=16), ManualClock())
    short = [text(10, key=PADDED) for _ in range(10)]
    long = [text(90, key=PADDED) for _ in range(10)]
    planner.add([item for pair in zip(short, long, strict=True) for item in pair])
    assert take(planner) == short


def test_no_more_texts_are_looked_at_than_max_look_however_many_a_batch_may_hold():
    """Each text that is looked at in vain is taken off the queue and put back, on the event loop."""
    for between, taken in ((MAX_LOOK - 2, 2), (MAX_LOOK - 1, 1)):
        planner = Planner(BatchLimits(tokens=1_000_000, texts=131_072), ManualClock())
        planner.add([text(10, key=PADDED), *(text(500, key=PADDED) for _ in range(between)), text(10, key=PADDED)])
        assert len(take(planner)) == taken


def test_a_padded_batch_holds_at_most_max_look_texts_and_a_packed_one_what_the_limits_allow():
    for key, taken in ((PADDED, MAX_LOOK), (PACKED, 1_000)):
        planner = Planner(BatchLimits(tokens=1_000_000, texts=131_072), ManualClock())
        planner.add([text(10, key=key) for _ in range(1_000)])
        assert len(take(planner)) == taken
        assert len(planner) == 1_000 - taken


def test_similar_lengths_holds_no_more_texts_than_a_batch_may():
    assert len(similar_lengths([text(10) for _ in range(9)], BatchLimits(tokens=1_000, texts=4))) == 4
