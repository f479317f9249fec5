"""The driver of unary gRPC: ghz, which is written in Go and so takes less of the cores that it shares with the server than Python would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.load.latency import Run
from benchmarks.load.processes import NotRunError

PROTO = Path(__file__).with_name("embed.proto")
# Go's collector runs on every core at once, and takes a third of what ghz uses of the processor: below this limit it need not run at all.
GO_ENVIRONMENT = {"GOGC": "off", "GOMEMLIMIT": "1GiB"}
CALL = "hubwire.v1.EmbeddingService.Embed"
REQUEST_TIMEOUT_S = 20
TEXTS_TAG = 0x12
"""EmbedRequest.texts: field 2, with a length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnaryLoad:
    """Embed calls. With a rate they are an open loop, sent when they are due however many are unanswered; without one concurrency
    callers each wait for their answer.
    """

    address: str
    requests: Sequence[Sequence[str]]
    """The texts of each request; they are used over and over."""
    total: int
    """How many requests to send."""
    concurrency: int = 1
    rate_per_s: int = 0


def run(load: UnaryLoad) -> Run:
    """Runs a load. Raises NotRunError where ghz is missing or fails."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "requests.bin")
        # Each message after its length: ghz reads them once, instead of building each request from JSON.
        data.write_bytes(b"".join(with_length(encode_request(texts)) for texts in load.requests))
        command = [_binary(), "--insecure", "--proto", str(PROTO), "--call", CALL, "-B", str(data)]
        command += ["-n", str(load.total), "-O", "json", "-t", f"{REQUEST_TIMEOUT_S}s"]
        # In an open loop one worker starts every request on time and waits for none.
        command += ["--async", "-c", "1", "-r", str(load.rate_per_s)] if load.rate_per_s else ["-c", str(load.concurrency)]
        environment = os.environ | GO_ENVIRONMENT
        ended = subprocess.run([*command, load.address], env=environment, capture_output=True, text=True, check=False)
    if ended.returncode or not ended.stdout:
        raise NotRunError(f"ghz failed: {(ended.stderr or ended.stdout).strip()[:300]}")
    return parse(json.loads(ended.stdout), len(load.requests[0]))


def parse(report: dict[str, Any], texts_per_request: int) -> Run:
    """A run from ghz's report. Its time stamps are those of the ends."""
    requests = []
    for detail in report["details"] or ():
        latency_s = detail["latency"] / 1e9
        error = "" if detail["status"] == "OK" else detail["status"]
        requests.append((_seconds(detail["timestamp"]) - latency_s, latency_s, error))
    return Run.of(requests, texts_per_request)


def encode_request(texts: Sequence[str]) -> bytes:
    """An EmbedRequest that holds texts and nothing else."""
    return b"".join(bytes([TEXTS_TAG]) + with_length(text.encode()) for text in texts)


def with_length(message: bytes) -> bytes:
    """A message after its length, as protobuf writes it."""
    size, prefix = len(message), bytearray()
    while size > 0x7F:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*prefix, size]) + message


def _seconds(timestamp: str) -> float:
    """Seconds of a time stamp of Go, such as 2026-01-31T12:00:00.123456789Z, whose decimals are as many as are needed."""
    match = re.fullmatch(r"([^.]+?)(\.\d+)?(Z|[+-]\d\d:\d\d)", timestamp)
    if match is None:
        raise ValueError(f"{timestamp!r} is not a time stamp")
    whole, decimals, zone = match.groups()
    return datetime.fromisoformat(whole + zone.replace("Z", "+00:00")).timestamp() + float(decimals or 0)


def _binary() -> str:
    found = shutil.which("ghz", path=str(Path(sys.executable).parent)) or shutil.which("ghz")
    if found is None:
        raise NotRunError("ghz is not installed: make installs it where there is a Go toolchain")
    return found
