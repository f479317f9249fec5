"""What a worker may do to its server: die, hang, take a text down with it. With the fake model in a real worker process."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import grpc
import numpy as np
import pytest

import hubwire
import hubwire.aio
from hubwire.v1 import embedding_pb2, embedding_pb2_grpc
from hubwire_server.errors import Reason
from hubwire_server.models.description import Task
from hubwire_server.settings import ModelArgument, Settings
from hubwire_server.testing import running_server
from hubwire_server.workers.dispatcher import MAX_IN_FLIGHT
from hubwire_server.workers.supervisor import WorkerOptions
from tests.conftest import serve
from tests.rpc.conftest import read_status


def kill_worker(server) -> None:
    os.kill(server.app.dispatcher.worker.pid, signal.SIGKILL)


async def eventually(condition, timeout_s: float = 20.0) -> float:
    """Waits until something holds, and says how long that took."""
    start = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
    return time.monotonic() - start


async def test_killing_the_worker_again_and_again_under_load_loses_no_request():
    async with running_server() as server, hubwire.aio.Client(server.address, max_attempts=1) as client:
        expected = await client.embed([f"w{index}" for index in range(300)])
        answers: list[np.ndarray] = []

        async def caller(start: int) -> None:
            for index in range(start, 300, 20):
                answers.append((index, await client.embed([f"w{index}", "w1 w2 w3"])))
                await asyncio.sleep(0.02)

        calls = [asyncio.create_task(caller(start)) for start in range(20)]
        for _ in range(3):
            await asyncio.sleep(0.05)
            await eventually(lambda: server.app.registry.serves(Task.EMBEDDING))
            kill_worker(server)
        await asyncio.gather(*calls)
        assert server.app.dispatcher.worker.restarts >= 3
        assert len(answers) == 300
        for index, vectors in answers:
            np.testing.assert_allclose(vectors[0], expected[index], atol=1e-6)
        assert server.app.dispatcher.used_tokens == 0


async def test_texts_that_wait_while_the_worker_is_gone_are_answered_when_it_is_back():
    async with running_server() as server, hubwire.aio.Client(server.address, max_attempts=1) as client:
        kill_worker(server)
        await eventually(lambda: not server.app.registry.serves(Task.EMBEDDING))
        vectors = await client.embed(["w1", "w2"])
        assert vectors.shape == (2, 8)


async def test_a_text_that_kills_the_worker_is_found_and_its_neighbours_are_answered():
    async with running_server() as server, hubwire.aio.Client(server.address) as client:
        texts = [f"w{index}" for index in range(30)]
        texts[13] = "w1 crash"
        outcomes = {id_: outcome async for id_, outcome in client.stream_embed(texts, batch_size=30)}
        assert set(outcomes) == set(range(30))
        assert outcomes[13].reason == Reason.WORKER_CRASHED
        assert all(isinstance(outcome, np.ndarray) for id_, outcome in outcomes.items() if id_ != 13)
        # It died of the batch, of the batch again, and of the text alone: no more than that.
        await eventually(lambda: server.app.registry.serves(Task.EMBEDDING))
        assert server.app.dispatcher.worker.restarts == 3


async def test_a_text_that_hangs_is_found_by_the_watchdog_and_its_neighbours_are_answered():
    async with running_server(hang_timeout_s=0.4) as server, hubwire.aio.Client(server.address) as client:
        outcomes = {id_: outcome async for id_, outcome in client.stream_embed(["w1", "hang", "w2"], batch_size=3)}
        assert outcomes[1].reason == Reason.WORKER_CRASHED
        assert isinstance(outcomes[0], np.ndarray)
        assert isinstance(outcomes[2], np.ndarray)


async def test_a_batch_that_fails_in_a_worker_that_lives_fails_alone():
    async with running_server() as server, hubwire.aio.Client(server.address) as client:
        with pytest.raises(hubwire.HubwireError) as caught:
            await client.embed(["fail"])
        assert caught.value.reason == Reason.INTERNAL
        assert "w" not in caught.value.metadata  # no text of the caller, and nothing of the exception
        assert (await client.embed(["w1"])).shape == (1, 8)
        assert server.app.dispatcher.worker.restarts == 0


async def test_a_worker_that_cannot_start_gives_the_model_up_and_says_so():
    settings = Settings(models=(ModelArgument(".", "none"),), shutdown_grace_s=0.2)
    async with running_server(settings, worker=WorkerOptions(command=("/bin/false",))) as server:
        (model,) = server.app.registry.all()
        assert model.error.reason is Reason.MODEL_LOAD_FAILED
        assert "exit code 1" in model.error.message


@pytest.mark.parametrize("how", ["cancel", "close the channel"])
async def test_a_client_that_vanishes_leaves_nothing_in_the_queue(how):
    async with running_server() as server:
        channel = grpc.aio.insecure_channel(server.address)
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        call = stub.StreamEmbed()
        await call.write(embedding_pb2.StreamEmbedRequest(options=embedding_pb2.StreamEmbedOptions()))
        items = [embedding_pb2.StreamEmbedItem(id=str(index), text="slow w1") for index in range(400)]
        await call.write(embedding_pb2.StreamEmbedRequest(items=embedding_pb2.StreamEmbedItems(items=items)))
        await eventually(lambda: server.app.dispatcher.waiting_texts > 100)
        if how == "cancel":
            call.cancel()
        else:
            await channel.close()
        await eventually(lambda: server.app.dispatcher.waiting_texts == 0, 2.0)
        await eventually(lambda: server.app.dispatcher.used_tokens == 0, 2.0)
        await channel.close()


async def test_a_unary_call_whose_deadline_passes_leaves_nothing_in_the_queue():
    async with running_server() as server, hubwire.aio.Client(server.address) as client:
        with pytest.raises(hubwire.HubwireError) as caught:
            await client.embed(["slow w1"] * 2 + ["w1"] * 500, timeout_s=0.1)
        assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: server.app.dispatcher.used_tokens == 0, 2.0)
        assert server.app.dispatcher.waiting_texts == 0


async def test_a_large_stream_delays_a_single_call_by_no_more_than_the_batches_on_the_device():
    async with running_server() as server, hubwire.aio.Client(server.address) as streaming, hubwire.aio.Client(server.address) as single:

        async def stream() -> int:
            return len([id_ async for id_, _ in streaming.stream_embed(["slow " + "w1 " * 20] * 600)])

        answered = asyncio.create_task(stream())
        await eventually(lambda: server.app.dispatcher.waiting_texts > 100)
        start = time.monotonic()
        await single.embed(["w1"])
        # A batch with the word slow takes 0.2 s: those in flight, and the one that the call itself may be part of.
        assert time.monotonic() - start < (MAX_IN_FLIGHT + 1) * 0.2 + 0.2
        assert await answered == 600


def test_a_stream_that_is_open_when_the_server_stops_hears_of_every_item():
    """Those that were accepted are answered or get SHUTTING_DOWN, and the stream ends with that status."""
    with serve() as server:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(server.channel)
        sent = 0
        stop = False

        def requests():
            nonlocal sent
            yield embedding_pb2.StreamEmbedRequest(options=embedding_pb2.StreamEmbedOptions())
            while not call.done():
                items = [embedding_pb2.StreamEmbedItem(id=str(sent + n), text="slow w1") for n in range(10)]
                sent += 10
                yield embedding_pb2.StreamEmbedRequest(items=embedding_pb2.StreamEmbedItems(items=items))
                time.sleep(0.01)

        call = stub.StreamEmbed(requests(), timeout=60)
        seen: dict[str, str] = {}
        with pytest.raises(grpc.RpcError) as caught:
            for response in call:
                for result in response.results:
                    seen[result.id] = read_status(result.error).reason if result.HasField("error") else "vector"
                if len(seen) > 50 and not stop:
                    stop = True
                    threading.Thread(target=lambda: server.on_loop(server.app.stop)).start()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert set(seen.values()) == {"vector", "SHUTTING_DOWN"}
        # What the server took from the wire it answered, without a gap.
        assert sorted(map(int, seen)) == list(range(len(seen)))
