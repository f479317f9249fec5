"""The environments of the peers: each in .venv/peers/NAME, with the packages that peers/NAME.txt pins.

A peer must not share an environment with Hubwire: some need other versions of the same libraries. An environment is made once, and again
where its list changed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.load import results
from benchmarks.load.processes import NotRunError

ENVIRONMENTS = results.ROOT / ".venv/peers"
REQUIREMENTS = Path(__file__).parent / "peers"
INSTALL_TIMEOUT_S = 600


def python_of(name: str) -> str:
    """The interpreter of a peer's environment, which is made where it is not there. Raises NotRunError where that fails."""
    requirements = REQUIREMENTS / f"{name}.txt"
    folder = ENVIRONMENTS / name
    stamp = folder / "requirements.txt"
    python = folder / "bin/python"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        shutil.rmtree(folder, ignore_errors=True)
        uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
        if uv is None:
            raise NotRunError("uv is not installed")
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
        _run(uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements))
        shutil.copy(requirements, stamp)  # last: what is interrupted is made again
    return str(python)


def installed(python: str) -> dict[str, str]:
    """The versions in an environment of the packages that results name."""
    code = (
        "import json, importlib.metadata as m; "
        "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
    )
    found = json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)
    return {name: found[name] for name in (*results.LIBRARIES, "infinity-emb", "optimum-onnx") if name in found}


def _run(*command: str) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise NotRunError(f"its environment was not ready after {INSTALL_TIMEOUT_S} s") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        raise NotRunError(f"its environment cannot be made: {lines[-1].strip()[:300] if lines else error}") from error
