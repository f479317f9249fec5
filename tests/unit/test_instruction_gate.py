"""The instruction gate can fail, and does where it should."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KIND = "x86_64, avx2"
VERSIONS = {"rustc": "1.95.0", "valgrind": "3.19.0", "crate memchr": "2.8.3"}
RECORDED = {"pooling.ragged.mean": 1000, "encoding.vectors.int8": 2000}


def summary(name, count):
    """A line of the harness, with the fields that matter here; it compares with its own last run, which must not count."""
    group, function, case = name.split(".")
    metrics = {"Ir": {"values": {"new": count, "old": 1}, "change": {"diff_pct": "0"}}}
    profile = {"tool": "Callgrind", "data": {"total": {"metrics": metrics}}}
    return {"group": group, "function_name": function, "id": case, "profiles": [profile]}


@pytest.fixture
def gate(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("instructions", ROOT / "benchmarks/instructions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RECORDED", tmp_path / "instructions.json")
    monkeypatch.setattr(module, "versions", lambda: dict(VERSIONS))
    monkeypatch.setattr(module, "_output", lambda *command: "abc" if command[0] == "git" else "")
    module.RECORDED.write_text(json.dumps({KIND: {"versions": VERSIONS, "counts": RECORDED}}))
    return module


@pytest.fixture
def run(gate, tmp_path):
    """Runs the gate over the recorded counts and some others in their place, None for one that is missing. Returns its exit code."""

    def run(others=(), *extra, kind=KIND):
        counts = {name: count for name, count in {**RECORDED, **dict(others)}.items() if count is not None}
        path = tmp_path / "counted.jsonl"
        path.write_text("".join(json.dumps(summary(name, count)) + "\n" for name, count in counts.items()))
        return gate.main([str(path), "--kind", kind, *extra])

    return run


@pytest.mark.parametrize("count", [1000, 1040, 960])
def test_a_count_within_four_percent_passes(run, count, capsys):
    assert run({"pooling.ragged.mean": count}) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("count", "change"), [(1060, "+6.0%"), (940, "-6.0%")])
def test_a_count_that_moved_by_six_percent_fails_in_either_direction(run, count, change, capsys):
    assert run({"pooling.ragged.mean": count}) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first == f"instruction gate: pooling.ragged.mean: {count:,} instructions, {change} of the recorded 1,000"
    assert "make instructions-record" in last


def test_a_missing_benchmark_fails(run, capsys):
    assert run({"pooling.ragged.mean": None}) == 1
    assert "pooling.ragged.mean: recorded as 1,000 instructions, but not counted" in capsys.readouterr().err


def test_a_benchmark_without_a_record_fails(run, capsys):
    assert run({"pooling.ragged.new": 5}) == 1
    assert "pooling.ragged.new: counted as 5 instructions, but not recorded" in capsys.readouterr().err


def test_each_changed_benchmark_has_its_own_line(run, capsys):
    assert run({"pooling.ragged.mean": 2000, "encoding.vectors.int8": 1000}) == 1
    problems = [line for line in capsys.readouterr().err.splitlines() if "% of the recorded" in line]
    assert [re.search(r"\S+\.\S+(?=:)", line)[0] for line in problems] == ["encoding.vectors.int8", "pooling.ragged.mean"]


def test_a_failure_names_the_compiler_and_the_crates_that_differ(run, gate, monkeypatch, capsys):
    monkeypatch.setattr(gate, "versions", lambda: {"rustc": "1.96.0", "valgrind": "3.19.0", "crate new": "1.0.0"})
    assert run() == 0
    assert capsys.readouterr().err == ""
    assert run({"pooling.ragged.mean": 1100}) == 1
    said = capsys.readouterr().err
    assert "this may be the reason: rustc is 1.96.0 and was 1.95.0" in said
    assert "crate memchr is not in use and was 2.8.3" in said
    assert "crate new is 1.0.0 and was not in use" in said
    assert "valgrind" not in said


def test_another_instruction_set_is_not_compared_and_says_so_until_it_has_its_own_record(run, capsys):
    assert run({"pooling.ragged.mean": 9000}, kind="aarch64, neon") == 0
    assert "NOTHING WAS COMPARED: 2 counts for aarch64, neon" in capsys.readouterr().err
    assert run({"pooling.ragged.mean": 9000}, "--record", kind="aarch64, neon") == 0
    assert run({"pooling.ragged.mean": 9000}, kind="aarch64, neon") == 0
    assert run({"pooling.ragged.mean": 8000}, kind="aarch64, neon") == 1
    assert run() == 0


@pytest.mark.parametrize("kind", [KIND, "aarch64, neon", ""])
def test_counting_nothing_fails_whatever_is_recorded(run, kind, capsys):
    assert run(dict.fromkeys(RECORDED), kind=kind) == 1
    assert run(dict.fromkeys(RECORDED), "--record", kind=kind) == 1
    assert "nothing was counted" in capsys.readouterr().err


def test_a_benchmark_that_valgrind_did_not_count_is_an_error(gate):
    line = summary("pooling.ragged.mean", 1)
    with pytest.raises(ValueError, match="not counted once, but 2 times"):
        gate.counts(f"{json.dumps(line)}\n{json.dumps(line)}\n")
    with pytest.raises(ValueError, match="not counted once, but 0 times"):
        gate.counts(json.dumps({**line, "profiles": []}))


def test_a_changed_count_passes_after_it_was_recorded_with_its_commit_and_versions(run, gate):
    changed = {"pooling.ragged.mean": 1500, "encoding.vectors.int8": None}
    assert run(changed) == 1
    assert run(changed, "--record") == 0
    assert run(changed) == 0
    own = json.loads(gate.RECORDED.read_text())[KIND]
    assert own["counts"] == {"pooling.ragged.mean": 1500}
    assert own["versions"] == VERSIONS
    assert own["commit"] == "abc"


def test_the_record_of_the_repository_names_every_benchmark():
    names = set()
    for path in (ROOT / "native/core/benches/instructions").glob("*.rs"):
        first, *functions = re.split(r"^#\[library_benchmark", path.read_text(), flags=re.MULTILINE)
        for function in functions:
            [group] = re.findall(r"library_benchmark_group!\(name = (\w+)", functions[-1])
            name = re.search(r"^fn (\w+)", function, flags=re.MULTILINE)[1]
            names |= {f"{group}.{name}.{case}" for case in re.findall(r"#\[bench::(\w+)", function)}
        assert "#[bench::" not in first
    recorded = json.loads((ROOT / "benchmarks/instructions.json").read_text())
    assert recorded
    for own in recorded.values():
        assert set(own["counts"]) == names
        assert own["versions"]["rustc"]
