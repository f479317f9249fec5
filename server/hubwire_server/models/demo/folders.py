"""The folders that were built from packages: one a model and version, put in place whole.

    root/
      .lock                     held while a folder is built or taken away
      entities-1.4.0-<digest>/  config.json, model.safetensors, tokenizer files, manifest.json
      .building-<name>/         not finished: its process runs and holds the lock, or was killed

A folder is built beside its place and renamed when all of it has reached the disk. Whoever comes second waits, and finds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "manifest.json"
"""The names of a folder's files and their sizes in bytes: what is missing one of them is built again."""

_BUILDING = ".building-"
_GONE = ".gone-"
_FOLDER = re.compile(rf"({re.escape(_BUILDING)}|{re.escape(_GONE)})?[a-z-]+-[\w.+!]+-[0-9a-f]{{12}}")


def built_folder(root: Path, name: str, build: Callable[[Path], None]) -> Path:
    """The folder of a name, which build makes where it is not there: it fills the empty folder that it is given. What it raises is passed
    on and leaves nothing behind. Raises OSError where the disk is full or may not be written. Blocks while another process builds.
    """
    folder = root / name
    if _is_whole(folder):
        return folder
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock(root):
        if _is_whole(folder):
            return folder
        _remove(folder)
        building = root / f"{_BUILDING}{name}"
        shutil.rmtree(building, ignore_errors=True)  # of a process that was killed: one that lives would hold the lock
        building.mkdir(mode=0o700)
        try:
            build(building)
            _seal(building)
            building.rename(folder)
            _sync(root)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
    return folder


def clear(root: Path) -> int:
    """Removes every folder that was built here. Returns how many bytes that freed. Raises OSError."""
    if not root.is_dir():
        return 0
    freed = 0
    with _lock(root):
        for folder in [path for path in root.iterdir() if _FOLDER.fullmatch(path.name) and path.is_dir()]:
            # A file that an exported model links to is not freed.
            freed += sum(status.st_size for path in folder.iterdir() if (status := path.stat()).st_nlink == 1)
            _remove(folder)
    return freed


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):  # no such folder, or no such manifest
        return False


def _seal(folder: Path) -> None:
    """Writes the manifest, after everything else has reached the disk."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    for name in sizes:
        _sync(folder / name)
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
    _sync(manifest)
    _sync(folder)


def _remove(folder: Path) -> None:
    """Takes a folder away, if there is one: first its name, so that nobody finds half of it."""
    gone = folder.with_name(_GONE + folder.name.removeprefix(_GONE))
    if gone != folder:
        shutil.rmtree(gone, ignore_errors=True)
        try:
            folder.rename(gone)
        except FileNotFoundError:
            return
    shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Keeps other processes from building here, or removing. It ends with the process, however that ends."""
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
