"""The cache of exported models: one folder an export, found by what went into it.

    root/
      .lock                                held while a folder is put in place or taken away
      <fingerprint>-body-float32-<digest>/ graph.onnx, owned.json, info.json, probe.npz, links to the weights, manifest.json
      .building-<name>-<random>/           not finished yet, or left by a process that was killed

A folder is built beside its place, its manifest is written last, and then it is renamed: so what has its final name is whole, whenever a
process is killed. What a disk does to it later is found by its sizes and hashes; those of the model's own files are checked by the
fingerprint in its name. This file imports no engine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from hubwire_server.backends.base import Head

FORMAT = 3
"""Counted up when the files of an export change their meaning."""

VERSIONED = ("torch", "transformers", "onnx", "onnxruntime", "hubwire-server")
"""The packages that an export depends on."""

EXPORTS = "exports"
"""Where the exports lie in the server's cache folder."""

MANIFEST = "manifest.json"
STALE_S = 24 * 3600
"""When a folder that is being built belongs to nobody any more."""

_BUILDING = ".building-"
_NAME = re.compile(r"[A-Za-z0-9_]+")
_EXPORT_FOLDER = re.compile(rf"({_NAME.pattern}-){{3}}[0-9a-f]{{12}}")
_BUILDING_FOLDER = re.compile(rf"{re.escape(_BUILDING)}{_EXPORT_FOLDER.pattern}-[0-9a-f]{{8}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportKey:
    """What an export was made from. fingerprint is that of fingerprint.py; dtype is "float32" or "int8". The two permissions are part of
    it, since a model that may run its own code can be another one.

    Raises ValueError where a part cannot stand in the name of a folder.
    """

    fingerprint: str
    head: Head = Head.BODY
    dtype: str
    allow_pickle: bool
    allow_remote_code: bool

    def __post_init__(self) -> None:
        for part in (self.fingerprint, self.head, self.dtype):
            if not _NAME.fullmatch(part):
                raise ValueError(f"{part!r} cannot be part of the name of a folder")

    def name(self) -> str:
        """The name of the folder. It differs between versions of VERSIONED, which are looked up without importing them."""
        versions = [f"{package}={_version(package)}" for package in VERSIONED]
        facts = [f"format={FORMAT}", f"pickle={self.allow_pickle}", f"code={self.allow_remote_code}", *versions]
        digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
        return f"{self.fingerprint}-{self.head}-{self.dtype}-{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One export. bytes is what removing it frees: files that it shares with the model's folder do not count. mtime is in seconds since
    1970.
    """

    name: str
    bytes: int
    mtime: float
    fingerprint: str


class _File(msgspec.Struct, frozen=True):
    size: int
    sha256: str


class _Manifest(msgspec.Struct, frozen=True):
    fingerprint: str
    files: dict[str, _File]


class ExportCache:
    """The exports under one folder, which is made when the first is written. Any number of processes may use it at once.

    shared are the model's own files, of which an export may hold links: they were hashed for the fingerprint of its key. Hashing them again
    would cost more than the rest of a warm start, so links to them are checked by their size alone. Everything else is hashed.
    """

    def __init__(self, root: Path, *, shared: Iterable[Path] = ()) -> None:
        self._root = root
        self._shared = tuple(shared)

    def find(self, key: ExportKey) -> Path | None:
        """The folder of an export whose files are all there and as they were written, or None. A broken one is removed."""
        folder = self._root / key.name()
        if self._is_whole(folder):
            return folder
        with suppress(OSError):  # on a disk that may only be read, or fails, it stays, and is not found either
            if not folder.is_dir():
                return None
            with self._lock():
                # Looked at again: another process may have put a good one there in the meantime.
                if self._is_whole(folder):
                    return folder
                _remove(folder)
        return None

    def write(self, key: ExportKey, build: Callable[[Path], None]) -> Path:
        """The folder of an export that build makes. build fills the empty folder that it is given; what it raises is passed on and leaves
        nothing behind.

        Where another process was first, its folder is used. Raises OSError where the disk is full or may not be written.
        """
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()
        folder = self._root / key.name()
        building = self._root / f"{_BUILDING}{folder.name}-{secrets.token_hex(4)}"
        building.mkdir(mode=0o700)
        try:
            build(building)
            _seal(building, key.fingerprint)
            with self._lock():
                if self._is_whole(folder):
                    shutil.rmtree(building)
                else:
                    _remove(folder)
                    building.rename(folder)
                    _sync(self._root)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        return folder

    def remove(self, key: ExportKey) -> None:
        """Removes an export that turned out to be of no use, if it is there. Raises OSError."""
        folder = self._root / key.name()
        if folder.is_dir():
            with self._lock():
                _remove(folder)

    def entries(self) -> list[CacheEntry]:
        """All exports, the oldest first."""
        found = []
        for folder in self._folders():
            manifest = _read_manifest(folder)
            try:
                entry = CacheEntry(
                    name=folder.name,
                    bytes=_own_bytes(folder),
                    mtime=folder.stat().st_mtime,
                    fingerprint=manifest.fingerprint if manifest else "",
                )
            except FileNotFoundError:  # another process removed it
                continue
            found.append(entry)
        return sorted(found, key=lambda entry: entry.mtime)

    def clear(self) -> int:
        """Removes all exports, and what killed processes left. Returns how many bytes that freed. A server that runs keeps what it has
        opened, and exports again when it is started the next time; an export that is being written now is kept.
        """
        if not self._root.is_dir():
            return 0
        freed = self._sweep()
        with self._lock():
            for folder in self._folders():
                freed += _own_bytes(folder)
                _remove(folder)
        return freed

    def _folders(self) -> list[Path]:
        if not self._root.is_dir():
            return []
        # Whoever names a folder of other things as the cache keeps them.
        return [path for path in self._root.iterdir() if _EXPORT_FOLDER.fullmatch(path.name) and path.is_dir()]

    def _sweep(self) -> int:
        """Removes the folders that processes which were killed have left, and returns how many bytes that freed."""
        freed = 0
        for path in self._root.glob(f"{_BUILDING}*"):
            if not _BUILDING_FOLDER.fullmatch(path.name):
                continue
            try:
                stale = time.time() - path.stat().st_mtime > STALE_S
            except FileNotFoundError:  # its process renamed it or another one swept it
                continue
            if stale:
                freed += _own_bytes(path)
                shutil.rmtree(path, ignore_errors=True)
        return freed

    def _is_whole(self, folder: Path) -> bool:
        manifest = _read_manifest(folder)
        shared = set(filter(None, map(_identity, self._shared)))
        return manifest is not None and all(_is_file(folder / name, file, shared) for name, file in manifest.files.items())

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keeps other processes from putting folders in place or taking them away. It ends with the process, however that ends."""
        descriptor = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _seal(folder: Path, fingerprint: str) -> None:
    """Writes the manifest, after everything else has reached the disk."""
    files = {}
    for path in sorted(folder.iterdir()):
        size = path.stat().st_size
        files[path.name] = _File(size, _sha256(path))
        _sync(path)
    manifest = folder / MANIFEST
    manifest.write_bytes(msgspec.json.encode(_Manifest(fingerprint, files)))
    _sync(manifest)
    _sync(folder)


def _read_manifest(folder: Path) -> _Manifest | None:
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_Manifest)
    except (OSError, ValueError, msgspec.MsgspecError):  # ValueError where it is not in UTF-8
        return None


def _identity(path: Path) -> tuple[int, int] | None:
    """What two links to one file have in common, or None where there is no file."""
    try:
        status = path.stat()  # of what a symbolic link leads to, as in the cache of the hub
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_file(path: Path, file: _File, shared: set[tuple[int, int]]) -> bool:
    try:
        status = path.lstat()
        # A link to somewhere else is no file: ONNX Runtime refuses to follow it.
        if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
            return False
        return (status.st_dev, status.st_ino) in shared or _sha256(path) == file.sha256
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _own_bytes(folder: Path) -> int:
    """The bytes that nothing else holds."""
    total = 0
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:  # another process removed it
            continue
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            total += status.st_size
    return total


def _remove(folder: Path) -> None:
    """Takes a folder away, if there is one: first its name, so that nobody finds half of it."""
    gone = folder.with_name(f"{_BUILDING}{folder.name}-{secrets.token_hex(4)}")
    try:
        folder.rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
