"""Keeps what a caller writes from opening files and addresses.

Pipelines take a text in the place of an image or a sound for a path or an address, also deep inside a dictionary: one request could read
any file of the machine, or any address that it reaches. Python tells an audit hook of each file, connection and process before it is
opened, and the hook refuses what a computation has no need of. Native code is not seen by it, so that bytes of callers are only read by
decoders that open nothing (media.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONNECTIONS = frozenset({"socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"})
PROCESSES = frozenset({"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"})
SYSTEM_FILES = ("/dev/null", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/")
"""What engines read of the machine while they compute."""


class FenceError(Exception):
    """A file, a connection or a process that was refused."""


class _Fence:
    """What is refused now, in every thread: a pipeline may start some, and the worker itself opens nothing meanwhile."""

    closed = False
    folders: tuple[str, ...] | None = None
    """The folders whose files may be opened; None for any."""
    crossed = False


_fence = _Fence()
_installed = False


@contextmanager
def no_connections() -> Iterator[None]:
    """While a model is loaded: no connections and no processes, any files."""
    with _closed(None):
        yield


@contextmanager
def only_files_of(folders: Sequence[Path]) -> Iterator[None]:
    """While an input is computed: no connections, no processes, and for reading alone the files of these folders, of Python, and of
    SYSTEM_FILES."""
    with _closed(tuple(f"{path}/" for folder in folders for path in {str(folder), str(folder.resolve())})):
        yield


def was_crossed() -> bool:
    """Whether something was refused since the fence was closed last; a library may have caught the error and gone on."""
    return _fence.crossed


@contextmanager
def _closed(folders: tuple[str, ...] | None) -> Iterator[None]:
    global _installed
    if not _installed:  # a hook cannot be taken out again
        _installed = True
        sys.addaudithook(_audit)
    _fence.closed, _fence.folders, _fence.crossed = True, folders, False
    try:
        yield
    finally:
        _fence.closed, _fence.folders = False, None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _fence.closed:
        return
    if event in CONNECTIONS or event in PROCESSES:
        _refuse()
    if event == "open" and _fence.folders is not None:
        _check_file(arguments[0], arguments[1], arguments[2])


def _check_file(path: object, mode: object, flags: object) -> None:
    if isinstance(path, int):  # a file that is open
        return
    name = path.decode(errors="replace") if isinstance(path, bytes) else str(path)
    writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
    # os.open has no mode; its lowest two bits say whether it writes.
    writes = writes or (mode is None and isinstance(flags, int) and flags & 3 != 0)
    allowed = (*(_fence.folders or ()), *_PYTHON, *SYSTEM_FILES)
    if name == "/dev/null" or (not writes and ".." not in name.split("/") and name.startswith(allowed)):
        return
    _refuse()


def _refuse() -> None:
    _fence.crossed = True
    raise FenceError("a pipeline opens no files and no addresses: send bytes as blobs")


def _python_folders() -> tuple[str, ...]:
    """Where Python, its packages and this one lie: modules are imported when they are first used."""
    folders = {sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parents[2])}
    return tuple(f"{folder.rstrip('/')}/" for folder in folders)


_PYTHON = _python_folders()
