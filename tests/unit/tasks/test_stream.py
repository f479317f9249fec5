"""Streams of texts, here of the embedding task, on the fake model."""

from __future__ import annotations

import asyncio
import time

from hubwire_server.tasks.embedding import EmbedOptions
from hubwire_server.tasks.stream import WINDOW_TEXTS, StreamEntry, TextStream
from hubwire_server.tasks.texts import Caller


async def test_every_result_counts_from_the_arrival_of_its_message_however_long_it_waited_for_room(task):
    """decode_ns counts from there too, so that the total holds it."""
    count = 2 * WINDOW_TEXTS
    stream = TextStream(task.texts, task.plan("", EmbedOptions()), Caller(client="a"), ordered=False)
    arrived_ns = time.perf_counter_ns()

    async def push() -> None:
        await stream.push([StreamEntry(str(index), "w1") for index in range(count)], arrived_ns)
        stream.close_input()

    pushing = asyncio.create_task(push())
    answered = 0
    async for results in stream.results():
        answered += len(results.results)
        assert results.arrived_ns == arrived_ns
        assert 0 < results.timings.decode_ns < time.perf_counter_ns() - results.arrived_ns
    await pushing
    assert answered == count
