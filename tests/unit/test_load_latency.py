"""Latencies of an open loop count from when a request was due; the throughput of a closed loop counts while all callers are busy."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.load import bare, ghz, http_driver, latency
from benchmarks.load.ghz import UnaryLoad

STALL_S = 0.2


def run_of(figures: dict) -> latency.Run:
    return latency.Run.of(zip(figures["begins_s"], figures["latencies_s"], [""] * len(figures["begins_s"]), strict=True))


def test_one_stall_of_a_caller_who_waits_shows_in_all_requests_that_were_due_meanwhile():
    """A driver that waits for the answer: 40 of 100 requests are due during the stall, one of them looks slow to it."""
    calls = iter(range(100))
    run = run_of(bare.at_rate(lambda _: time.sleep(STALL_S if next(calls) == 20 else 0), ["text"], 100, rate_per_s=200.0))
    figures = latency.open_loop(run, 200.0)
    assert latency.summary(run.latencies_s)["p95_ms"] < STALL_S * 1e3 / 4 < figures["p90_ms"]
    assert STALL_S * 1e3 <= figures["max_ms"] < STALL_S * 1e3 * 1.5
    late = (latency.corrected(run, 200.0) > 0.01).sum()
    assert 30 <= late <= 60


def test_without_a_stall_nothing_is_corrected():
    run = run_of({"begins_s": [n / 100 for n in range(50)], "latencies_s": [0.002] * 50})
    assert latency.corrected(run, 100.0) == pytest.approx([0.002] * 50)


def test_a_failed_request_keeps_its_place_among_those_that_were_due():
    requests = [(n / 10, 0.01, "" if n != 2 else "UNAVAILABLE") for n in range(6)]
    run = latency.Run.of(reversed(requests))
    assert latency.corrected(run, 10.0) == pytest.approx([0.01] * 5)
    assert latency.open_loop(run, 10.0)["errors"] == {"UNAVAILABLE": 1}
    assert latency.open_loop(run, 10.0)["achieved_per_s"] == pytest.approx(5 / 0.6)


def test_a_run_without_answers_has_no_latencies():
    run = latency.Run.of([(0.0, 1.0, "UNAVAILABLE")])
    assert latency.open_loop(run, 10.0) == {"offered_per_s": 10.0, "achieved_per_s": 0.0, "requests": 1, "errors": {"UNAVAILABLE": 1}}
    with pytest.raises(ValueError, match="no request"):
        latency.summary([])


def test_throughput_leaves_out_ramp_and_drain():
    """Two callers, an answer every second each, and one that drags on at the end."""
    requests = [(float(n // 2), 1.0, "") for n in range(20)] + [(10.0, 30.0, "")]
    assert latency.texts_per_s(latency.Run.of(requests), 2) == pytest.approx(2.0, rel=0.1)
    assert latency.texts_per_s(latency.Run.of(requests, texts_per_request=3), 2) == pytest.approx(6.0, rel=0.1)
    with pytest.raises(ValueError, match="too few"):
        latency.texts_per_s(latency.Run.of(requests[:7]), 2)


def test_throughput_is_that_of_texts_of_the_mean_length_whatever_the_busy_part_held():
    """Each text takes as many seconds as it has tokens, and the long ones come at the ends, which are left out."""
    tokens = [9] * 4 + [1] * 24 + [9] * 4
    begins = np.cumsum([0, *tokens[:-1]])
    run = latency.Run.of([(float(begin), float(size), "") for begin, size in zip(begins, tokens, strict=True)])
    assert latency.texts_per_s(run, 4, tokens) == pytest.approx(1 / np.mean(tokens))
    assert latency.texts_per_s(run, 4) == pytest.approx(1.0)


def test_the_report_of_ghz_gives_begins_in_order_and_its_errors():
    details = [
        {"timestamp": "2026-01-31T12:00:01.500000250Z", "latency": 500_000_000, "status": "OK", "error": ""},
        {"timestamp": "2026-01-31T12:00:01Z", "latency": 250_000_000, "status": "OK", "error": ""},
        {"timestamp": "2026-01-31T13:00:02.25+01:00", "latency": 1, "status": "Unavailable", "error": "rpc error"},
    ]
    run = ghz.parse({"details": details}, 2)
    assert np.diff(run.begins_s) == pytest.approx([0.25, 1.25], abs=1e-5)
    assert run.latencies_s.tolist() == [0.25, 0.5, 1e-9]
    assert (run.answered.tolist(), run.errors, run.texts_per_request) == ([True, True, False], {"Unavailable": 1}, 2)


class StallingServer:
    """Answers HTTP at once, but nobody from stall_at for STALL_S; every request of which the body begins with "fail" gets a 500."""

    def __init__(self, stall_at_s: float) -> None:
        self._stall_at_s = stall_at_s

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            body = await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
            if 0 <= (since := time.perf_counter() - self._stall_at_s) < STALL_S:
                await asyncio.sleep(STALL_S - since)
            status = b"500 Internal Server Error" if b"fail" in body else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\nhello")
            await writer.drain()


@contextlib.contextmanager
def serving(server: StallingServer) -> Iterator[str]:
    loop, started = asyncio.new_event_loop(), threading.Event()
    addresses: list[str] = []

    async def serve() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await server.answer(reader, writer)
            writer.close()

        listening = await asyncio.start_server(answer, "127.0.0.1", 0)
        addresses.append(f"127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        started.set()
        await ended.wait()
        listening.close()

    ended = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait(10)
    try:
        yield addresses[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def test_the_open_loop_over_http_goes_on_sending_while_the_server_stalls():
    with serving(StallingServer(time.perf_counter() + 0.3)) as address:
        load = UnaryLoad(address=address, requests=[["text"]], total=80, rate_per_s=100)
        run = http_driver.run(load, "model")
    figures = latency.open_loop(run, 100.0)
    assert (figures["requests"], figures["errors"]) == (80, {})
    assert figures["p50_ms"] < 50
    assert STALL_S * 1e3 / 2 < figures["p95_ms"] <= figures["max_ms"] < STALL_S * 1e3 * 1.5
    assert np.diff(run.begins_s).max() < STALL_S / 2


def test_the_closed_loop_over_http_counts_errors():
    with serving(StallingServer(0.0)) as address:
        load = UnaryLoad(address=address, requests=[["text"], ["fail"]], total=40, concurrency=4)
        run = http_driver.run(load, "model")
    assert (len(run.begins_s), run.errors) == (40, {"HTTP 500": 20})
