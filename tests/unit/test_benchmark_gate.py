"""The benchmark gate can fail, and does where it should."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks/gate.py"


@pytest.fixture
def gate(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("gate", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RECORDED", tmp_path / "recorded.json")
    recorded = {"promised": {"pooling": 6.0}, "recorded": {"a cpu, avx2": {"ratios": {"pooling": 9.0, "wire": 12.0}}}}
    (tmp_path / "recorded.json").write_text(json.dumps(recorded))
    return module


@pytest.fixture
def run(gate, tmp_path):
    """Runs the gate over some ratios and returns its exit code."""

    def run(*extra, simd="avx2", **ratios):
        results = {
            "benchmarks": [{"extra_info": {"ratio_name": name, "ratio": ratio}} for name, ratio in ratios.items()] + [{"extra_info": {}}],
            "machine_info": {"cpu": {"brand_raw": "a cpu", "count": 2}, "python_version": "3.11", "simd": simd},
            "commit_info": {"id": "abc"},
            "datetime": "now",
        }
        path = tmp_path / "results.json"
        path.write_text(json.dumps(results))
        return gate.main([str(path), *extra])

    return run


def test_ratios_that_hold_pass(run):
    assert run(pooling=9.0, wire=20.0) == 0
    assert run(pooling=6.01, wire=8.01) == 0


def test_a_ratio_that_fell_by_more_than_a_third_fails(run, capsys):
    assert run(pooling=5.99, wire=12.0) == 1
    assert "pooling: 5.99x, below 6.00x" in capsys.readouterr().err


def test_of_two_runs_the_better_one_counts_and_what_is_slow_in_both_fails(gate, run, tmp_path):
    run(pooling=5.0, wire=5.0)
    (tmp_path / "results.json").rename(tmp_path / "first.json")
    run(pooling=9.0, wire=5.0)
    assert gate.main([str(tmp_path / "first.json"), str(tmp_path / "results.json")]) == 1
    run(pooling=9.0, wire=12.0)
    assert gate.main([str(tmp_path / "first.json"), str(tmp_path / "results.json")]) == 0


def test_a_ratio_that_was_not_measured_fails(run):
    assert run(pooling=9.0) == 1


def test_a_ratio_that_nobody_recorded_fails(run):
    assert run(pooling=9.0, wire=12.0, new=1.0) == 1


def test_a_processor_that_nobody_recorded_is_held_to_the_promise(run, capsys):
    assert run(pooling=4.1, simd="neon") == 0
    assert run(pooling=3.9, simd="neon") == 1
    assert "below 4.00x" in capsys.readouterr().err


def test_recording_keeps_ratios_machine_and_commit_for_its_own_processor(run, gate):
    assert run("--record", pooling=3.0, simd="neon") == 0
    recorded = json.loads(gate.RECORDED.read_text())["recorded"]
    assert recorded["a cpu, neon"]["ratios"] == {"pooling": 3.0}
    assert recorded["a cpu, avx2"]["ratios"] == {"pooling": 9.0, "wire": 12.0}
    assert (recorded["a cpu, neon"]["machine"]["cpu"], recorded["a cpu, neon"]["commit"]) == ("a cpu", "abc")
    assert run(pooling=2.1, simd="neon") == 0
    assert run(pooling=1.9, simd="neon") == 1


def test_of_several_runs_the_lowest_ratio_is_recorded(gate):
    run = {"machine_info": {"cpu": {}, "python_version": ""}, "commit_info": {"id": ""}, "datetime": ""}
    runs = [run | {"benchmarks": [{"extra_info": {"ratio_name": "pooling", "ratio": ratio}}]} for ratio in (5.0, 4.0, 6.0)]
    assert gate.record(runs)["ratios"] == {"pooling": 4.0}


def test_the_record_of_the_repository_names_every_benchmark_and_its_machine():
    recorded = json.loads((PATH.parent / "recorded.json").read_text())
    sources = "".join(path.read_text() for path in PATH.parent.glob("test_*.py"))
    assert set(re.findall(r'compare\(\s*"(\w+)"', sources)) == set(recorded["promised"])
    assert recorded["recorded"]
    for entry in recorded["recorded"].values():
        assert set(entry["ratios"]) == set(recorded["promised"])
        assert entry["machine"]["cpu"]
