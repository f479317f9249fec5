"""Models that come and go while calls are under way and workers die: every call ends, and one model never harms another."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import grpc
import pytest

import hubwire
import hubwire.aio
from hubwire.v1 import embedding_pb2, embedding_pb2_grpc, model_pb2
from hubwire_server._native import Tokenizer
from hubwire_server.models.description import Task
from hubwire_server.models.registry import ModelState
from hubwire_server.settings import ModelArgument, Settings
from hubwire_server.testing import RunningServer, running_server
from hubwire_server.workers.supervisor import WorkerOptions
from tests.faults.test_worker import eventually
from tests.rpc.conftest import read_error


def configure(folder: Path, **config: object) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def kill_worker(server: RunningServer) -> None:
    os.kill(server.app.dispatcher.worker.pid, signal.SIGKILL)


def state(server: RunningServer, name: str) -> ModelState:
    return server.app.registry.get(name).state


async def load(client: hubwire.aio.Client, source: str, name: str) -> model_pb2.Model:
    return await client.load_model(source, name=name)


class OpenStream:
    """A stream that is driven by hand."""

    def __init__(self, channel: grpc.aio.Channel, model: str = "") -> None:
        self.call = embedding_pb2_grpc.EmbeddingServiceStub(channel).StreamEmbed(timeout=30)
        self._options = embedding_pb2.StreamEmbedRequest(options=embedding_pb2.StreamEmbedOptions(model=model))

    async def open(self) -> OpenStream:
        await self.call.write(self._options)
        return self

    async def send(self, *texts: str) -> None:
        items = [embedding_pb2.StreamEmbedItem(id=text, text=text) for text in texts]
        await self.call.write(embedding_pb2.StreamEmbedRequest(items=embedding_pb2.StreamEmbedItems(items=items)))

    async def receive(self) -> dict[str, str]:
        response = await self.call.read()
        return {result.id: result.WhichOneof("outcome") for result in response.results}

    async def ends_with(self) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            while await self.call.read() is not grpc.aio.EOF:
                pass
        details = read_error(await _error(self.call, caught.value))
        return details.code, details.reason


async def _error(call: grpc.aio.Call, error: grpc.RpcError) -> grpc.RpcError:
    """The error with its trailers, which grpc.aio sometimes loses on a read."""
    trailers = await call.trailing_metadata()
    return grpc.aio.AioRpcError(await call.code(), await call.initial_metadata(), trailers, await call.details())


async def test_a_stream_whose_model_is_unloaded_ends_with_model_not_found(tmp_path):
    async with (
        running_server() as server,
        hubwire.aio.Client(server.address) as client,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stream = await OpenStream(channel).open()
        await stream.send("w1")
        assert await stream.receive() == {"w1": "vector"}
        await client.unload_model("fake")
        await stream.send("w2")
        assert await stream.ends_with() == ("NOT_FOUND", "MODEL_NOT_FOUND")
        assert server.app.dispatcher.used_tokens == 0


async def test_unloading_ends_although_a_waiting_caller_went_away(tmp_path):
    async with running_server(description={"load_seconds": 0.5}) as server, hubwire.aio.Client(server.address) as client:
        kill_worker(server)
        await eventually(lambda: not server.app.registry.serves(Task.EMBEDDING))
        waiting = asyncio.create_task(client.embed(["w1"]))
        await eventually(lambda: server.app.dispatcher.waiting_texts == 1)
        unload = asyncio.create_task(client.unload_model("fake"))
        await eventually(lambda: state(server, "fake") is ModelState.UNLOADING)
        waiting.cancel()
        await asyncio.wait_for(unload, 5)
        assert server.app.registry.all() == []


async def test_unloading_waits_for_the_texts_of_a_stream_and_for_nothing_when_it_is_gone():
    async with running_server(description={"load_seconds": 0.5}) as server, hubwire.aio.Client(server.address) as client:
        channel = grpc.aio.insecure_channel(server.address)
        stream = await OpenStream(channel).open()
        await stream.send("w1")
        assert await stream.receive() == {"w1": "vector"}
        kill_worker(server)
        await eventually(lambda: not server.app.registry.serves(Task.EMBEDDING))
        await stream.send("w2")
        await eventually(lambda: server.app.dispatcher.waiting_texts == 1)
        unload = asyncio.create_task(client.unload_model("fake"))
        await eventually(lambda: state(server, "fake") is ModelState.UNLOADING)
        await asyncio.sleep(0.05)
        assert not unload.done()
        stream.call.cancel()
        await asyncio.wait_for(unload, 5)
        await channel.close()


async def test_a_caller_of_unload_that_goes_away_does_not_leave_the_model_half_unloaded():
    async with running_server() as server, hubwire.aio.Client(server.address) as client:
        busy = [asyncio.create_task(client.embed(["slow w1"])) for _ in range(3)]
        await eventually(lambda: server.app.dispatcher.used_tokens > 0)
        with pytest.raises(hubwire.DeadlineExceededError):
            await client.unload_model("fake", timeout_s=0.05)
        await asyncio.gather(*busy)
        await eventually(lambda: server.app.registry.all() == [])


async def test_a_call_that_was_accepted_is_answered_before_its_model_goes():
    async with running_server() as server, hubwire.aio.Client(server.address) as client:
        # Large enough to be tokenized in a thread, which is where the model could be pulled away from it.
        call = asyncio.create_task(client.embed(["w1 " * 20] * 1_500))
        await eventually(lambda: server.app.registry.get("fake").leases == 1)
        await client.unload_model("fake")
        assert (await call).shape == (1_500, 8)


async def test_loading_a_slow_model_does_not_count_as_a_hung_batch(tmp_path):
    async with running_server(hang_timeout_s=0.5) as server, hubwire.aio.Client(server.address) as client:
        loading = asyncio.create_task(load(client, configure(tmp_path / "b", load_seconds=1.5), "b"))
        await eventually(lambda: len(server.app.registry.all()) == 2 and state(server, "b") is ModelState.LOADING)
        assert (await client.embed(["w1"], model="fake")).shape == (1, 8)
        assert (await loading).name == "b"
        assert server.app.dispatcher.worker.restarts == 0


async def test_a_model_that_kills_the_worker_while_it_loads_is_given_up_and_harms_no_other(tmp_path):
    async with running_server() as server, hubwire.aio.Client(server.address) as client:

        async def calls() -> int:
            return len([await client.embed([f"w{index}"], model="fake", timeout_s=30) for index in range(60)])

        calling = asyncio.create_task(calls())
        with pytest.raises(hubwire.HubwireError) as caught:
            await load(client, configure(tmp_path / "b", crash_at_load=True), "b")
        assert caught.value.reason == "MODEL_LOAD_FAILED"
        assert await calling == 60


async def test_a_model_that_kills_the_worker_when_it_is_loaded_again_is_given_up_and_harms_no_other(tmp_path):
    async with running_server() as server, hubwire.aio.Client(server.address) as client:
        source = configure(tmp_path / "b", dimensions=8)
        await load(client, source, "b")
        configure(tmp_path / "b", crash_at_load=True)
        kill_worker(server)
        answers = [await client.embed([f"w{index}"], model="fake", timeout_s=30) for index in range(20)]
        assert len(answers) == 20
        await eventually(lambda: state(server, "b") is ModelState.FAILED)
        assert (await client.embed(["w1"], model="fake")).shape == (1, 8)


async def test_a_model_whose_files_changed_is_not_served_under_its_old_fingerprint(tmp_path):
    async with running_server() as server, hubwire.aio.Client(server.address) as client:
        source = configure(tmp_path / "b", fingerprint="a" * 16)
        assert (await load(client, source, "b")).fingerprint == "a" * 16
        configure(tmp_path / "b", fingerprint="b" * 16, scale=3)
        kill_worker(server)
        await eventually(lambda: state(server, "b") is ModelState.FAILED)
        assert "changed" in server.app.registry.get("b").error.message
        assert (await load(client, source, "b")).fingerprint == "b" * 16


async def test_a_load_is_never_answered_by_an_earlier_one_of_the_same_name(tmp_path):
    async with running_server() as server, hubwire.aio.Client(server.address) as client:
        await load(client, configure(tmp_path / "old", fingerprint="0" * 16, load_seconds=0.5), "x")
        kill_worker(server)
        worker = server.app.dispatcher.worker
        # The new worker is loading the old model when that is unloaded.
        await eventually(lambda: any(asked.load.startswith("x#") for asked in worker._asked))
        await client.unload_model("x")
        assert (await load(client, configure(tmp_path / "new", fingerprint="1" * 16, load_seconds=0.5), "x")).fingerprint == "1" * 16


async def test_a_worker_that_dies_between_the_load_and_the_tokenizer_is_not_ready(tmp_path, monkeypatch):
    def slow(text: str) -> Tokenizer:
        time.sleep(0.5)
        return Tokenizer(text)

    async with running_server() as server, hubwire.aio.Client(server.address) as client:
        monkeypatch.setattr("hubwire_server.tasks.model.Tokenizer", slow)
        source = configure(tmp_path / "b", dimensions=8)
        loading = asyncio.create_task(load(client, source, "b"))
        await eventually(lambda: server.app.dispatcher.is_ready("b#2"))
        configure(tmp_path / "b", refuse="MODEL_NOT_SUPPORTED")
        kill_worker(server)
        await eventually(lambda: not server.app.dispatcher.holds("b#2"))
        with pytest.raises(hubwire.HubwireError) as caught:
            await loading
        assert caught.value.reason == "MODEL_LOAD_FAILED"


async def test_a_model_that_the_front_cannot_read_leaves_nothing_in_the_worker(tmp_path):
    async with running_server() as server, hubwire.aio.Client(server.address) as client:
        with pytest.raises(hubwire.HubwireError) as caught:
            await load(client, configure(tmp_path / "b", tokenizer_json="{}"), "b")
        assert caught.value.reason == "MODEL_NOT_SUPPORTED"
        assert not server.app.dispatcher.holds("b#2")


async def test_health_says_that_a_default_model_failed_although_another_serves(tmp_path):
    async with running_server(description={"refuse": "MODEL_NOT_SUPPORTED"}) as server, hubwire.aio.Client(server.address) as client:
        await load(client, configure(tmp_path / "b"), "b")
        assert (await client.embed(["w1"], model="b")).shape == (1, 8)
        assert await client.health("hubwire.v1.EmbeddingService") == "NOT_SERVING"


async def test_a_text_that_fails_does_not_fail_those_of_its_batch():
    async with running_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        stream = await OpenStream(channel).open()
        await stream.send("w1", "fail", "w2")  # one message, one batch
        outcomes = {}
        while len(outcomes) < 3:
            outcomes |= await stream.receive()
        assert outcomes == {"w1": "vector", "fail": "error", "w2": "vector"}
        assert server.app.dispatcher.worker.restarts == 0


async def test_streams_and_single_calls_never_keep_each_other_out():
    settings = Settings(max_waiting_tokens=800, shutdown_grace_s=0.2)
    async with running_server(settings) as server, hubwire.aio.Client(server.address, max_attempts=1) as client:
        done = False
        answered, refused = 0, 0

        async def single() -> None:
            nonlocal answered, refused
            while not done:
                try:
                    await client.embed(["w1 " * 20])
                    answered += 1
                except hubwire.OverloadedError:
                    refused += 1

        async def stream() -> int:
            texts = ["w1 " * 28] * 400
            return len([id_ async for id_, _ in client.stream_embed(texts, batch_size=40, timeout_s=20)])

        calls = [asyncio.create_task(single()) for _ in range(6)]
        assert await asyncio.gather(*(stream() for _ in range(4))) == [400] * 4
        done = True
        await asyncio.gather(*calls)
        assert answered > 50
        assert refused == 0


async def test_a_stream_in_which_the_server_itself_fails_ends_and_answers_every_text(monkeypatch):
    async with running_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        stream = await OpenStream(channel).open()
        await stream.send("w1")
        assert await stream.receive() == {"w1": "vector"}

        async def broken(*args: object, **kwargs: object) -> None:
            raise MemoryError

        monkeypatch.setattr("hubwire_server.tasks.texts.Texts.tokenize", broken)
        await stream.send("w2", "w3")
        assert await stream.receive() == {"w2": "error", "w3": "error"}
        assert await stream.ends_with() == ("INTERNAL", "INTERNAL")


async def test_a_worker_that_hangs_before_it_says_hello_is_replaced():
    sleeper = (sys.executable, "-c", "import time; time.sleep(60)")
    worker = WorkerOptions(command=sleeper, load_timeout_s=0.3)
    settings = Settings(models=(ModelArgument(".", "none"),), shutdown_grace_s=0.2)
    async with running_server(settings, worker=worker) as server:
        assert server.app.registry.get("none").error.reason == "MODEL_LOAD_FAILED"
        assert server.app.dispatcher.worker.restarts >= 2


async def test_a_stop_with_nothing_to_do_takes_no_grace_and_tells_idle_streams():
    async with running_server(Settings(shutdown_grace_s=30)) as server, grpc.aio.insecure_channel(server.address) as channel:
        stream = await OpenStream(channel).open()
        await stream.send("w1")
        assert await stream.receive() == {"w1": "vector"}
        start = time.monotonic()
        stopping = asyncio.create_task(server.app.stop())
        assert await stream.ends_with() == ("UNAVAILABLE", "SHUTTING_DOWN")
        await stopping
        assert time.monotonic() - start < 5
