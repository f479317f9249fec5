"""The front as a process of its own: `hubwire serve` with the embedded model, started, killed and stopped as an operator would."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

import hubwire
import hubwire.aio
from hubwire.v1 import embedding_pb2, embedding_pb2_grpc
from tests.faults.front import front
from tests.rpc.conftest import read_error

MAX_FRONT_BYTES = 150_000_000
MAX_SECONDS_TO_ACCEPT = 3.0
MAX_SECONDS_TO_RECOVER = 20.0


def test_it_accepts_calls_at_once_and_refuses_them_with_a_delay_until_the_model_is_ready(tmp_path, measured):
    with front(tmp_path) as started, grpc.insecure_channel(started.address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        request = embedding_pb2.EmbedRequest(texts=["hello"])
        with pytest.raises(grpc.RpcError) as caught:
            stub.Embed(request, wait_for_ready=True, timeout=20)
        accepted_s = time.monotonic() - started.started
        details = read_error(caught.value)
        assert (details.code, details.reason) == ("UNAVAILABLE", "MODEL_NOT_READY")
        assert details.retry_ms > 0
        measured("seconds until calls are accepted", round(accepted_s, 2))
        assert accepted_s < MAX_SECONDS_TO_ACCEPT
        # The client waits as it is told, and gets its answer.
        with hubwire.Client(started.address, max_attempts=100) as client:
            assert client.embed(["hello"]).shape == (1, 384)
        measured("seconds until the first vector", round(time.monotonic() - started.started, 2))


def test_it_holds_no_engine_and_little_memory(running, measured):
    with hubwire.Client(running.address) as client:
        client.embed([f"text number {index}" for index in range(200)])
        client.embed_tokens(["hello world"])
        list(client.stream_embed(f"text {index}" for index in range(500)))
    modules = running.modules()
    assert {"hubwire_server.app", "grpc"} <= modules
    engines = {
        name for name in modules if name.split(".")[0] in {"torch", "transformers", "onnxruntime", "sentence_transformers", "tokenizers"}
    }
    assert engines == set()
    resident = psutil.Process(running.process.pid).memory_info().rss
    measured("resident bytes of the front", resident)
    assert resident < MAX_FRONT_BYTES
    maps = Path(f"/proc/{running.process.pid}/maps")
    if maps.exists():  # Linux
        assert "libtorch" not in maps.read_text()


def test_killing_the_worker_under_load_loses_nothing_and_health_answers_throughout(running, measured):
    """kill -9 of the real worker, with callers that never retry."""

    async def run() -> float:
        async with hubwire.aio.Client(running.address, max_attempts=1, timeout_s=60) as client:
            texts = [f"a text about the number {index}, of some length" for index in range(240)]
            expected = await client.embed(texts)
            answers: dict[int, np.ndarray] = {}

            async def caller(start: int) -> None:
                for index in range(start, len(texts), 12):
                    answers[index] = (await client.embed([texts[index]]))[0]

            calls = [asyncio.create_task(caller(start)) for start in range(12)]
            while len(answers) < 20:
                await asyncio.sleep(0.005)
            (worker,) = running.workers()
            worker.kill()
            killed = time.monotonic()
            states = []
            slowest = 0.0
            while not states or states[-1] != "SERVING" or "NOT_SERVING" not in states:
                asked = time.monotonic()
                states.append(await client.health())
                slowest = max(slowest, time.monotonic() - asked)
                await asyncio.sleep(0.02)
            recovered = time.monotonic() - killed
            assert slowest < 1.0
            await asyncio.gather(*calls)
            assert len(answers) == len(texts)
            cosines = [float(answers[index] @ expected[index]) for index in answers]
            assert min(cosines) > 0.99999
            return recovered

    recovered = asyncio.run(run())
    measured("seconds until the service was back", round(recovered, 2))
    assert recovered < MAX_SECONDS_TO_RECOVER


def test_the_worker_ends_with_a_front_that_is_killed(tmp_path):
    with front(tmp_path) as started:
        deadline = time.monotonic() + 10
        while not (workers := started.workers()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        started.process.kill()
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert alive == []


def test_sigterm_drains_and_exits_with_0(tmp_path):
    with front(tmp_path) as started, hubwire.Client(started.address, max_attempts=100) as client:
        client.embed(["warm"])
        channel = grpc.insecure_channel(started.address)
        call = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed.future(
            embedding_pb2.EmbedRequest(texts=[f"text {index}" * 20 for index in range(64)]), timeout=30
        )
        time.sleep(0.05)
        started.process.send_signal(signal.SIGTERM)
        assert len(call.result().vectors) == 64
        channel.close()
        client.close()
        assert started.process.wait(timeout=20) == 0


def test_a_second_server_on_the_same_address_says_so_and_exits_with_1(running):
    ended = subprocess.run(
        [sys.executable, "-m", "hubwire_server", "--address", running.address], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 1
    assert "cannot listen" in ended.stderr
    assert "hint:" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_download_that_is_under_way_does_not_hold_the_process(tmp_path):
    """SIGTERM while a model is being fetched, which can take an hour."""
    script = (
        "import sys, threading, time\n"
        "from hubwire_server.tasks import model\n"
        "def resolve(*args, **kwargs):\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()  # as a downloader's pool\n"
        "    time.sleep(60)\n"
        "model.resolve = resolve\n"
        "from hubwire_server.__main__ import main\n"
        "sys.exit(main(['--address', '127.0.0.1:0', '--model', 'owner/name']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if "serving on" in line:
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
