"""What was measured of a model on this machine, kept between starts, so that the next one need not measure it again.

A record is one small JSON file in the cache folder. It holds for one model with one head, one kind of processor, one number of threads, one
set of options and one set of versions: where any of them differs there is no record.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec

from hubwire_server import _native
from hubwire_server.backends.base import Candidate, Head, LoadOptions

FOLDER = "choices"
FORMAT = 2
"""Raised whenever a record of before would be read wrongly."""
PACKAGES = ("hubwire-server", "numpy", "onnxruntime", "torch", "transformers")

_NAME = re.compile(r"[0-9a-f]+-[0-9a-f]{16}(\.json|\.measuring|\w*\.writing)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """How the candidates did, the chosen one among them, and the session that it runs in where it is onnx."""

    candidates: tuple[Candidate, ...]
    session: str = ""

    @property
    def chosen(self) -> Candidate:
        """The candidate that serves."""
        return next(candidate for candidate in self.candidates if candidate.chosen)


class Records:
    """The records in a cache folder of models with a head."""

    def __init__(self, root: Path, head: Head = Head.BODY) -> None:
        self._folder = root / FOLDER
        self._head = head

    def find(self, fingerprint: str, options: LoadOptions) -> Record | None:
        """The record of a model, or None where there is none that can be read."""
        try:
            record = msgspec.json.decode(self._path(fingerprint, options).read_bytes(), type=Record)
        except (OSError, msgspec.MsgspecError):
            return None
        return record if sum(candidate.chosen for candidate in record.candidates) == 1 else None

    def write(self, fingerprint: str, options: LoadOptions, record: Record) -> None:
        """Keeps a record. One that cannot be written is measured again next time."""
        path = self._path(fingerprint, options)
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=".writing", delete=False) as file:
                file.write(msgspec.json.format(msgspec.json.encode(record)))
            os.replace(file.name, path)

    def forget(self, fingerprint: str, options: LoadOptions) -> None:
        """Drops a record that no longer holds."""
        with contextlib.suppress(OSError):
            self._path(fingerprint, options).unlink(missing_ok=True)

    def begin(self, fingerprint: str, options: LoadOptions) -> None:
        """Notes that a model is being measured. The note stays where the process ends before finish."""
        count = self.unfinished(fingerprint, options) + 1
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._note(fingerprint, options).write_text(str(count))

    def unfinished(self, fingerprint: str, options: LoadOptions) -> int:
        """How many processes have ended while they measured a model, since one of them finished."""
        try:
            return int(self._note(fingerprint, options).read_text())
        except (OSError, ValueError):
            return 0

    def finish(self, fingerprint: str, options: LoadOptions) -> None:
        """Drops the note of begin."""
        with contextlib.suppress(OSError):
            self._note(fingerprint, options).unlink(missing_ok=True)

    def clear(self) -> int:
        """Removes all records, whatever their head, and returns how many bytes that freed. Files of another name are not ours, and stay."""
        freed = 0
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if _NAME.fullmatch(path.name):
                freed += path.stat().st_size
                path.unlink(missing_ok=True)
        return freed

    def _note(self, fingerprint: str, options: LoadOptions) -> Path:
        return self._path(fingerprint, options).with_suffix(".measuring")

    def _path(self, fingerprint: str, options: LoadOptions) -> Path:
        parts = [FORMAT, fingerprint, self._head, processor(), _native.simd_level(), options.threads, options.backend, options.dtype]
        parts += [options.allow_pickle, options.allow_remote_code, *map(version, PACKAGES)]
        digest = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]
        return self._folder / f"{fingerprint}-{digest}.json"


def processor() -> str:
    """The name of the processor, as far as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
