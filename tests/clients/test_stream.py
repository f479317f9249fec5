"""StreamEmbed through both clients: ids, packing, bounded memory, errors, and how streams end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
import time

import numpy as np
import pytest
from google.rpc import code_pb2

import hubwire
from hubwire._stream import StreamWindow
from hubwire.v1 import embedding_pb2


class Source:
    """An iterable that counts how far it was read."""

    def __init__(self, items):
        self.items = items
        self.read = 0

    def __iter__(self):
        for item in self.items:
            self.read += 1
            yield item


def collect(results, seen):
    """Keep the ids that came before whatever the stream raises."""
    for item_id, _ in results:
        seen.append(item_id)


async def collect_async(results, seen):
    async for item_id, _ in results:
        seen.append(item_id)


def settle(source):
    """Wait until the iterable is read no further, and say how far it was."""
    while True:
        read = source.read
        time.sleep(0.2)
        if source.read == read > 0:
            return read


def test_texts_are_numbered(client, numbers):
    texts = [f"text {number}" for number in range(300)]
    results = dict(client.stream_embed(texts))
    assert sorted(results) == list(range(300))
    for number, vector in results.items():
        assert vector.dtype == np.float32
        np.testing.assert_array_equal(vector, numbers(texts[number]))
        vector *= 2  # the caller owns the memory


def test_ids_come_back_as_they_were_given(client):
    ids = ["a", 7, "7", ("tuple", 1), None, 7]
    results = list(client.stream_embed([(one, "text") for one in ids], ordered=True))
    assert [one for one, _ in results] == ids


@pytest.mark.parametrize(
    ("encoding", "shape", "dtype"), [("float16", (10,), np.float32), ("int8", (10,), np.float32), ("binary", (2,), np.uint8)]
)
def test_encodings_are_decoded(client, numbers, encoding, shape, dtype):
    ((_, vector),) = client.stream_embed(["one"], encoding=encoding)
    assert (vector.shape, vector.dtype) == (shape, dtype)
    if encoding != "binary":
        np.testing.assert_allclose(vector, numbers("one"), rtol=0, atol=1 / 127)


def test_an_empty_iterable_is_an_empty_stream(client, fake):
    assert list(client.stream_embed([], model="small", ordered=True)) == []
    (opening,) = fake.requests
    assert (opening.options.model, opening.options.ordered) == ("small", True)


def test_messages_hold_at_most_batch_size_items(client, fake):
    assert len(list(client.stream_embed(["a"] * 100, batch_size=7))) == 100
    sizes = [len(message.items.items) for message in fake.requests[1:]]
    assert sum(sizes) == 100
    assert max(sizes) <= 7


def test_large_texts_travel_in_several_messages(client, fake):
    assert len(list(client.stream_embed(["ä" * 400_000] * 8))) == 8
    assert all(message.ByteSize() < 1_100_000 for message in fake.requests)


def test_an_item_is_sent_without_waiting_for_the_next_one(fake):
    """The iterable gives its second text after the result of the first one: a client that fills its messages first would wait for ever."""
    answered = threading.Event()

    def items():
        yield "first"
        assert answered.wait(20)
        yield "second"

    with hubwire.Client(fake.address) as client:
        results = client.stream_embed(items())
        assert next(results)[0] == 0
        answered.set()
        assert next(results)[0] == 1


async def test_an_item_of_an_async_iterable_is_sent_without_waiting_for_the_next_one(fake):
    answered = asyncio.Event()

    async def items():
        yield "first"
        await asyncio.wait_for(answered.wait(), 20)
        yield "second"

    async with hubwire.aio.Client(fake.address) as client:
        results = client.stream_embed(items())
        assert (await anext(results))[0] == 0
        answered.set()
        assert [number async for number, _ in results] == [1]


def test_a_server_that_does_not_answer_bounds_what_is_read(client, fake):
    fake.gate.clear()
    source = Source(itertools.repeat("text", 100_000))
    results = client.stream_embed(source, batch_size=10, max_in_flight=50)
    seen = []
    watcher = threading.Thread(target=lambda: (seen.append(settle(source)), fake.gate.set()))
    watcher.start()
    next(results)
    watcher.join()
    assert seen == [50]
    assert settle(source) <= 51
    results.close()


def test_a_caller_that_does_not_ask_bounds_what_is_read(fake):
    source = Source(itertools.repeat("text", 100_000))
    with hubwire.Client(fake.address) as client:
        results = client.stream_embed(source, batch_size=10, max_in_flight=50)
        assert source.read == 0
        for taken in range(1, 200):
            next(results)
            if taken in (1, 30, 199):
                assert settle(source) <= 50 + taken
        results.close()


async def test_a_caller_that_does_not_ask_bounds_what_is_read_of_an_async_iterable(fake):
    read = 0

    async def items():
        nonlocal read
        while True:
            read += 1
            yield "text"

    async with hubwire.aio.Client(fake.address) as client, contextlib.aclosing(client.stream_embed(items(), max_in_flight=50)) as results:
        for taken in range(1, 200):
            await anext(results)
            if taken in (1, 30, 199):
                await asyncio.sleep(0.2)
                assert read <= 50 + taken


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("max_in_flight", [1, 3, 64])
def test_any_window_lets_every_item_through(client, batch_size, max_in_flight):
    results = client.stream_embed(["a"] * 100, batch_size=batch_size, max_in_flight=max_in_flight)
    assert sum(1 for _ in results) == 100


def test_an_item_that_fails_is_handed_over_and_the_stream_goes_on(client):
    results = dict(client.stream_embed([("good", "text"), ("bad", ""), ("better", "text")]))
    assert set(results) == {"good", "bad", "better"}
    error = results["bad"]
    assert isinstance(error, hubwire.InvalidArgumentError)
    assert (error.reason, error.field) == ("TEXT_EMPTY", "text")
    assert isinstance(results["good"], np.ndarray)
    assert isinstance(results["better"], np.ndarray)


def test_what_the_iterable_raises_reaches_the_caller_after_the_results_before_it(client):
    def items():
        yield from ["a", "b"]
        raise LookupError("the source broke")

    seen = []
    with pytest.raises(LookupError, match="the source broke"):
        collect(client.stream_embed(items()), seen)
    assert seen == [0, 1]


async def test_what_an_async_iterable_raises_reaches_the_caller(fake):
    async def items():
        yield "a"
        raise LookupError("the source broke")

    seen = []
    async with hubwire.aio.Client(fake.address) as client:
        with pytest.raises(LookupError, match="the source broke"):
            await collect_async(client.stream_embed(items()), seen)
    assert seen == [0]


@pytest.mark.parametrize("item", [None, 3, b"bytes", ("id", 3), ("id", "text", "more"), ["id", "text"]])
def test_an_item_that_is_no_text_is_a_type_error(client, item):
    with pytest.raises(TypeError, match=r"item 1 must be a str or a tuple of id and str"):
        list(client.stream_embed(["a", item]))


def test_a_text_that_utf8_cannot_hold_is_a_value_error(client):
    with pytest.raises(ValueError, match=r"^item 1 cannot be sent: its character 2 is the lone surrogate U\+DCFF$"):
        list(client.stream_embed(["a", "ab\udcff"]))


@pytest.mark.parametrize("option", ["batch_size", "max_in_flight"])
def test_a_window_of_nothing_is_refused(client, option):
    with pytest.raises(ValueError, match=f"{option} must be 1 or more"):
        client.stream_embed(["a"], **{option: 0})
    with pytest.raises(TypeError, match=f"{option} must be an int"):
        client.stream_embed(["a"], **{option: "7"})


def test_an_error_of_the_stream_is_raised(client, fake, status):
    fake.stream_failure = status(code_pb2.INTERNAL, "the server has a defect", "INTERNAL", error_id="17")
    with pytest.raises(hubwire.InternalError) as caught:
        list(client.stream_embed(itertools.repeat("text"), max_in_flight=100))
    assert caught.value.metadata == {"error_id": "17"}


async def test_the_status_of_the_server_survives_a_write_under_way(fake, status):
    """grpc.aio loses it in about one of sixteen such calls."""
    async with hubwire.aio.Client(fake.address) as client:
        for _ in range(150):
            fake.failures.append(status(code_pb2.UNAVAILABLE, "loading", "MODEL_NOT_READY", retry_after_s=0.01))
            with pytest.raises(hubwire.UnavailableError):
                await anext(client.stream_embed(["text"]))


def test_a_stream_that_ends_early_is_an_error(client, fake):
    fake.silent = True
    with pytest.raises(hubwire.InternalError, match="with 3 items unanswered"):
        list(client.stream_embed(["a", "b", "c"]))


def test_closing_early_cancels_the_call(client, fake):
    results = client.stream_embed(itertools.repeat("text"))
    next(results)
    results.close()
    assert fake.cancelled.wait(5)
    assert list(results) == []


def test_dropping_the_generator_cancels_the_call(fake):
    with hubwire.Client(fake.address) as client:
        for _ in client.stream_embed(itertools.repeat("text")):
            break
        gc.collect()
        assert fake.cancelled.wait(5)


async def test_cancelling_a_task_cancels_the_call(fake):
    fake.gate.clear()
    async with hubwire.aio.Client(fake.address) as client:
        task = asyncio.create_task(anext(client.stream_embed(["text"])))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(fake.cancelled.wait, 5)


def test_no_thread_outlives_its_stream(fake):
    with hubwire.Client(fake.address) as client:
        list(client.stream_embed(["a"] * 100))
        results = client.stream_embed(itertools.repeat("a"))
        next(results)
        results.close()
        deadline = time.monotonic() + 5
        while any(thread.name == "hubwire-stream-reader" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_streams_and_calls_share_a_client_between_threads(fake):
    def work(results):
        results.append(sum(1 for _ in client.stream_embed(["a"] * 500, batch_size=9)))
        results.append(client.embed(["a"]).shape)

    with hubwire.Client(fake.address) as client:
        results = []
        threads = [threading.Thread(target=work, args=(results,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(map(str, results)) == ["(1, 10)"] * 4 + ["500"] * 4


def test_an_aio_client_needs_a_running_loop(fake):
    with pytest.raises(RuntimeError, match="no running event loop"):
        hubwire.aio.Client(fake.address)


@pytest.mark.parametrize("wire_id", ["1", "0", "x", ""], ids=["never sent", "answered twice", "no number", "empty"])
def test_an_answer_to_nothing_breaks_the_contract(wire_id):
    window = StreamWindow(batch_size=1, max_in_flight=1)
    window.add("text")
    assert [item.number for item in window.take()] == [0]
    assert window.answer("0") == 0
    with pytest.raises(hubwire.InternalError, match="does not wait for an answer"):
        window.answer(wire_id)


def test_wire_ids_are_numbers_whatever_the_ids_are(client, fake):
    list(client.stream_embed([("same", "a"), ("same", "b")]))
    sent = [item for message in fake.requests[1:] for item in message.items.items]
    assert sent == [embedding_pb2.StreamEmbedItem(id="0", text="a"), embedding_pb2.StreamEmbedItem(id="1", text="b")]
