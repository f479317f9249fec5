"""Where the time of a call goes between its bytes and those of its answer: `make profile`.

    python -m benchmarks.budget [--json FILE] [--serve ARGUMENTS]

The server is started as its users start it, and asked for one 12-token text at a time: first by one caller, in turn with the same engine in
a loop without a server, then by 64 callers at once. The stages are the server's own timings (hubwire.v1.Timings); `send` is what the caller
waits beyond them: gRPC on both sides, and the system. The processor's time is that of each process over a whole part.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil

from benchmarks.load import workloads
from benchmarks.load.commands import answer_commands, own_output
from benchmarks.load.hubwire_server import HubwireServer
from benchmarks.load.processes import Child
from benchmarks.load.results import commit, machine, versions
from hubwire.v1 import embedding_pb2
from hubwire_server.models.sources import resolve
from hubwire_server.settings import DEMO_SOURCE, parse

METHOD = "/hubwire.v1.EmbeddingService/Embed"
ROUNDS = 5
CALLS = 160
"""Calls of a round by one caller, and texts of a round without a server."""
CALLERS = 64
CALLS_AT_ONCE = 6_400
WARM_CALLS = 100
STAGES = ("decode", "tokenize", "queue", "transfer", "compute", "encode")
"""They follow each other; forward and pool are parts of compute."""
ROWS = ("decode", "tokenize", "queue", "transfer", "forward", "pool", "worker", "encode", "between", "total", "send", "latency")
"""worker is the rest of compute, between the rest of total."""


@dataclass(frozen=True, slots=True)
class Part:
    """Calls that were measured together: the latency of each in nanoseconds, its answer's bytes, and the processor's seconds by process."""

    latencies_ns: list[int]
    answers: list[bytes]
    elapsed_s: float
    processor_s: dict[str, float]

    def stages(self) -> dict[str, list[float]]:
        """The microseconds of each call in each row."""
        rows: dict[str, list[float]] = {row: [] for row in ROWS}
        for latency_ns, answer in zip(self.latencies_ns, self.answers, strict=True):
            timings = embedding_pb2.EmbedResponse.FromString(answer).timings
            stage = {name: getattr(timings, f"{name}_nanos") for name in (*STAGES, "forward", "pool", "total")}
            stage["worker"] = stage["compute"] - stage["forward"] - stage["pool"]
            stage["between"] = stage["total"] - sum(stage[name] for name in STAGES)
            stage["send"] = latency_ns - stage["total"]
            stage["latency"] = latency_ns
            for row in ROWS:
                rows[row].append(stage[row] / 1e3)
        return rows

    def texts_per_batch(self) -> float:
        """Answers of one batch carry the same times to the nanosecond."""
        timings = [embedding_pb2.EmbedResponse.FromString(answer).timings for answer in self.answers]
        return len(timings) / len({(timing.compute_nanos, timing.forward_nanos, timing.pool_nanos) for timing in timings})


def processor_s(processes: dict[str, psutil.Process]) -> dict[str, float]:
    """The processor's seconds that each process has used. Linux counts them in nanoseconds for each thread."""
    used = {"client": time.process_time()}
    for name, process in processes.items():
        counters = list(Path(f"/proc/{process.pid}/task").glob("*/schedstat"))
        used[name] = sum(int(counter.read_text().split()[0]) for counter in counters) / 1e9 if counters else sum(process.cpu_times()[:2])
    return used


def in_turn(address: str, requests: Sequence[bytes], processes: dict[str, psutil.Process]) -> Part:
    """One caller, one call after the other."""
    with grpc.insecure_channel(address) as channel:
        embed = channel.unary_unary(METHOD)
        for request in requests[:WARM_CALLS]:
            embed(request)
        latencies, answers = [], []
        before, start = processor_s(processes), time.perf_counter()
        for request in requests:
            sent = time.perf_counter_ns()
            answers.append(embed(request))
            latencies.append(time.perf_counter_ns() - sent)
        elapsed = time.perf_counter() - start
        after = processor_s(processes)
    return Part(latencies, answers, elapsed, {name: after[name] - before[name] for name in after})


async def at_once(address: str, requests: Sequence[bytes], processes: dict[str, psutil.Process]) -> Part:
    """CALLERS callers, each with one call after the other."""
    latencies: list[int] = []
    answers: list[bytes] = []
    async with grpc.aio.insecure_channel(address) as channel:
        embed = channel.unary_unary(METHOD)

        async def caller(mine: Sequence[bytes]) -> None:
            for request in mine:
                sent = time.perf_counter_ns()
                answers.append(await embed(request))
                latencies.append(time.perf_counter_ns() - sent)

        await asyncio.gather(*(caller(requests[:4]) for _ in range(CALLERS)))
        latencies.clear()
        answers.clear()
        before, start = processor_s(processes), time.perf_counter()
        await asyncio.gather(*(caller(requests[number::CALLERS]) for number in range(CALLERS)))
        elapsed = time.perf_counter() - start
        after = processor_s(processes)
    return Part(latencies, answers, elapsed, {name: after[name] - before[name] for name in after})


