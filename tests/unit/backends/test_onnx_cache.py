"""The cache of exports: what is found is whole, whatever happened to the processes and the files before."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hubwire_server.backends.base import Head
from hubwire_server.backends.onnx import cache as cache_module
from hubwire_server.backends.onnx.cache import MANIFEST, STALE_S, ExportCache, ExportKey

KEY = ExportKey(fingerprint="0123456789abcdef", dtype="float32", allow_pickle=False, allow_remote_code=False)
LARGE = 5_000_000


@pytest.fixture
def cache(tmp_path: Path) -> ExportCache:
    return ExportCache(tmp_path / "exports")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(LARGE))
    return path


def fill(folder: Path) -> None:
    (folder / "graph.onnx").write_bytes(b"the graph")
    (folder / "weights.bin").write_bytes(bytes(LARGE))


def never(folder: Path) -> None:
    raise AssertionError("built again")


def left_in(root: Path) -> set[str]:
    """Everything that is under the root but the lock."""
    return {path.name for path in root.iterdir()} - {".lock"}


def test_what_was_written_is_found(cache: ExportCache) -> None:
    assert cache.find(KEY) is None
    folder = cache.write(KEY, fill)
    assert folder.name == KEY.name()
    assert (folder / "graph.onnx").read_bytes() == b"the graph"
    assert cache.find(KEY) == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "other",
    [
        {"fingerprint": "f" * 16},
        {"head": Head.TOKEN_CLASSIFICATION},
        {"dtype": "int8"},
        {"allow_pickle": True},
        {"allow_remote_code": True},
    ],
    ids=lambda other: next(iter(other)),
)
def test_every_part_of_the_key_makes_another_export(other: dict[str, object]) -> None:
    parts = {"fingerprint": KEY.fingerprint, "dtype": KEY.dtype, "allow_pickle": False, "allow_remote_code": False}
    assert ExportKey(**{**parts, **other}).name() != KEY.name()  # type: ignore[arg-type]  # the table holds strings and flags


@pytest.mark.parametrize("package", ["torch", "transformers", "onnx", "onnxruntime", "hubwire-server"])
def test_another_version_of_a_library_makes_another_export(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = KEY.name()
    version = cache_module.version
    monkeypatch.setattr(cache_module, "version", lambda name: "999" if name == package else version(name))
    assert KEY.name() != before


def test_another_format_makes_another_export(monkeypatch: pytest.MonkeyPatch) -> None:
    before = KEY.name()
    monkeypatch.setattr(cache_module, "FORMAT", cache_module.FORMAT + 1)
    assert KEY.name() != before


@pytest.mark.parametrize("part", ["", "..", "a/b", "a-b"])
def test_a_key_that_is_no_name_of_a_folder_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match="cannot be part of the name"):
        ExportKey(fingerprint=part, dtype="float32", allow_pickle=False, allow_remote_code=False)


def corrupt_the_graph(folder: Path) -> None:
    (folder / "graph.onnx").write_bytes(b"the grapE")


def change_one_weight(folder: Path) -> None:
    with (folder / "weights.bin").open("r+b") as stream:
        stream.seek(LARGE // 2)
        stream.write(b"1")


def cut_the_weights(folder: Path) -> None:
    with (folder / "weights.bin").open("r+b") as stream:
        stream.truncate(LARGE - 1)


def take_the_weights(folder: Path) -> None:
    (folder / "weights.bin").unlink()


def put_a_symbolic_link_in_their_place(folder: Path) -> None:
    shutil.move(folder / "weights.bin", folder.parent.parent / "elsewhere.bin")
    (folder / "weights.bin").symlink_to(folder.parent.parent / "elsewhere.bin")


def take_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def break_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b'{"fingerprint": 3')


def break_the_text_of_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b'{"fingerprint": "\xff", "files": {}}')


@pytest.mark.parametrize(
    "damage",
    [
        corrupt_the_graph,
        change_one_weight,
        cut_the_weights,
        take_the_weights,
        put_a_symbolic_link_in_their_place,
        take_the_manifest,
        break_the_manifest,
        break_the_text_of_the_manifest,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_broken_export_is_removed_and_made_again(damage: Callable[[Path], None], cache: ExportCache) -> None:
    folder = cache.write(KEY, fill)
    damage(folder)
    assert cache.find(KEY) is None
    assert not folder.exists()
    assert cache.write(KEY, fill) == cache.find(KEY)


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed from now on."""
    names: list[str] = []
    sha256 = cache_module._sha256
    monkeypatch.setattr(cache_module, "_sha256", lambda path: names.append(path.name) or sha256(path))
    return names


