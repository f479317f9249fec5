"""What every benchmark shares: ratios within one run, and where they go.

Absolute times move with the machine. So each benchmark measures ours and a baseline in turn, in one interleaved run, and what counts is the
ratio of the medians. pytest-benchmark keeps ours; the ratio is in its extra_info, is printed at the end, and is what gate.py compares with
recorded.json.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from hubwire_server._native import simd_level

_RATIOS: dict[str, str] = {}


@pytest.fixture
def compare(benchmark: BenchmarkFixture) -> Callable[..., float]:
    """compare(name, ours, baseline, rounds=20) runs both in turn and returns how many times faster ours is."""

    def compare(name: str, ours: Callable[[], Any], baseline: Callable[[], Any], *, rounds: int = 20) -> float:
        for call in (ours, baseline, ours, baseline):
            call()
        baseline_s = []
        ours_s = []

        def measured() -> None:
            start = time.perf_counter()
            ours()
            ours_s.append(time.perf_counter() - start)

        def before_each() -> None:
            start = time.perf_counter()
            baseline()
            baseline_s.append(time.perf_counter() - start)

        benchmark.pedantic(measured, setup=before_each, rounds=rounds, iterations=1)
        ratio = statistics.median(baseline_s) / statistics.median(ours_s)
        benchmark.extra_info.update(
            ratio_name=name, ratio=ratio, ours_s=statistics.median(ours_s), baseline_s=statistics.median(baseline_s)
        )
        _RATIOS[name] = (
            f"{ratio:8.2f}x   ours {statistics.median(ours_s) * 1e3:10.3f} ms   baseline {statistics.median(baseline_s) * 1e3:10.3f} ms"
        )
        return ratio

    return compare


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the ratios."""
    if _RATIOS:
        terminalreporter.section("ratios")
        for name, text in _RATIOS.items():
            terminalreporter.line(f"{name:45}{text}")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Ratios depend on the instruction set: the results carry it."""
    machine_info["simd"] = simd_level()
