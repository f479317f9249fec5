"""The README runs: each of its code blocks is executed as it stands, against a server that the README's own command started."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
BASH = [code.strip() for language, code in BLOCKS if language == "bash"]
PYTHON = [code for language, code in BLOCKS if language == "python"]
README_ADDRESS = "127.0.0.1:50051"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that `make serve` started on a free port, with an empty cache."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = ["make", "serve", f"ADDRESS={address}"]
    # Make starts the server as a child: the whole group is stopped at the end, as Ctrl-C in a terminal would.
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment() | {"HUBWIRE_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + 100
        health = [str(Path(sys.executable).with_name("hubwire")), "health", "--address", address]
        while subprocess.run(health, capture_output=True, check=False).returncode != 0:
            assert process.poll() is None, process.stdout.read().decode()
            assert time.monotonic() < deadline, "make serve did not serve"
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        assert b"model all-MiniLM-L6-v2 is ready" in output


def environment() -> dict[str, str]:
    """Without make's own variables: a test runs under `make test`."""
    return {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key not in ("MFLAGS", "ADDRESS")}


def run(code: str, address: str) -> str:
    """Runs a block of shell and returns what it printed."""
    command = ["bash", "-euo", "pipefail", "-c", code.replace(README_ADDRESS, address)]
    env = environment() | {"HUBWIRE_ADDRESS": address, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_readme_is_short_and_begins_with_its_two_commands():
    assert len((ROOT / "README.md").read_text().splitlines()) < 250
    assert BASH[:2] == ["make serve", "make test"]


def test_make_test_is_a_command():
    """Running it here would never end: it runs this test."""
    ended = subprocess.run(["make", "--dry-run", "test"], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    assert "-m pytest" in ended.stdout


@pytest.mark.parametrize("code", BASH[2:])
def test_a_shell_block_runs(code, address):
    if code.startswith("grpcurl") and shutil.which("grpcurl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") is None:
        pytest.skip("grpcurl is not installed, and there is no Go toolchain for make to install it with")
    output = run(code, address)
    if code.startswith("grpcurl"):
        vectors = json.loads(output)["vectors"]
        assert [len(vector["values"]) for vector in vectors] == [384]
    elif "--json" in code:
        embedded, classified, tokens = map(json.loads, output.splitlines())
        assert [len(vector["values"]) for vector in embedded["vectors"]] == [384]
        assert "positive" in json.dumps(classified)
        assert "Sarah" in json.dumps(tokens)


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.splitlines()[0])
def test_a_python_block_runs(code, address, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(code.replace(README_ADDRESS, address))
    ended = subprocess.run([sys.executable, "-W", "error", str(script)], capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "[" in ended.stdout
    assert "HubwireError" not in ended.stdout