def test_links_to_the_models_own_files_are_not_hashed_again(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "snapshot.safetensors"
    snapshot.symlink_to(weights)  # as in the hub's cache
    cache = ExportCache(tmp_path / "exports", shared=[snapshot, tmp_path / "removed.safetensors"])

    def link(folder: Path) -> None:
        fill(folder)
        os.link(weights, folder / "model.safetensors")

    folder = cache.write(KEY, link)
    names = hashed(monkeypatch)
    assert cache.find(KEY) == folder
    assert names == ["graph.onnx", "weights.bin"]
    with weights.open("r+b") as stream:
        stream.truncate(LARGE - 1)
    assert cache.find(KEY) is None


def test_a_copy_of_the_models_own_files_is_hashed_also_where_another_export_links_to_it(weights: Path, tmp_path: Path) -> None:
    cache = ExportCache(tmp_path / "exports", shared=[weights])
    folder = cache.write(KEY, lambda folder: shutil.copyfile(weights, folder / "model.safetensors") and None)
    os.link(folder / "model.safetensors", tmp_path / "linked")
    assert cache.find(KEY) == folder
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.write(b"1")
    assert cache.find(KEY) is None


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
def test_where_the_disk_cannot_be_read_nothing_is_found(code: int, cache: ExportCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    cache.write(KEY, fill)
    monkeypatch.setattr(Path, "stat", refuse)
    assert cache.find(KEY) is None
    with pytest.raises(OSError, match=re.escape(os.strerror(code))):
        cache.write(KEY, fill)


def test_a_broken_export_that_cannot_be_removed_is_not_found(cache: ExportCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    corrupt_the_graph(cache.write(KEY, fill))
    monkeypatch.setattr(Path, "rename", refuse)
    assert cache.find(KEY) is None


def test_a_broken_export_is_replaced_also_by_one_who_did_not_look(cache: ExportCache) -> None:
    folder = cache.write(KEY, fill)
    corrupt_the_graph(folder)
    assert cache.write(KEY, fill) == folder
    assert (folder / "graph.onnx").read_bytes() == b"the graph"


def test_where_another_process_was_first_its_export_is_used(cache: ExportCache) -> None:
    def slow(folder: Path) -> None:
        fill(folder)
        cache.write(KEY, fill)
        (folder / "graph.onnx").write_bytes(b"the second graph")

    folder = cache.write(KEY, slow)
    assert (folder / "graph.onnx").read_bytes() == b"the graph"
    assert left_in(folder.parent) == {folder.name}


def test_an_export_that_fails_leaves_nothing(cache: ExportCache) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    cache.write(KEY, fill)
    other = ExportKey(fingerprint="f" * 16, dtype="float32", allow_pickle=False, allow_remote_code=False)
    with pytest.raises(KeyboardInterrupt):
        cache.write(other, fail)
    assert [entry.name for entry in cache.entries()] == [KEY.name()]
    assert cache.find(other) is None


@pytest.mark.parametrize("where", ["while it is built", "while it is sealed"])
def test_a_full_disk_is_an_error_and_leaves_nothing(
    where: str, cache: ExportCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(folder: Path) -> None:
        fill(folder)
        if where == "while it is built":
            raise OSError(errno.ENOSPC, "No space left on device")

    def sync(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "while it is sealed":
        monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(OSError, match="No space left"):
        cache.write(KEY, build)
    assert left_in(tmp_path / "exports") == set()


WRITER = """
import os, sys
from pathlib import Path
from hubwire_server.backends.onnx.cache import ExportCache, ExportKey

root, fingerprint = Path(sys.argv[1]), sys.argv[2]
key = ExportKey(fingerprint=fingerprint, dtype="float32", allow_pickle=False, allow_remote_code=False)

def build(folder):
    (folder / "graph.onnx").write_bytes(b"the graph")
    (folder / "weights.bin").write_bytes(b"w" * 1000)
    print("building", flush=True)
    sys.stdin.readline()
    (folder / "graph.onnx").write_bytes(f"the graph of {os.getpid()}".encode())

print(ExportCache(root).write(key, build), flush=True)
"""


def start_writer(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(root), KEY.fingerprint]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "building\n"
    return writer


def test_processes_that_race_agree_on_one_export(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path) for _ in range(3)]
    for writer in writers:  # all of them are building now; let them end at once
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    answers = {writer.communicate(timeout=30)[0].strip() for writer in writers}
    assert answers == {str(tmp_path / KEY.name())}
    assert {writer.returncode for writer in writers} == {0}
    folder = ExportCache(tmp_path).find(KEY)
    assert folder is not None
    assert (folder / "graph.onnx").read_text() in {f"the graph of {writer.pid}" for writer in writers}
    assert left_in(tmp_path) == {KEY.name()}


def test_a_process_that_is_killed_leaves_nothing_that_is_found_and_is_swept_a_day_later(tmp_path: Path) -> None:
    writer = start_writer(tmp_path)
    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=30)
    cache = ExportCache(tmp_path)
    assert cache.find(KEY) is None
    assert cache.entries() == []
    (left,) = left_in(tmp_path)

    cache.write(KEY, fill)
    assert left_in(tmp_path) == {left, KEY.name()}  # it could be of a process that is still at it
    yesterday = time.time() - STALE_S - 1
    os.utime(tmp_path / left, (yesterday, yesterday))
    cache.write(KEY, fill)
    assert left_in(tmp_path) == {KEY.name()}


def test_entries_say_what_removing_them_would_free(cache: ExportCache, weights: Path) -> None:
    def link(folder: Path) -> None:
        fill(folder)
        os.link(weights, folder / "model.safetensors")

    before = time.time()
    folder = cache.write(KEY, link)
    (entry,) = cache.entries()
    assert (entry.name, entry.fingerprint) == (folder.name, KEY.fingerprint)
    assert entry.bytes == LARGE + len(b"the graph") + (folder / MANIFEST).stat().st_size
    assert before - 1 < entry.mtime < time.time() + 1


def test_clearing_frees_what_the_entries_say_and_spares_what_runs(cache: ExportCache, weights: Path, tmp_path: Path) -> None:
    assert cache.clear() == 0
    folder = cache.write(KEY, fill)
    (entry,) = cache.entries()
    building = folder.with_name(".building-now")
    building.mkdir()
    with (folder / "weights.bin").open("rb") as opened:
        assert cache.clear() == entry.bytes
        assert opened.read() == bytes(LARGE)
    assert cache.entries() == []
    assert left_in(folder.parent) == {building.name}
    assert weights.exists()


def test_clearing_spares_what_is_not_of_the_cache(cache: ExportCache) -> None:
    root = cache.write(KEY, fill).parent
    stale = f".building-{KEY.name()}-0123abcd"
    foreign = {"photos", "my-own-folder", f"{KEY.name()}.bak", f"{KEY.name()}-old", "a-b-c-0123456789ab.txt", ".building-a-house", ".git"}
    for name in (stale, *foreign):
        (root / name).mkdir()
        (root / name / "file").write_bytes(b"mine")
        os.utime(root / name, (0, 0))
    assert [entry.name for entry in cache.entries()] == [KEY.name()]
    cache.clear()
    assert left_in(root) == foreign
    assert all((root / name / "file").read_bytes() == b"mine" for name in foreign)


def test_removing_one_export_keeps_the_others(cache: ExportCache) -> None:
    other = ExportKey(fingerprint="f" * 16, dtype="float32", allow_pickle=False, allow_remote_code=False)
    cache.remove(KEY)  # nothing is there yet, not even the root
    cache.write(KEY, fill)
    folder = cache.write(other, fill)
    cache.remove(KEY)
    assert cache.find(KEY) is None
    assert cache.find(other) == folder


def test_a_disk_that_may_not_be_written_is_an_error(cache: ExportCache, tmp_path: Path) -> None:
    (tmp_path / "exports").write_bytes(b"a file, where the folder should be")
    with pytest.raises(OSError, match="exports"):
        cache.write(KEY, never)
    assert cache.find(KEY) is None
