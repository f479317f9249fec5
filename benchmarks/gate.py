"""The gate: a ratio that fell by more than a third of what is recorded fails the build.

    python benchmarks/gate.py RESULTS.json            compares the results of a run with recorded.json
    python benchmarks/gate.py RESULTS.json --record   writes recorded.json from them, with the machine, the commit and the options of the
    run

RESULTS.json is what pytest-benchmark writes with --benchmark-json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
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


def record(results: Mapping[str, Any]) -> dict[str, Any]:
    """What recorded.json holds."""
    cpu = results["machine_info"]["cpu"]
    return {
        "machine": {"cpu": cpu.get("brand_raw", ""), "cores": cpu.get("count", 0), "python": results["machine_info"]["python_version"]},
        "commit": results["commit_info"]["id"],
        "datetime": results["datetime"],
        "options": "medians of interleaved rounds, mixed lengths; see each benchmark",
        "ratios": {name: round(ratio, 2) for name, ratio in sorted(ratios(results).items())},
    }


def main(argv: list[str]) -> int:
    """Exit code 0 where every ratio holds, 1 where one does not."""
    parser = argparse.ArgumentParser(prog="gate.py", description="Compare the ratios of a benchmark run with those recorded.")
    parser.add_argument("results", type=Path, help="the file that pytest-benchmark wrote")
    parser.add_argument("--record", action="store_true", help="record the ratios instead")
    args = parser.parse_args(argv)
    results = json.loads(args.results.read_text())
    if args.record:
        RECORDED.write_text(json.dumps(record(results), indent=2) + "\n")
        return 0
    measured = ratios(results)
    found = problems(measured, json.loads(RECORDED.read_text())["ratios"])
    for problem in found:
        print(f"benchmark gate: {problem}", file=sys.stderr)
    print(f"benchmark gate: {len(measured)} ratios, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