def joined(parts: Sequence[Part]) -> Part:
    """Several parts as one."""
    return Part(
        [latency for part in parts for latency in part.latencies_ns],
        [answer for part in parts for answer in part.answers],
        sum(part.elapsed_s for part in parts),
        {name: sum(part.processor_s[name] for part in parts) for name in parts[0].processor_s},
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(part: Part) -> dict[str, Any]:
    """What is printed and written of a part, in microseconds."""
    calls = len(part.answers)
    rows = part.stages()
    return {
        "calls": calls,
        "calls_per_s": calls / part.elapsed_s,
        "texts_per_batch": part.texts_per_batch(),
        "p50_us": {row: statistics.median(values) for row, values in rows.items()},
        "p99_us": {row: percentile(values, 0.99) for row, values in rows.items()},
        "mean_us": {row: statistics.fmean(values) for row, values in rows.items()},
        "processor_us_per_call": {name: used / calls * 1e6 for name, used in part.processor_s.items()},
    }


def measure(serve: str) -> dict[str, Any]:
    """Everything that is printed."""
    texts = workloads.texts("short", CALLS_AT_ONCE)
    requests = [embedding_pb2.EmbedRequest(texts=[text]).SerializeToString() for text in texts]
    with tempfile.TemporaryDirectory(prefix="hubwire-budget-") as folder:
        server = HubwireServer(serve, log=Path(folder) / "server.log")
        try:
            front, worker = server.process.family()[:2]
            processes = {"front": front, "worker": worker}
            options = json.dumps(server.load_options())
            models = parse(server.arguments).models
            model = resolve(models[0].source if models else DEMO_SOURCE).path
            loop = Child("benchmarks.budget", ["--loop", str(model), options], log=Path(folder) / "loop.log")
            try:
                bare: list[float] = []
                parts: list[Part] = []
                for _ in range(ROUNDS):
                    bare += loop.ask("loop", texts=texts[:CALLS])["us"]
                    parts.append(in_turn(server.address, requests[:CALLS], processes))
            finally:
                loop.stop()
            together = asyncio.run(at_once(server.address, requests, processes))
            return {
                "machine": machine(),
                "commit": commit(),
                "versions": versions(),
                "options": {"serve": server.arguments, "model": server.model, "tokens": workloads.SHORT_TOKENS, "callers": CALLERS},
                "loop": {"p50_us": statistics.median(bare), "p99_us": percentile(bare, 0.99)},
                "one_caller": summary(joined(parts)),
                "many_callers": summary(together),
            }
        finally:
            server.stop()


def loop_without_server(folder: str, options: str) -> None:
    """The child: the server's engine in a loop."""
    output = own_output()
    from benchmarks.load.offline import Offline

    offline = Offline(Path(folder), json.loads(options))

    def loop(texts: list[str]) -> dict[str, Any]:
        took = []
        for text in [*texts[:10], *texts]:
            start = time.perf_counter()
            offline.embed([text])
            took.append((time.perf_counter() - start) * 1e6)
        return {"us": took[10:]}

    answer_commands(offline.description, {"loop": loop}, output)


def report(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    one, many, loop = figures["one_caller"], figures["many_callers"], figures["loop"]
    lines = [f"{'microseconds a call':22}{'1 caller p50':>14}{'p99':>10}{f'{CALLERS} callers mean':>18}"]
    lines += [f"{row:22}{one['p50_us'][row]:14.0f}{one['p99_us'][row]:10.0f}{many['mean_us'][row]:18.0f}" for row in ROWS]
    lines += [f"{'no server, same engine':22}{loop['p50_us']:14.0f}{loop['p99_us']:10.0f}", "", "processor, microseconds a call"]
    lines += [
        f"{name:22}{one['processor_us_per_call'][name]:14.0f}{'':10}{many['processor_us_per_call'][name]:18.0f}"
        for name in ("front", "worker", "client")
    ]
    lines += [f"{'calls/s':22}{one['calls_per_s']:14.0f}{'':10}{many['calls_per_s']:18.0f}"]
    lines += [f"{'texts a batch':22}{one['texts_per_batch']:14.1f}{'':10}{many['texts_per_batch']:18.1f}"]
    return "\n".join(lines)


def main() -> int:
    """Prints the budget."""
    parser = argparse.ArgumentParser(description="Show where the time of a call goes.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as well")
    parser.add_argument("--serve", default="", metavar="ARGUMENTS", help="arguments for `hubwire serve`")
    parser.add_argument("--loop", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop:
        loop_without_server(*arguments.loop)
        return 0
    figures = measure(arguments.serve)
    print(report(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
