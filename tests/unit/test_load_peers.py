"""A peer that cannot be measured is reported as not run, with its reason, and never as a number."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.load import bench_peers, environments, latency, stream
from benchmarks.load.peers.running import start_all
from benchmarks.load.processes import Child, NotRunError, Process, accepts, free_port
from hubwire.v1 import embedding_pb2


class FakePeer:
    """Answers after a millisecond of a clock of its own, with vectors that point one way."""

    label = "a peer"

    def __init__(self, *, angle: float = 0.0, latency_s: float = 0.001, fails_at: int = -1) -> None:
        self._angle, self._latency_s = angle, latency_s
        self._runs, self._fails_at = itertools.count(), fails_at
        self.stopped = False

    def drive(self, load):
        if next(self._runs) == self._fails_at:
            raise NotRunError("it ended with code 1")
        callers = load.concurrency
        return latency.Run.of([(number // callers * self._latency_s, self._latency_s, "") for number in range(load.total)])

    def embed(self, texts):
        return [[np.cos(self._angle), np.sin(self._angle)] for _ in texts]

    def stop(self):
        self.stopped = True


def test_a_peer_that_does_not_start_is_not_run_and_the_others_are(tmp_path):
    def ends():
        process = Process([sys.executable, "-c", "import sys; sys.exit('no such model')"], log=tmp_path / "log")
        try:
            process.wait_until(lambda: False, timeout_s=10)
        finally:
            process.stop()

    def missing():
        return Process([str(tmp_path / "nothing")], log=tmp_path / "log")

    good, said = FakePeer(), []
    with contextlib.ExitStack() as stack:
        up, not_run = start_all({"ends": ends, "missing": missing, "good": lambda: good}, stack, said.append)
        assert (up, good.stopped) == ({"good": good}, False)
    assert good.stopped
    assert not_run["ends"] == "it ended with code 1: no such model"
    assert "cannot be started" in not_run["missing"]
    assert any("ends is not run" in line for line in said)


def test_an_environment_that_cannot_be_made_is_a_reason(monkeypatch, tmp_path):
    (tmp_path / "peer.txt").write_text("no such requirement!\n")
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / "environments")
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    with pytest.raises(NotRunError, match="its environment cannot be made"):
        environments.python_of("peer")
    assert not (tmp_path / "environments/peer/requirements.txt").exists()


def test_a_peer_that_computes_something_else_is_not_compared():
    up = {"hubwire": FakePeer(), "same": FakePeer(angle=0.01), "other": FakePeer(angle=0.5)}
    assert list(bench_peers.unequal(up)) == ["other"]


def test_a_peer_that_fails_on_the_way_has_no_figures_in_any_round():
    not_run = {}
    peers = {"hubwire": FakePeer(), "slow": FakePeer(latency_s=0.002), "fails": FakePeer(fails_at=5)}
    rounds = bench_peers.closed_loops(peers, 2, 0.1, not_run)
    assert not_run == {"fails": "it ended with code 1"}
    assert [set(figures) for figures in rounds] == [{"hubwire", "slow"}] * 2
    table = bench_peers.table(rounds)
    assert table["slow"]["c64_short_per_s"]["hubwire_is_better"] == pytest.approx(2.0)
    assert table["slow"]["c1_short_p50_ms"]["hubwire_is_better"] == pytest.approx(2.0)
    assert table["hubwire"]["c1_short_p50_ms"] == {"median": pytest.approx(1.0), "hubwire_is_better": 1.0}


def test_a_child_answers_commands_and_its_errors_and_its_end_are_reasons(tmp_path, monkeypatch):
    (tmp_path / "measuring_child.py").write_text(
        "import os\n"
        "from benchmarks.load.commands import answer_commands, own_output\n"
        "output = own_output()\n"
        "print('what a library prints')\n"
        "answer_commands({'engine': 'none'}, {'double': lambda value: {'twice': 2 * value}, 'end': lambda: os._exit(3)}, output)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = Child("measuring_child", log=tmp_path / "log", timeout_s=10)
    assert child.ready == {"engine": "none"}
    assert child.ask("double", value=21) == {"twice": 42}
    with pytest.raises(NotRunError, match="TypeError"):
        child.ask("double")
    with pytest.raises(NotRunError, match="it ended: what a library prints"):
        child.ask("end", timeout_s=10)
    child.stop()


def test_stopping_a_process_ends_what_it_started(tmp_path):
    port = free_port()
    serve = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {serve!r}]).wait()"
    process = Process([sys.executable, "-c", parent], log=tmp_path / "log")
    process.wait_until(lambda: accepts(port), timeout_s=10)
    assert len(process.family()) == 2
    assert process.memory_mb()["rss_mb"] > 5
    process.stop_s = 0.2  # the child would not end by itself
    process.stop()
    assert not accepts(port)


def test_a_benchmark_that_is_told_to_end_ends_its_servers(tmp_path):
    code = (
        "import contextlib, sys, time\n"
        "from pathlib import Path\n"
        "from benchmarks.load.processes import Process, stop_on_signals\n"
        "stop_on_signals()\n"
        "with contextlib.ExitStack() as stack:\n"
        f"    process = Process(['sleep', '60'], log=Path({str(tmp_path / 'log')!r}))\n"
        "    stack.callback(process.stop)\n"
        "    print(process.popen.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    pid = int(running.stdout.readline())
    running.terminate()
    assert running.wait(timeout=10) == 128 + 15
    running.stdout.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def response(results: int, tokens: int, *, error: bool = False) -> bytes:
    message = embedding_pb2.StreamEmbedResponse(dimensions=384, usage={"input_tokens": tokens})
    for _ in range(results):
        message.results.add(vector={"values": [0.5] * 384})
    if error:
        message.results.add(error={"code": 3, "message": "bad"})
    return message.SerializeToString()


def test_the_stream_driver_writes_what_the_contract_reads_and_counts_what_it_sends():
    items = b"".join(stream.encode_item(text) for text in ("one", "zwölf " * 40))
    request = embedding_pb2.StreamEmbedRequest.FromString(stream.ITEMS_TAG + stream.with_length(items))
    assert [item.text for item in request.items.items] == ["one", "zwölf " * 40]
    assert embedding_pb2.StreamEmbedRequest.FromString(stream.OPTIONS_MESSAGE).WhichOneof("payload") == "options"
    assert stream.count_results(response(3, 36)) == (3, 36)
    with pytest.raises(ValueError, match="answered with an error"):
        stream.count_results(response(2, 24, error=True))


def test_the_rate_of_a_stream_is_that_of_its_full_part():
    """The first and the last ten results take ten times as long."""
    times = [10.0, *(11.0 + n for n in range(8)), 28.0]
    points = [(0.0, 0, 0), *((when, 10 * (n + 1), 120 * (n + 1)) for n, when in enumerate(times))]
    assert stream.steady_rate(points, 10) == pytest.approx(120.0)
    assert stream.steady_rate(points[:2], 10) == pytest.approx(12.0)
