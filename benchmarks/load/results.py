"""What stands beside every figure: the machine, the commit, the versions and the options; and how results are written."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hubwire_server._native import simd_level

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results"
LIBRARIES = (
    "hubwire-server",
    "torch",
    "transformers",
    "sentence-transformers",
    "onnxruntime",
    "onnx",
    "tokenizers",
    "grpcio",
    "protobuf",
    "numpy",
)
TELLING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "sve", "bf16", "i8mm")
"""The instruction sets on which the speed of matrix products depends."""


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """The machine: brand of the processor, cores, instruction sets, memory, system."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(map(str.strip, line.split(":", 1)) for line in info.splitlines() if ":" in line)
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "simd": simd_level(),
        "flags": [flag for flag in TELLING_FLAGS if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def commit() -> dict[str, Any]:
    """The commit, and whether files beside it differ: results do not count, since a run writes them."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
        return {"id": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"id": "unknown", "dirty": True}


def versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """The installed versions of libraries, in the environment of the caller."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def record(kind: str, options: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    """A result: figures, and everything that they depend on."""
    return {
        "kind": kind,
        "datetime": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "commit": commit(),
        "versions": versions(),
        "options": dict(options),
        "figures": dict(figures),
    }


def write(result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Writes a result as KIND.json and returns its path. Numbers keep six digits, more than any of them means."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['kind']}.json"
    path.write_text(json.dumps(_rounded(result), indent=1) + "\n")
    return path


def median(rounds: Iterable[Mapping[str, Any]], key: str) -> float:
    """The median of a figure over rounds."""
    return float(statistics.median(figures[key] for figures in rounds))


def headline(result: Mapping[str, Any]) -> str:
    """One line that says on what a result was measured."""
    machine, commit = result["machine"], result["commit"]
    dirty = " with changes" if commit["dirty"] else ""
    flags = " ".join(machine["flags"]) or "no known instruction sets"
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['simd']} ({flags}), commit {commit['id'][:10]}{dirty}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return value
