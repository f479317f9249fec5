"""make bench-growth: what a text costs as callers, lengths, calls and streams grow, and what memory that takes.

Each of the four curves should be flat or falling: the run fails where one rises by more than its tolerance.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.load import ghz, latency, results, workloads
from benchmarks.load.bench_load import WORK, answers, requests_of, say
from benchmarks.load.bench_peers import caption
from benchmarks.load.growth import Curve
from benchmarks.load.hubwire_server import HubwireServer
from benchmarks.load.plots import growth as plot
from benchmarks.load.processes import Child, stop_on_signals

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LENGTHS = (12, 24, 48, 96, 192, 256)
TEXTS_PER_CALL = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
STREAM_TEXTS = (1_000, 10_000, 50_000, 200_000)
LENGTH_CONCURRENCY = 16
IN_FLIGHT = 128
LEAST_TEXTS = 64
POINT_S = 1.5
"""How long one measurement of a point takes."""
MEMORY_EVERY_S = 0.25
MEMORY_TOLERANCE = 0.15
NOISE = 0.15
"""What two measurements of the same thing differ by on a shared machine."""


@dataclass(slots=True)
class Memory:
    """The most resident memory of front and worker while a point was measured, in MB."""

    front_mb: float = 0.0
    worker_mb: float = 0.0

    def add(self, server: HubwireServer) -> None:
        """Takes a look."""
        sizes = [process.memory_info().rss / 1e6 for process in server.process.family()]
        self.front_mb = max(self.front_mb, sizes[0])
        self.worker_mb = max(self.worker_mb, sum(sizes[1:]))


@dataclass(slots=True)
class Points:
    """The rounds of one curve: costs and memory by size."""

    costs: dict[int, list[float]] = field(default_factory=dict)
    memory: dict[int, Memory] = field(default_factory=dict)

    def median_costs(self) -> list[float]:
        """The median cost of each size."""
        return [statistics.median(costs) for costs in self.costs.values()]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 where every curve is flat or falling."""
    parser = argparse.ArgumentParser(prog="bench_growth", description="Measure how the cost of a text grows.")
    parser.add_argument("--server-args", default="", help="flags of `hubwire serve`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="how long each measurement takes, for a first look (default: %(default)s)")
    parser.add_argument("--max-stream", type=int, default=STREAM_TEXTS[-1], help="the longest stream (default: %(default)s)")
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args(argv)
    stop_on_signals()
    start = time.perf_counter()
    server = HubwireServer(args.server_args, log=WORK / "growth.log")
    stream = Child("benchmarks.load.stream", log=WORK / "growth-stream.log")
    try:
        bench = Bench(server, stream, args.scale)
        points = bench.measure(args.rounds, [count for count in STREAM_TEXTS if count <= args.max_stream])
    finally:
        stream.stop()
        server.stop()
    found = curves(points)
    memory = {name: [m.front_mb + m.worker_mb for m in part.memory.values()] for name, part in points.items()}
    grown = memory_curve(points["stream length"])
    figures = {
        "served": server.model,
        "curves": [curve.as_dict() for curve in [*found, grown]],
        "costs": {name: {str(size): costs for size, costs in part.costs.items()} for name, part in points.items()},
        "memory_mb": {name: {str(size): dataclasses.asdict(m) for size, m in part.memory.items()} for name, part in points.items()},
    }
    options = {"server": args.server_args, "rounds": args.rounds, "scale": args.scale, "minutes": (time.perf_counter() - start) / 60}
    result = results.record("growth", options, figures)
    print(f"\n{results.headline(result)}; {server.model['backend']} {server.model['dtype']}; {options['minutes']:.1f} minutes")
    for curve in [*found, grown]:
        print(curve)
    if not args.no_write:
        plot([curve.as_dict() for curve in found], memory, caption(result), results.RESULTS / "growth.svg")
        print(f"written to {results.write(result).relative_to(results.ROOT)} and growth.svg beside it")
    return 0 if all(curve.holds for curve in [*found, grown]) else 1


def curves(points: dict[str, Points]) -> list[Curve]:
    """The four curves, each with what it may rise by and why."""
    specs = {
        "concurrency": ("callers", "ms a text", NOISE, "noise; more callers fill batches"),
        "length": ("tokens in a text", "us a token", 0.25, "noise, and attention, whose work per token grows with the length"),
        "texts per call": ("texts in a call", "ms a text", NOISE, "noise; a call costs the same for more texts"),
        "stream length": ("texts in a stream", "ms a text", NOISE, "noise; a stream keeps nothing of what it answered"),
    }
    return [
        Curve(
            name=name,
            size_unit=size_unit,
            cost_unit=cost_unit,
            sizes=list(points[name].costs),
            costs=points[name].median_costs(),
            tolerance=tolerance,
            reason=reason,
        )
        for name, (size_unit, cost_unit, tolerance, reason) in specs.items()
    ]


def memory_curve(points: Points) -> Curve:
    """The memory that a stream takes, by its length."""
    return Curve(
        name="memory by stream length",
        size_unit="texts in a stream",
        cost_unit="MB of front and worker",
        sizes=list(points.memory),
        costs=[memory.front_mb + memory.worker_mb for memory in points.memory.values()],
        tolerance=MEMORY_TOLERANCE,
        reason="an allocator may keep what a longer stream once used; nothing else may grow with it",
    )


class Bench:
    """What measures points."""

    def __init__(self, server: HubwireServer, stream: Child, scale: float) -> None:
        self._server = server
        self._stream = stream
        self._seconds = POINT_S * scale
        self._request_s: dict[str, float] = {}

    def measure(self, rounds: int, stream_texts: Sequence[int]) -> dict[str, Points]:
        """The points of all curves. Streams of more than the second size are measured once: they are long enough to be their own median."""
        found = {name: Points() for name in ("concurrency", "length", "texts per call", "stream length")}
        steps: list[tuple[str, Sequence[int], Callable[[int], float]]] = [
            ("concurrency", CONCURRENCIES, self._at_concurrency),
            ("length", LENGTHS, self._of_length),
            ("texts per call", TEXTS_PER_CALL, self._in_calls),
            ("stream length", stream_texts, self._streamed),
        ]
        self._at_concurrency(64)  # warms up
        for number in range(rounds):
            for name, sizes, step in steps:
                for size in sizes:
                    if name == "stream length" and number and size > STREAM_TEXTS[1]:
                        continue
                    with self._memory(found[name].memory.setdefault(size, Memory())):
                        cost = step(size)
                    found[name].costs.setdefault(size, []).append(cost)
                say(f"round {number + 1}, {name}: " + ", ".join(f"{size}: {costs[-1]:.4g}" for size, costs in found[name].costs.items()))
        return found

    @contextmanager
    def _memory(self, memory: Memory) -> Iterator[None]:
        """Watches the memory meanwhile."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(MEMORY_EVERY_S):
                memory.add(self._server)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            memory.add(self._server)

    def _unary(self, point: str, requests: Sequence[Sequence[str]], concurrency: int) -> float:
        """Milliseconds a text over gRPC. The first look at a point finds how many requests take the wanted time."""
        total = max(6 * concurrency, LEAST_TEXTS // len(requests[0]))
        if point in self._request_s:
            total = max(total, round(self._seconds / self._request_s[point]))
        run = ghz.run(ghz.UnaryLoad(address=self._server.address, requests=requests, total=total, concurrency=concurrency))
        answers(run)
        per_text_s = 1 / latency.texts_per_s(run, concurrency)
        self._request_s[point] = per_text_s * len(requests[0])
        return per_text_s * 1e3

    def _at_concurrency(self, concurrency: int) -> float:
        return self._unary(f"concurrency {concurrency}", requests_of("short"), concurrency)

    def _of_length(self, tokens: int) -> float:
        rng = random.Random(tokens)
        requests = [[workloads.text_of(tokens, rng)] for _ in range(256)]
        return self._unary(f"length {tokens}", requests, LENGTH_CONCURRENCY) / tokens * 1e3

    def _in_calls(self, texts: int) -> float:
        return self._unary(f"texts per call {texts}", requests_of("short", max(4, 256 // texts), texts), 1)

    def _streamed(self, texts: int) -> float:
        figures = self._stream.ask(
            "stream", address=self._server.address, workload="short", total=texts, in_flight=IN_FLIGHT, timeout_s=600.0
        )
        return float(workloads.SHORT_TOKENS / figures["tokens_per_s"] * 1e3)


if __name__ == "__main__":
    sys.exit(main())
