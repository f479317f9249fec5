"""A curve that rises fails, one that is flat or falls does not, and the plots say what was measured."""

from __future__ import annotations

import pytest

from benchmarks.load import bench_growth, plots
from benchmarks.load.growth import Curve


def curve(*costs: float, tolerance: float = 0.15) -> Curve:
    sizes = [2**n for n in range(len(costs))]
    return Curve(name="n", size_unit="callers", cost_unit="ms", sizes=sizes, costs=costs, tolerance=tolerance, reason="noise")


@pytest.mark.parametrize("costs", [(5, 4, 3, 2, 2.2), (1, 1, 1), (1, 1.14), (4, 2, 2.29, 2.1)])
def test_a_flat_or_falling_curve_holds(costs):
    assert curve(*costs).holds
    assert str(curve(*costs)).startswith("flat or falling")


@pytest.mark.parametrize(("costs", "rise"), [((1, 1.2), 0.2), ((5, 2, 2.4), 0.2), ((5, 2, 4, 2), 1.0), ((1, 1.1, 1.2, 1.3), 0.3)])
def test_a_rising_curve_fails_even_where_each_step_is_small(costs, rise):
    assert not curve(*costs).holds
    assert curve(*costs).rise == pytest.approx(rise)
    assert str(curve(*costs)).startswith("RISES")
    assert curve(*costs).as_dict()["holds"] is False


def test_what_is_no_curve_is_refused():
    for sizes, costs in (([1], [1]), ([1, 2], [1]), ([2, 1], [1, 1]), ([1, 1], [1, 1])):
        with pytest.raises(ValueError, match="rising sizes"):
            Curve(name="n", size_unit="", cost_unit="", sizes=sizes, costs=costs, tolerance=0.1, reason="")


def points(costs: dict[int, list[float]], memory: list[float]) -> bench_growth.Points:
    sizes = dict(zip(costs, (bench_growth.Memory(front_mb=70, worker_mb=size) for size in memory), strict=True))
    return bench_growth.Points(costs=costs, memory=sizes)


def test_the_verdicts_are_of_the_medians_and_of_the_memory():
    flat = points({1: [1.0, 9.0, 1.0], 10: [1.0, 1.1, 0.9]}, [200, 205])
    rising = points({1: [1.0, 1.0, 1.0], 10: [1.6, 0.9, 1.6]}, [200, 400])
    parts = {"concurrency": flat, "length": flat, "texts per call": rising, "stream length": rising}
    assert [found.holds for found in bench_growth.curves(parts)] == [True, True, False, False]
    assert bench_growth.memory_curve(flat).holds
    assert not bench_growth.memory_curve(rising).holds


def test_the_same_figures_give_the_same_plot(tmp_path):
    curves = [curve(3, 2, 2).as_dict() | {"name": name} for name in ("one", "two", "three", "four")]
    memory = {found["name"]: [100.0, 101.0, 102.0] for found in curves}
    for name in ("a.svg", "b.svg"):
        plots.growth(curves, memory, "a machine", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    text = (tmp_path / "a.svg").read_text()
    assert all(word in text for word in ("a machine", "one", "four", "memory of front and worker"))


def test_the_plot_of_the_peers_has_a_line_for_each(tmp_path):
    line = [{"offered_per_s": 10, "p95_ms": 3.0}, {"offered_per_s": 20, "p95_ms": 30.0}, {"offered_per_s": 30}]
    figures = {"labels": {"hubwire": "Hubwire", "other": "another"}, "open_loop": {"short": {"hubwire": line, "other": line[:1]}}}
    plots.latency_against_load(figures, "a machine", tmp_path / "peers.svg")
    assert all(word in (tmp_path / "peers.svg").read_text() for word in ("Hubwire", "another", "95th percentile"))
