"""Processes of a benchmark: servers under test and children that answer commands (commands.py).

Each is started in its own session with its output in a log file, and ended by its own process id, with the children it started. A process
that does not come up is no error of the run: NotRunError carries the reason into the results.

    parent                                    child (answer_commands)
    Child(argv) ─────────── start ──────────▶ loads
                ◀── {"ready": {...}} ───────
    ask("short", texts=512) ── JSON line ──▶  handlers["short"](texts=512)
                ◀── {"figures": {...}} ─────
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]


class NotRunError(Exception):
    """Something that was to be measured could not be. The text says why, in one line."""


class Process:
    """A started process with a log file."""

    stop_s = 20.0
    """How long it may take to end before it is killed."""

    def __init__(
        self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, folder: Path | None = None, pipes: bool = False
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        pipe = subprocess.PIPE if pipes else None
        with log.open("wb") as stream:
            try:
                self.popen = subprocess.Popen(
                    list(argv),
                    stdin=pipe if pipes else subprocess.DEVNULL,
                    stdout=pipe if pipes else stream,
                    stderr=stream,
                    env={**os.environ, **(env or {})},
                    cwd=folder or ROOT,
                    start_new_session=True,
                )
            except OSError as error:
                raise NotRunError(f"{argv[0]} cannot be started: {error.strerror}") from error

    def failure(self, what: str) -> NotRunError:
        """The error to raise of this process, with the last line of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return NotRunError(f"{what}: {lines[-1][:300] if lines else 'it wrote nothing'}")

    def wait_until(self, ready: Callable[[], bool], timeout_s: float, every_s: float = 0.02) -> float:
        """Waits until ready() and returns the seconds since the call. Raises NotRunError where the process ends or takes too long."""
        start = time.perf_counter()
        while not ready():
            if self.popen.poll() is not None:
                raise self.failure(f"it ended with code {self.popen.returncode}")
            if time.perf_counter() - start > timeout_s:
                raise self.failure(f"it was not ready after {timeout_s:.0f} s")
            time.sleep(every_s)
        return time.perf_counter() - start

    def family(self) -> list[psutil.Process]:
        """The process and everything it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.popen.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def memory_mb(self) -> dict[str, float]:
        """Resident memory of the family: rss counts a page for each process that maps it, pss (Linux alone) shares it out."""
        infos = [process.memory_full_info() for process in self.family()]
        memory = {"rss_mb": sum(info.rss for info in infos) / 1e6}
        if infos and hasattr(infos[0], "pss"):
            memory["pss_mb"] = sum(info.pss for info in infos) / 1e6
        return memory

    def stop(self) -> None:
        """Ends the process, and kills what is left of its family after stop_s."""
        family = self.family()
        if self.popen.poll() is None:
            self.popen.terminate()
        _, alive = psutil.wait_procs(family, timeout=self.stop_s)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=self.stop_s)
        self.popen.wait()


class Child(Process):
    """A child of this benchmark that measures in its own process, and perhaps in its own environment."""

    def __init__(
        self, module: str, arguments: Sequence[str] = (), *, log: Path, python: str = sys.executable, timeout_s: float = 60.0
    ) -> None:
        super().__init__([python, "-m", module, *arguments], log=log, pipes=True)
        self.ready: dict[str, Any] = self._read(timeout_s)["ready"]
        """What the child says of itself."""

    def ask(self, command: str, *, timeout_s: float = 120.0, **arguments: Any) -> dict[str, Any]:
        """Runs a command in the child and returns its figures. Raises NotRunError where the child fails, ends or takes too long."""
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # read as the end of the child
            self.popen.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            self.popen.stdin.flush()
        answer = self._read(timeout_s)
        if "error" in answer:
            raise NotRunError(answer["error"])
        return dict(answer["figures"])

    def stop(self) -> None:
        """Ends the child."""
        super().stop()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self.popen.stdout is not None
        # A child writes a whole line at once, so what is readable is a line.
        readable, _, _ = select.select([self.popen.stdout], [], [], timeout_s)
        line = self.popen.stdout.readline() if readable else b""
        if line:
            return dict(json.loads(line))
        failure = self.failure("it ended" if readable else f"it did not answer within {timeout_s:.0f} s")
        self.stop()
        raise failure


def stop_on_signals() -> None:
    """Lets SIGTERM and SIGHUP end this process as Ctrl-C does, so that it ends what it started."""

    def stop(number: int, _: Any) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def free_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    """Whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run_module(module: str, *arguments: str, log: Path, timeout_s: float = 300.0) -> None:
    """Runs a module of this benchmark to its end. Raises NotRunError where it fails."""
    process = Process([sys.executable, "-m", module, *arguments], log=log)
    try:
        code = process.popen.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise process.failure(f"{module} took longer than {timeout_s:.0f} s") from None
    finally:
        process.stop()
    if code:
        raise process.failure(f"{module} ended with code {code}")
