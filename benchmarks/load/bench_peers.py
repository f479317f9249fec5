"""make bench-peers: Hubwire beside what one would use instead, all up at once, measured in turn in one run.

Closed loops give the table: latency for one caller and throughput for 64, each as a figure and as its ratio to Hubwire's in the same
round. Open loops at rising rates give the plot. Before anything is measured, every peer must give the same vectors; one that does not, or
that cannot be had on this machine, is reported as not run, with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.load import latency, results, workloads
from benchmarks.load.bench_load import CONCURRENCY, WORK, answers, exported, model_folder, requests_of, say
from benchmarks.load.ghz import UnaryLoad
from benchmarks.load.peers.running import Peer, start_all, starters
from benchmarks.load.plots import latency_against_load
from benchmarks.load.processes import NotRunError, stop_on_signals

COMPARED_TEXTS = 24
LEAST_COSINE = 0.999
"""Peers may compute in another precision, but not something else."""
C1_S = 1.0
C64_S = 2.5
OPEN_S = 4.0
LEAST_OPEN_REQUESTS = 40
LOADS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
"""The offered loads, as parts of Hubwire's own throughput at concurrency 64."""
KEPT_UP = 0.9
"""A server that answers less than this part of what is offered has reached its end, and is offered no more."""
CLOSED_LOOPS_MINUTES = 8.0
ALL_MINUTES = 14.0
"""On a slow machine no round is begun after the first, and no load is offered after the second, counted from the start of the run."""
MEASURES = {
    "c1_short_p50_ms": ("c=1 short p50, ms", False),
    "c1_short_p99_ms": ("c=1 short p99, ms", False),
    "c64_short_per_s": ("c=64 short, texts/s", True),
    "c64_mixed_per_s": ("c=64 mixed, texts/s", True),
}
"""The columns of the table, and whether more is better."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 where Hubwire was measured."""
    parser = argparse.ArgumentParser(prog="bench_peers", description="Measure Hubwire beside its peers, in one interleaved run.")
    parser.add_argument("--server-args", default="", help="flags of `hubwire serve`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="how long each measurement takes, for a first look (default: %(default)s)")
    parser.add_argument("--only", nargs="*", help="the peers to start beside Hubwire (default: all)")
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args(argv)
    stop_on_signals()
    start = time.perf_counter()
    folder = model_folder()
    wanted = starters(folder, exported(folder), args.server_args, WORK)
    wanted = {name: starter for name, starter in wanted.items() if args.only is None or name in ("hubwire", *args.only)}
    with contextlib.ExitStack() as stack:
        up, not_run = start_all(wanted, stack, say)
        if "hubwire" not in up:
            print(f"hubwire is not run: {not_run['hubwire']}", file=sys.stderr)
            return 1
        not_run |= unequal(up)
        peers = {name: peer for name, peer in up.items() if name not in not_run}
        rounds = closed_loops(peers, args.rounds, args.scale, not_run, deadline_s=start + 60 * CLOSED_LOOPS_MINUTES)
        deadline_s = start + 60 * ALL_MINUTES
        top = {w: statistics.median(figures["hubwire"][f"c64_{w}_per_s"] for figures in rounds) for w in ("short", "mixed")}
        figures = {
            "labels": {name: peer.label for name, peer in peers.items()},
            "versions": {name: peer.versions for name, peer in peers.items()},
            "memory_mb": {name: peer.memory_mb() for name, peer in peers.items()},
            "rounds": rounds,
            "open_loop": {workload: open_loops(peers, workload, top[workload], args.scale, deadline_s) for workload in top},
            "not_run": not_run,
        }
    figures["table"] = table(rounds)
    options = {"server": args.server_args, "rounds": len(rounds), "scale": args.scale, "minutes": (time.perf_counter() - start) / 60}
    result = results.record("peers", options, figures)
    print(f"\n{results.headline(result)}\nmedians of {len(rounds)} interleaved rounds; in brackets how many times better Hubwire is")
    print_table(figures, not_run)
    if not args.no_write:
        latency_against_load(figures, caption(result), results.RESULTS / "peers.svg")
        print(f"written to {results.write(result).relative_to(results.ROOT)} and peers.svg beside it")
    return 0


def unequal(up: Mapping[str, Peer]) -> dict[str, str]:
    """The peers whose vectors are not Hubwire's, with the reason."""
    texts = workloads.texts("mixed", COMPARED_TEXTS)
    expected = np.array(up["hubwire"].embed(texts))
    found = {}
    for name, peer in up.items():
        vectors = np.array(peer.embed(texts))
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
        lowest = float((np.einsum("nd,nd->n", vectors, expected) / norms).min())
        if not lowest >= LEAST_COSINE:
            found[name] = f"its vectors differ: the lowest cosine to Hubwire's is {lowest:.4f}"
            say(f"{name} is not run: {found[name]}")
    return found


def closed_loops(
    peers: Mapping[str, Peer], rounds: int, scale: float, not_run: dict[str, str], deadline_s: float = math.inf
) -> list[dict[str, dict[str, float]]]:
    """The figures of each round, by peer. A peer that fails is taken out of every round and put into not_run."""
    found: list[dict[str, dict[str, float]]] = []
    sizes: dict[str, dict[str, int]] = {}
    for number in range(-1, rounds):  # the first round finds how many requests take the wanted time, and is thrown away
        if found and time.perf_counter() > deadline_s:
            say(f"time is up after {number} rounds")
            break
        figures = {}
        for name in [name for name in peers if name not in not_run]:
            try:
                figures[name] = closed_loop_figures(peers[name], sizes.get(name, {}))
            except (NotRunError, ValueError) as error:
                not_run[name] = str(error)
                say(f"{name} failed: {error}")
                continue
            if number < 0:
                sizes[name] = {
                    "c1": max(50, round(1000 / figures[name]["c1_short_p50_ms"] * C1_S * scale)),
                    "short": round(figures[name]["c64_short_per_s"] * C64_S * scale),
                    "mixed": round(figures[name]["c64_mixed_per_s"] * C64_S * scale),
                }
        if number >= 0:
            found.append(figures)
            say(
                f"round {number + 1}: "
                + "; ".join(f"{name} {values['c64_mixed_per_s']:.0f}" for name, values in figures.items())
                + " mixed texts/s"
            )
    return [{name: values for name, values in figures.items() if name not in not_run} for figures in found]


def closed_loop_figures(peer: Peer, sizes: Mapping[str, int]) -> dict[str, float]:
    """The figures of one peer in one round. A size that is not given is a small one."""
    run = peer.drive(UnaryLoad(address="", requests=requests_of("short"), total=sizes.get("c1", 50)))
    summary = latency.summary(answers(run))
    figures = {"c1_short_p50_ms": summary["p50_ms"], "c1_short_p99_ms": summary["p99_ms"]}
    for workload in ("short", "mixed"):
        total = max(sizes.get(workload, 0), 2 * CONCURRENCY) + 2 * CONCURRENCY
        run = peer.drive(UnaryLoad(address="", requests=requests_of(workload, total), total=total, concurrency=CONCURRENCY))
        answers(run)
        figures[f"c64_{workload}_per_s"] = latency.texts_per_s(run, CONCURRENCY, workloads.token_counts(workload, total))
    return figures


def open_loops(
    peers: Mapping[str, Peer], workload: str, top_per_s: float, scale: float, deadline_s: float
) -> dict[str, list[dict[str, Any]]]:
    """Latencies at rising loads, by peer: each load is offered to all peers before the next one."""
    lines: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
    running = set(peers)
    for part in LOADS:
        if time.perf_counter() > deadline_s:
            say(f"time is up: {workload} texts were offered at less than {part:.0%} of Hubwire's throughput")
            break
        rate = max(1, round(part * top_per_s))
        total = max(LEAST_OPEN_REQUESTS, round(rate * OPEN_S * scale))
        for name in [name for name in peers if name in running]:
            run = peers[name].drive(UnaryLoad(address="", requests=requests_of(workload, total), total=total, rate_per_s=rate))
            point = latency.open_loop(run, rate)
            lines[name].append(point)
            if point["achieved_per_s"] < KEPT_UP * rate:
                running.remove(name)
        say(
            f"{workload} at {rate}/s: "
            + "; ".join(f"{name} {line[-1].get('p95_ms', 0):.1f}" for name, line in lines.items() if name in running)
            + " ms p95"
        )
    return lines


def table(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """For each peer and measure the median, and the median over the rounds of how many times better Hubwire is."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for name in rounds[0]:
        rows[name] = {}
        for measure, (_, more_is_better) in MEASURES.items():
            ratios = [figures["hubwire"][measure] / figures[name][measure] for figures in rounds]
            better = statistics.median(ratio if more_is_better else 1 / ratio for ratio in ratios)
            rows[name][measure] = {"median": statistics.median(figures[name][measure] for figures in rounds), "hubwire_is_better": better}
    return rows


def print_table(figures: Mapping[str, Any], not_run: Mapping[str, str]) -> None:
    """The table, for people."""
    print(f"{'':34}" + "".join(f"{title:>24}" for title, _ in MEASURES.values()) + f"{'memory, MB':>12}")
    for name, row in figures["table"].items():
        cells = "".join(f"{cell['median']:>15.4g} ({cell['hubwire_is_better']:5.2f}x)" for cell in row.values())
        print(f"{figures['labels'][name]:34}{cells}{figures['memory_mb'][name]:>12.0f}")
    for name, reason in not_run.items():
        print(f"{name:34}not run: {reason}")


def caption(result: Mapping[str, Any]) -> str:
    """What a plot says of its figures."""
    machine = result["machine"]
    processor = f"{machine['cpu']}, {machine['cores']} cores, {machine['simd']}"
    return f"all-MiniLM-L6-v2 on {processor}, load on the same cores; commit {result['commit']['id'][:10]}"


if __name__ == "__main__":
    sys.exit(main())
