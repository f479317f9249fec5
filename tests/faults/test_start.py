"""How long a start takes, and how much memory a server needs, with and without a warm cache."""

from __future__ import annotations

import time

import psutil

import hubwire
from tests.faults.front import front

MAX_COLD_SECONDS = 20.0
MAX_WARM_SECONDS = 3.0
MAX_WARM_BYTES = 350_000_000


def test_a_start_with_a_warm_cache_is_quick_and_small(tmp_path, measured):
    seconds = []
    for _ in ("cold", "warm"):
        with front(tmp_path, "--backend=onnx") as started, hubwire.Client(started.address, max_attempts=200) as client:
            assert client.embed(["hello"]).shape == (1, 384)
            seconds.append(time.monotonic() - started.started)
            client.embed([f"text number {index} " * (index % 40 + 1) for index in range(200)])
            processes = [psutil.Process(started.process.pid), *started.workers()]
            resident = [process.memory_info().rss for process in processes]
    measured("seconds until the first vector, with an empty and with a warm cache", [round(value, 2) for value in seconds])
    measured("resident bytes of front and worker after a warm start", resident)
    assert seconds[0] < MAX_COLD_SECONDS
    assert seconds[1] < MAX_WARM_SECONDS
    assert len(resident) == 2
    assert sum(resident) < MAX_WARM_BYTES
