"""A front as a process of its own: `hubwire serve` with the embedded model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

import hubwire

# The front itself, with one thing more: it tells its modules when it is asked to.
FRONT = textwrap.dedent(
    """
    import json, pathlib, signal, sys
    signal.signal(signal.SIGUSR1, lambda *_: pathlib.Path(sys.argv[1]).write_text(json.dumps(sorted(sys.modules))))
    from hubwire_server.__main__ import main
    sys.exit(main(["--shutdown-grace-s", "5", *sys.argv[2:]]))
    """
)


class Front:
    """A running front."""

    def __init__(self, process: subprocess.Popen, address: str, started: float, modules: Path) -> None:
        self.process = process
        self.address = address
        self.started = started
        self._modules = modules

    def modules(self) -> set[str]:
        """What the front has imported by now."""
        self._modules.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                return set(json.loads(self._modules.read_text()))
            except (FileNotFoundError, json.JSONDecodeError):
                time.sleep(0.01)
        raise TimeoutError

    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        return psutil.Process(self.process.pid).children()


@contextmanager
def front(folder: Path, *arguments: str) -> Iterator[Front]:
    """A front with the embedded model, whose log and cache are in folder. Arguments are those of `hubwire serve`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    modules = folder / "modules.json"
    log = (folder / "log").open("wb")
    # Away from the variables and the folder of whoever runs the tests.
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    started = time.monotonic()
    command = [sys.executable, "-c", FRONT, str(modules), f"--address={address}", f"--cache-dir={folder}/cache", *arguments]
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=log)
    try:
        yield Front(process, address, started, modules)
    finally:
        process.kill()
        process.wait(timeout=10)
        log.close()


def wait_until_serving(client: hubwire.Client, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if client.health() == "SERVING":
                return
        except hubwire.UnavailableError:
            pass  # it does not listen yet
        assert time.monotonic() < deadline, "the model was not ready in time"
        time.sleep(0.02)
