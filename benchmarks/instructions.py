"""The gate of the core: a count of instructions that is more than 5 % away from what is recorded fails the build.

    python benchmarks/instructions.py COUNTED.jsonl --kind KIND           compares with instructions.json
    python benchmarks/instructions.py COUNTED.jsonl --kind KIND --record  records the counts, the commit, and the versions behind them

COUNTED.jsonl is what `cargo bench` of the core prints with --output-format=json, one benchmark a line. KIND is what valgrind emulates, such
as "x86_64, avx2": the core chooses its loops by it, so each kind has its own record. Fewer instructions fail as well, since a record that
is higher than what is true would let a later loss pass; `make instructions-record` changes the record on purpose.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORDED = Path(__file__).parent / "instructions.json"
ALLOWED_CHANGE = 0.05


def counts(lines: str) -> dict[str, int]:
    """The instructions of each benchmark, by group, function and case.

    Raises:
        ValueError: a benchmark has no count, or has it twice.
    """
    found: dict[str, int] = {}
    for line in filter(str.strip, lines.splitlines()):
        summary = json.loads(line)
        name = f"{summary['group']}.{summary['function_name']}.{summary['id']}"
        totals = [profile["data"]["total"]["metrics"] for profile in summary["profiles"] if profile["tool"] == "Callgrind"]
        if len(totals) != 1 or "Ir" not in totals[0] or name in found:
            raise ValueError(f"{name} was not counted once, but {len(totals) + (name in found)} times")
        found[name] = int(totals[0]["Ir"]["values"]["new"])
    return found


def problems(counted: Mapping[str, int], recorded: Mapping[str, int]) -> list[str]:
    """What fails the gate: a count that moved too far in either direction, one that is missing, and one that nobody recorded."""
    found = []
    for name, expected in sorted(recorded.items()):
        if name not in counted:
            found.append(f"{name}: recorded as {expected:,} instructions, but not counted")
        elif abs(change := counted[name] / expected - 1) > ALLOWED_CHANGE:
            found.append(f"{name}: {counted[name]:,} instructions, {change:+.1%} of the recorded {expected:,}")
    found += [f"{name}: counted as {counted[name]:,} instructions, but not recorded" for name in sorted(set(counted) - set(recorded))]
    return found


def versions() -> dict[str, str]:
    """What else decides the counts: the compiler, valgrind, the C library, and the crates in use, which are pinned only in part."""
    tree = ["cargo", "tree", "--manifest-path", "native/Cargo.toml", "--package", "hubwire-core", "--edges", "normal,no-proc-macro"]
    crates = sorted({tuple(line.split()[:2]) for line in _output(*tree, "--prefix", "none").splitlines()})
    return {
        "rustc": _output("rustc", "--version").split()[1],
        "valgrind": _output("valgrind", "--version").removeprefix("valgrind-"),
        "libc": " ".join(platform.libc_ver()),
    } | {f"crate {name}": version.removeprefix("v") for name, version in crates if not name.startswith("hubwire")}


def differences(now: Mapping[str, str], recorded: Mapping[str, str]) -> list[str]:
    """Versions that are not those of the record."""
    names = [name for name in [*recorded, *(set(now) - set(recorded))] if now.get(name) != recorded.get(name)]
    return [f"{name} is {now.get(name, 'not in use')} and was {recorded.get(name, 'not in use')}" for name in names]


def record(counted: Mapping[str, int]) -> dict[str, Any]:
    """What instructions.json holds of one kind."""
    return {
        "commit": _output("git", "rev-parse", "HEAD"),
        "datetime": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": "instructions of one call on one thread; sizes and lengths in native/core/benches/instructions",
        "versions": versions(),
        "counts": dict(sorted(counted.items())),
    }


def compare(counted: Mapping[str, int], kind: str, recorded: Mapping[str, Any]) -> int:
    """Says what changed. Exit code 0 where every count holds or the kind has no record, 1 otherwise."""
    own = recorded.get(kind)
    if own is None:
        _complain(f"NOTHING WAS COMPARED: {len(counted)} counts for {kind}, which nobody has recorded; recorded are {sorted(recorded)}")
        _complain("run `make instructions-record` on this machine, and commit benchmarks/instructions.json")
        return 0
    found = problems(counted, own["counts"])
    for problem in found:
        _complain(problem)
    if found:
        for difference in differences(versions(), own["versions"]):
            _complain(f"this may be the reason: {difference} when the counts were recorded")
        _complain("where the change is meant, run `make instructions-record` and commit benchmarks/instructions.json")
    print(f"instruction gate: {len(counted)} counts for {kind}, {len(found)} problems")
    return 1 if found else 0


def main(argv: list[str]) -> int:
    """Exit code 0 where the gate passes or counts were recorded, 1 where it fails or nothing was counted."""
    parser = argparse.ArgumentParser(prog="instructions.py", description="Compare counts of instructions with those recorded.")
    parser.add_argument("counted", type=Path, help="what the benchmarks of the core printed")
    parser.add_argument("--kind", required=True, help="the architecture and the instruction set that were counted")
    parser.add_argument("--record", action="store_true", help="record the counts instead")
    args = parser.parse_args(argv)
    counted = counts(args.counted.read_text())
    if not counted or not args.kind:
        _complain("nothing was counted")
        return 1
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    if args.record:
        RECORDED.write_text(json.dumps(recorded | {args.kind: record(counted)}, indent=2) + "\n")
        print(f"instruction gate: recorded {len(counted)} counts for {args.kind}")
        return 0
    return compare(counted, args.kind, recorded)


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _complain(text: str) -> None:
    print(f"instruction gate: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
