"""Which way of running a model is the fastest on this CPU: timing the candidates, and choosing among them.

Every candidate has passed a check of equality before it comes here. They take turns on one short text, which is what a single call costs,
and on one batch of mixed lengths, which is what throughput costs. The shortest time of each counts, since a busy machine only adds to it.
Nothing here imports an engine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hubwire_server.backends.base import Candidate, RaggedBatch

SHORT_LENGTHS = (12,)
MIXED_LENGTHS = (38, 12, 70, 23, 120, 31, 9, 52, 17, 96, 27, 44, 14, 180, 36, 61)
"""Tokens of the texts that are timed. The mixed ones are distributed as those of the benchmarks are: a median of 37, a mean of 52."""

TIME_BUDGET_S = 2.0
"""What timing all candidates of a model may take."""
SHORT_SHARE = 0.4
"""How much of it goes to the short text."""
MAX_ROUNDS = 12
"""More rounds than this would measure nothing new."""

MIN_GAIN = 1.05
"""How much faster a candidate must be than one that is preferred otherwise, so that noise does not choose."""
EQUAL_COSINE = 0.99999
"""How close vectors in float32 must be to those of torch in float32."""
MIN_COSINE = 0.9995
"""How close the vectors of a number format below float32 must be to those of float32 to be chosen without being asked for."""

Forward = Callable[[RaggedBatch], Any]


@dataclass(frozen=True, slots=True)
class Timing:
    """The shortest time of a short text and of the mixed batch in nanoseconds; 0 where there was no time for it."""

    short_ns: int
    mixed_ns: int


def time_candidates(
    forwards: Sequence[Forward],
    texts: Callable[[Sequence[int]], RaggedBatch],
    *,
    budget_s: float = TIME_BUDGET_S,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[Timing]:
    """Times every candidate, in turns, within the budget. texts gives a batch of texts of some lengths.

    A model that is slow gets a smaller mixed batch, and one that has no time even for that is timed on the short text alone.
    """
    start = clock()
    stop_short = start + int(budget_s * SHORT_SHARE * 1e9)
    stop = start + int(budget_s * 1e9)
    short = _rounds(forwards, texts(SHORT_LENGTHS), stop_short, clock)
    lengths = _affordable(sum(short) / sum(SHORT_LENGTHS), stop - clock())
    mixed = _rounds(forwards, texts(lengths), stop, clock) if lengths else [0] * len(forwards)
    return [Timing(*pair) for pair in zip(short, mixed, strict=True)]


def _affordable(round_ns_per_token: float, left_ns: int) -> Sequence[int]:
    """The mixed texts that two rounds have time for, if a token costs what it does in a short text, which is more than it does in a long
    one."""
    totals = np.cumsum(MIXED_LENGTHS)
    return MIXED_LENGTHS[: int(np.searchsorted(totals * round_ns_per_token * 2, left_ns, side="right"))]


def _rounds(forwards: Sequence[Forward], batch: RaggedBatch, stop: int, clock: Callable[[], int]) -> list[int]:
    """The shortest time of each in nanoseconds. The first round, in which engines make kernels and memory, counts where there is no time
    for a second.
    """
    best = [0] * len(forwards)
    for number in range(MAX_ROUNDS):
        round_start = clock()
        for index, forward in enumerate(forwards):
            start = clock()
            forward(batch)
            elapsed = max(1, clock() - start)
            best[index] = elapsed if number <= 1 else min(best[index], elapsed)
        if clock() + (clock() - round_start) > stop:
            break
    return best


def choose(candidates: Sequence[Candidate]) -> int:
    """The index of the candidate to serve with, of those that were timed.

    Of those in float32 the fastest over both batches; onnx where the two are as good as equal, since it starts without torch. A lower
    precision replaces it only where its cosine is high enough and it is faster on both: it must not cost a single call its latency. Where
    there is none in float32, a lower precision was asked for, and the fastest is taken.
    """
    timed = [index for index, candidate in enumerate(candidates) if candidate.short_ns]
    exact = [index for index in timed if candidates[index].dtype == "float32"] or timed
    best = min(exact, key=lambda index: _cost(candidates[index]) * (1.0 if candidates[index].backend == "onnx" else MIN_GAIN))
    faster = [index for index in timed if candidates[index].cosine >= MIN_COSINE and _is_faster(candidates[index], candidates[best])]
    return min(faster, key=lambda index: _cost(candidates[index]), default=best)


def _cost(candidate: Candidate) -> float:
    """The geometric mean of the two times, so that neither of them outweighs the other."""
    return math.sqrt(candidate.short_ns * (candidate.mixed_ns or candidate.short_ns))


def _is_faster(candidate: Candidate, than: Candidate) -> bool:
    pairs = ((candidate.short_ns, than.short_ns), (candidate.mixed_ns, than.mixed_ns))
    return candidate.dtype != "float32" and all(mine * MIN_GAIN <= other for mine, other in pairs if other)
