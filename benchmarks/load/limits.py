"""What must hold: six lines, each of one or more figures with its limit, from the rounds of one run.

A ratio is taken within each round, between measurements that follow each other, and its median over the rounds is the figure: what the
machine does to one round it does to both sides. A figure that could not be measured is missing with its reason, and its line misses.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

C1_EXTRA_MS = 0.4
C1_P99_OVER_P50 = 2.5
C64_SHORT = 0.85
C64_MIXED = 0.95
OFFLINE_OVER_BASELINE = 1.8
OFFLINE_OVER_GEMM = 0.70
STREAM = 0.95
COSINE = 0.99999
WARM_START_S = 3.0
COLD_START_S = 20.0
MEMORY_MB = 350.0

Rounds = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure and its limit. value is None where it was not measured, and note then says why."""

    name: str
    value: float | None
    limit: float
    at_most: bool = False
    """Whether the limit is the largest value that holds, or the smallest one."""
    unit: str = ""
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether it was measured and keeps its limit."""
        return self.value is not None and (self.value <= self.limit if self.at_most else self.value >= self.limit)

    def __str__(self) -> str:
        # Six digits for a cosine, which differs from 1 in the sixth.
        digits = ".6f" if self.name.startswith("cosine") else ".3g"
        limit = f"{'at most' if self.at_most else 'at least'} {self.limit:g}{self.unit}"
        if self.value is None:
            return f"{self.name} not run ({self.note}; {limit})"
        note = f", {self.note}" if self.note else ""
        return f"{self.name} {self.value:{digits}}{self.unit} ({limit}{note})"


@dataclass(frozen=True, slots=True)
class Line:
    """One of the six."""

    title: str
    figures: tuple[Figure, ...]

    @property
    def holds(self) -> bool:
        """Whether every figure does."""
        return all(figure.holds for figure in self.figures)

    def __str__(self) -> str:
        return f"{'holds ' if self.holds else 'MISSES'} {self.title}: {'; '.join(map(str, self.figures))}"

    def as_dict(self) -> dict[str, Any]:
        """For the result."""
        figures = [{"name": f.name, "value": f.value, "limit": f.limit, "holds": f.holds, "note": f.note} for f in self.figures]
        return {"title": self.title, "holds": self.holds, "figures": figures}


def six_lines(rounds: Rounds, cosines: Mapping[str, float], once: Mapping[str, float], not_run: Mapping[str, str]) -> list[Line]:
    """The lines from the figures of each round, the cosines by backend, what was measured once, and the reasons for what was not."""
    read = _Reader(rounds, not_run)
    return [
        Line(
            "concurrency 1, 12 tokens",
            (
                read.difference("p50 over the bare loop", "grpc_c1_p50_ms", "bare_p50_ms", C1_EXTRA_MS),
                read.ratio("p99 / p50", "grpc_c1_p99_ms", "grpc_c1_p50_ms", C1_P99_OVER_P50, at_most=True, unit="x"),
            ),
        ),
        Line(
            "concurrency 64 / offline",
            (
                read.ratio("short", "grpc_c64_short_per_s", "offline_short_per_s", C64_SHORT),
                read.ratio("mixed", "grpc_c64_mixed_per_s", "offline_mixed_per_s", C64_MIXED),
            ),
        ),
        Line(
            "offline mixed",
            (
                read.ratio("over sentence-transformers", "offline_mixed_per_s", "baseline_mixed_per_s", OFFLINE_OVER_BASELINE, unit="x"),
                read.ratio("of the GEMM limit", "offline_mixed_per_s", "gemm_mixed_per_s", OFFLINE_OVER_GEMM),
            ),
        ),
        Line(
            "StreamEmbed, 128 in flight / offline",
            (
                read.ratio("short", "stream_short_per_s", "offline_short_per_s", STREAM),
                read.ratio("mixed", "stream_mixed_per_s", "offline_mixed_per_s", STREAM),
            ),
        ),
        Line(
            "equal to sentence-transformers in float32, lowest of all texts",
            tuple(read.given(f"cosine by {backend}", cosines, backend, COSINE) for backend in ("torch", "onnx")),
        ),
        Line(
            "start",
            (
                read.median("first embedding, warm cache", "start_warm_s", WARM_START_S, unit=" s"),
                read.median("front and worker", "start_rss_mb", MEMORY_MB, unit=" MB"),
                read.given("first embedding, no cache", once, "start_cold_s", COLD_START_S, at_most=True, unit=" s"),
            ),
        ),
    ]


class _Reader:
    """Makes figures of rounds."""

    def __init__(self, rounds: Rounds, not_run: Mapping[str, str]) -> None:
        self._rounds = rounds
        self._not_run = not_run

    def _values(self, key: str) -> list[float] | None:
        values = [figures[key] for figures in self._rounds if key in figures]
        return values if len(values) == len(self._rounds) > 0 else None

    def _reason(self, *keys: str) -> str:
        return next((self._not_run[key] for key in keys if key in self._not_run), "not measured in every round")

    def ratio(self, name: str, ours: str, theirs: str, limit: float, **options: Any) -> Figure:
        over, under = self._values(ours), self._values(theirs)
        if over is None or under is None:
            return Figure(name=name, value=None, limit=limit, note=self._reason(ours, theirs), **options)
        ratios = [a / b for a, b in zip(over, under, strict=True)]
        note = f"{statistics.median(over):.4g} / {statistics.median(under):.4g}"
        return Figure(name=name, value=statistics.median(ratios), limit=limit, note=note, **options)

    def difference(self, name: str, ours: str, theirs: str, limit: float) -> Figure:
        over, under = self._values(ours), self._values(theirs)
        if over is None or under is None:
            return Figure(name=name, value=None, limit=limit, at_most=True, unit=" ms", note=self._reason(ours, theirs))
        note = f"{statistics.median(over):.3f} - {statistics.median(under):.3f}"
        value = statistics.median(a - b for a, b in zip(over, under, strict=True))
        return Figure(name=name, value=value, limit=limit, at_most=True, unit=" ms", note=note)

    def median(self, name: str, key: str, limit: float, unit: str) -> Figure:
        values = self._values(key)
        if values is None:
            return Figure(name=name, value=None, limit=limit, at_most=True, unit=unit, note=self._reason(key))
        return Figure(name=name, value=statistics.median(values), limit=limit, at_most=True, unit=unit)

    def given(self, name: str, values: Mapping[str, float], key: str, limit: float, *, at_most: bool = False, unit: str = "") -> Figure:
        reason = "" if key in values else self._reason(key)
        return Figure(name=name, value=values.get(key), limit=limit, at_most=at_most, unit=unit, note=reason)
