"""The gate: a ratio that fell by more than a third of what is recorded fails the build.

    python benchmarks/gate.py RESULTS.json...           compares with recorded.json the best ratio of each benchmark over the runs
    python benchmarks/gate.py RESULTS.json... --record  records several runs, the lowest ratio of each benchmark, with machine and commit

RESULTS.json is what pytest-benchmark writes with --benchmark-json. Ratios depend on the processor, so each kind has its own record; on one
that nobody has recorded yet, the gate compares with what the project promises everywhere.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded.json"
ALLOWED_LOSS = 1 / 3


def ratios(results: Mapping[str, Any]) -> dict[str, float]:
    """The ratios of a run, by name."""
    infos = [benchmark["extra_info"] for benchmark in results["benchmarks"]]
    return {info["ratio_name"]: float(info["ratio"]) for info in infos if "ratio_name" in info}


def problems(measured: Mapping[str, float], recorded: Mapping[str, float]) -> list[str]:
    """What fails the gate: a ratio that fell too far, one that is missing, and one that nobody recorded."""
    found = []
    for name, expected in sorted(recorded.items()):
        if name not in measured:
            found.append(f"{name}: recorded as {expected:.2f}x, but not measured")
        elif measured[name] < (least := expected * (1 - ALLOWED_LOSS)):
            found.append(f"{name}: {measured[name]:.2f}x, below {least:.2f}x, which is two thirds of the recorded {expected:.2f}x")
    found += [f"{name}: measured as {measured[name]:.2f}x, but not recorded" for name in sorted(set(measured) - set(recorded))]
    return found


def processor(run: Mapping[str, Any]) -> str:
    """The kind of processor of a run: its brand and the instruction set that the core uses on it."""
    machine = run["machine_info"]
    return f"{machine['cpu'].get('brand_raw', 'unknown')}, {machine['simd']}"


def expected(recorded: Mapping[str, Any], kind: str) -> dict[str, float]:
    """The ratios to compare with on a kind of processor."""
    own = recorded["recorded"].get(kind)
    return dict(own["ratios"] if own is not None else recorded["promised"])


def record(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What recorded.json holds of some runs on one machine."""
    measured = [ratios(run) for run in runs]
    machine = runs[0]["machine_info"]
    return {
        "machine": {
            "cpu": machine["cpu"].get("brand_raw", ""),
            "cores": machine["cpu"].get("count", 0),
            "python": machine["python_version"],
        },
        "commit": runs[0]["commit_info"]["id"],
        "datetime": runs[0]["datetime"],
        "options": f"the lowest of {len(runs)} runs; medians of interleaved rounds; sizes and lengths in each benchmark",
        "ratios": {name: round(min(run[name] for run in measured), 2) for name in sorted(measured[0])},
    }


def main(argv: list[str]) -> int:
    """Exit code 0 where every ratio holds, 1 where one does not."""
    parser = argparse.ArgumentParser(prog="gate.py", description="Compare the ratios of a benchmark run with those recorded.")
    parser.add_argument("results", type=Path, nargs="+", help="what pytest-benchmark wrote")
    parser.add_argument("--record", action="store_true", help="record the ratios instead")
    args = parser.parse_args(argv)
    runs = [json.loads(path.read_text()) for path in args.results]
    recorded = json.loads(RECORDED.read_text())
    kind = processor(runs[0])
    if args.record:
        recorded["recorded"][kind] = record(runs)
        RECORDED.write_text(json.dumps(recorded, indent=2) + "\n")
        return 0
    # Calls of 50 us on a shared machine are noisy: a second run may clear what one run shows. What is slower is slower in both.
    measured = {name: max(run.get(name, 0.0) for run in map(ratios, runs)) for name in ratios(runs[0])}
    found = problems(measured, expected(recorded, kind))
    for problem in found:
        print(f"benchmark gate: {problem}", file=sys.stderr)
    print(f"benchmark gate: {len(measured)} ratios on {kind}, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
