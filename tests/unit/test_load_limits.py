"""The six lines hold where every figure does, and a result says everything that it depends on."""

from __future__ import annotations

import json

import pytest

from benchmarks.load import limits, results

ROUND = {
    "bare_p50_ms": 2.0,
    "grpc_c1_p50_ms": 2.3,
    "grpc_c1_p99_ms": 4.0,
    "offline_short_per_s": 1000.0,
    "offline_mixed_per_s": 200.0,
    "grpc_c64_short_per_s": 900.0,
    "grpc_c64_mixed_per_s": 195.0,
    "stream_short_per_s": 960.0,
    "stream_mixed_per_s": 198.0,
    "baseline_mixed_per_s": 100.0,
    "gemm_mixed_per_s": 250.0,
    "start_warm_s": 0.6,
    "start_rss_mb": 230.0,
}
COSINES = {"torch": 0.999999, "onnx": 0.9999999}


def lines(rounds=None, cosines=COSINES, once=None, not_run=None) -> list[limits.Line]:
    return limits.six_lines(rounds or [ROUND] * 5, cosines, {"start_cold_s": 8.0} if once is None else once, not_run or {})


def test_there_are_six_lines_and_all_hold():
    found = lines()
    assert len(found) == 6
    assert all(line.holds for line in found)
    assert str(found[0]).startswith("holds  concurrency 1, 12 tokens: p50 over the bare loop 0.3 ms (at most 0.4 ms, 2.300 - 2.000)")


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        (0, {"grpc_c1_p50_ms": 2.41}),
        (0, {"grpc_c1_p99_ms": 5.8}),
        (1, {"grpc_c64_short_per_s": 849.0}),
        (1, {"grpc_c64_mixed_per_s": 189.0}),
        (2, {"baseline_mixed_per_s": 112.0}),
        (2, {"gemm_mixed_per_s": 287.0}),
        (3, {"stream_short_per_s": 949.0}),
        (3, {"stream_mixed_per_s": 189.0}),
        (5, {"start_warm_s": 3.1}),
        (5, {"start_rss_mb": 351.0}),
    ],
)
def test_a_figure_beyond_its_limit_misses_its_line_and_no_other(line, changed):
    found = lines([ROUND | changed] * 5)
    assert [place for place, one in enumerate(found) if not one.holds] == [line]
    assert str(found[line]).startswith("MISSES")


def test_a_cosine_or_a_cold_start_beyond_its_limit_misses():
    assert not lines(cosines=COSINES | {"onnx": 0.99998})[4].holds
    assert not lines(once={"start_cold_s": 21.0})[5].holds


def test_ratios_are_taken_within_a_round_and_their_median_counts():
    """In two rounds of five the machine was twice as slow, for both sides; in one of them our side alone had bad luck."""
    slow = {name: value / 2 if name.endswith("per_s") else value for name, value in ROUND.items()}
    rounds = [ROUND, slow, ROUND, slow | {"grpc_c64_short_per_s": 200.0}, ROUND]
    assert lines(rounds)[1].holds
    assert lines(rounds)[1].figures[0].value == pytest.approx(0.9)


def test_what_was_not_measured_in_every_round_misses_with_its_reason():
    partial = {name: value for name, value in ROUND.items() if name != "grpc_c64_mixed_per_s"}
    found = lines([ROUND, partial], not_run={"grpc_c64_mixed_per_s": "ghz is not installed"})
    assert not found[1].holds
    assert "mixed not run (ghz is not installed" in str(found[1])
    assert not lines(cosines={"torch": 1.0}, not_run={"onnx": "it ended"})[4].holds
    assert found[1].as_dict()["figures"][1]["value"] is None


def test_a_result_names_machine_commit_versions_and_options(tmp_path):
    result = results.record("load", {"rounds": 5, "server": "--backend onnx"}, {"lines": [1 / 3]})
    read = json.loads(results.write(result, tmp_path).read_text())
    assert read["options"] == {"rounds": 5, "server": "--backend onnx"}
    assert set(read["machine"]) == {"cpu", "cores", "simd", "flags", "memory_gb", "system", "python"}
    assert read["machine"]["cores"] >= 1
    assert isinstance(read["commit"]["dirty"], bool)
    assert set(results.LIBRARIES) == set(read["versions"])
    assert read["figures"]["lines"] == [0.333333]
    assert read["machine"]["cpu"] in results.headline(read)


def test_a_missing_library_is_named_as_such():
    assert results.versions(("numpy", "no-such-library"))["no-such-library"] == "not installed"
