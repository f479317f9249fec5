"""Where a model's files come from: a hub repository, a local folder, a folder inside an installed Python package, or a demo model.

`parse_source` says which of them a text means, `resolve` brings the files onto this machine and says where they lie.
Nothing here imports torch or transformers: the front process calls this.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models import demo

Progress = Callable[[str, int, int], None]
"""Hears what is being done, how many bytes of it are done, and how many there are (0 and 0 where there is no size). Called from any
thread.
"""

MAX_QUOTED = 100
"""How much of a name that is nowhere an error shows."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class SourceKind(StrEnum):
    """The places that models come from."""

    HUB = "hub"
    FOLDER = "folder"
    PACKAGE = "package"
    DEMO = "demo"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A source as it was written, and what it means. name is the hub id, the path, or "NAME/FOLDER"."""

    kind: SourceKind
    name: str

    @property
    def label(self) -> str:
        """The source as clients may see it: of a local folder only the last part of its path."""
        if self.kind is SourceKind.FOLDER:
            try:
                return Path(self.name).expanduser().resolve().name
            except (OSError, RuntimeError, ValueError):  # a path that cannot exist, which resolve says
                return Path(self.name).name
        return f"{self.kind}:{self.name}" if self.kind in (SourceKind.PACKAGE, SourceKind.DEMO) else self.name


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model on this machine. revision is the commit of a hub repository, and empty for other sources."""

    path: Path
    source_label: str
    revision: str


def parse_source(text: str) -> ModelSource:
    """Reads a source: "package:NAME/FOLDER"; "demo:NAME"; a path that is absolute, begins with "." or "~", or exists; else a hub id
    ("owner/name").

    Raises HubwireError (VALUE_OUT_OF_RANGE) where the text is none of these.
    """
    text = text.strip()
    if "\0" in text:
        raise HubwireError(Reason.VALUE_OUT_OF_RANGE, "a model source holds no NUL character", field="source")
    if text.startswith("package:"):
        return ModelSource(SourceKind.PACKAGE, text.removeprefix("package:").strip("/"))
    if text.startswith("demo:"):
        return ModelSource(SourceKind.DEMO, text.removeprefix("demo:"))
    if text.startswith((".", "~", "/")) or Path(text).is_absolute() or _is_folder(text):
        return ModelSource(SourceKind.FOLDER, text)
    if not HUB_ID.fullmatch(text):
        raise HubwireError(
            Reason.VALUE_OUT_OF_RANGE,
            f"{text!r} is no model source: use a hub id (owner/name), a folder that exists, or package:NAME/FOLDER",
            field="source",
        )
    return ModelSource(SourceKind.HUB, text)


def check_revision(source: ModelSource, revision: str) -> None:
    """Raises HubwireError (OPTION_NOT_SUPPORTED) where a revision is asked of what has none."""
    if revision and source.kind is not SourceKind.HUB:
        raise HubwireError(Reason.OPTION_NOT_SUPPORTED, "a revision is for hub repositories alone", field="revision")


def resolve(
    source: ModelSource | str,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    token: str | None = None,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
    demo_cache: Path | None = None,
    progress: Progress | None = None,
) -> ResolvedModel:
    """Finds the model's folder, and fetches it first where it is a hub repository. Blocks.

    revision, allow_pickle, token, cache_dir and endpoint are for hub repositories alone (hub.py). demo_cache is the server's cache folder,
    where demo models are built.
    Raises HubwireError: MODEL_SOURCE_NOT_FOUND, MODEL_NOT_ALLOWED, MODEL_NOT_SUPPORTED, or MODEL_LOAD_FAILED where the hub cannot be
    reached.
    """
    if isinstance(source, str):
        source = parse_source(source)
    check_revision(source, revision or "")
    if source.kind is SourceKind.HUB:
        from hubwire_server.models.hub import HubRequest, fetch  # here, since huggingface_hub takes a third of a second to import

        path, commit = fetch(HubRequest(source.name, revision, allow_pickle, token, cache_dir, endpoint), progress)
        return ResolvedModel(path, source.label, commit)
    if source.kind is SourceKind.DEMO:
        if demo_cache is None:
            raise HubwireError(Reason.MODEL_LOAD_FAILED, "a demo model is built in the server's cache folder, and the server has none")
        return ResolvedModel(demo.build(source.name, demo_cache), source.label, "")
    path = _folder(source.name) if source.kind is SourceKind.FOLDER else _package_folder(source.name)
    return ResolvedModel(path, source.label, "")


def _is_folder(text: str) -> bool:
    try:
        return bool(text) and Path(text).is_dir()
    except (OSError, ValueError):  # too long for a path, or not one at all
        return False


def _folder(name: str) -> Path:
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path.resolve()
    except (OSError, RuntimeError, ValueError):  # too long for a path, not one at all, or the home of an unknown user
        pass
    # Where it lies is the operator's business: clients see the last part of a path alone.
    raise HubwireError(
        Reason.MODEL_SOURCE_NOT_FOUND, f"the server has no model folder {Path(name).name[:MAX_QUOTED]!r} there", field="source"
    )


def _package_folder(name: str) -> Path:
    """The folder inside a package, which is found without running the package's code."""
    distribution, _, folder = name.partition("/")
    module = distribution.replace("-", "_")
    shown = distribution[:MAX_QUOTED]
    # A dotted name would make find_spec import the parent package.
    if not module.isidentifier():
        raise HubwireError(Reason.MODEL_SOURCE_NOT_FOUND, f"{shown!r} is no package name: write package:NAME/FOLDER", field="source")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, OSError, ValueError):  # the program itself (__main__), or a name too long for a file
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise HubwireError(
            Reason.MODEL_SOURCE_NOT_FOUND,
            f"no package {shown!r} is installed; pip install {shown.replace('_', '-')} may help",
            field="source",
        )
    for location in spec.submodule_search_locations:
        root = Path(location).resolve()
        try:
            path = (root / folder).resolve()
            if path.is_dir() and path.is_relative_to(root):
                return path
        except (OSError, ValueError):  # too long for a path, or not one at all
            continue
    raise HubwireError(Reason.MODEL_SOURCE_NOT_FOUND, f"the package {shown!r} has no folder {folder[:MAX_QUOTED]!r}", field="source")
