"""The folders that are built from packages: whole or not there, whatever happens to the process that builds."""

from __future__ import annotations

import os
import threading

import pytest

from hubwire_server.models.demo.folders import MANIFEST, built_folder, clear

NAME = "entities-1.4.0-0123456789ab"


def fill(folder):
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(1000))


def refuse(folder):
    raise AssertionError("it is there already")


def test_a_built_folder_is_found_and_not_built_again(tmp_path):
    folder = built_folder(tmp_path / "demo", NAME, fill)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", MANIFEST, "model.safetensors"]
    assert built_folder(tmp_path / "demo", NAME, refuse) == folder


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def fail(folder):
        fill(folder)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        built_folder(tmp_path, NAME, fail)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path):
    left = tmp_path / f".building-{NAME}"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    (left / "other").write_bytes(b"")
    folder = built_folder(tmp_path, NAME, fill)
    assert (folder / "model.safetensors").stat().st_size == 1000
    assert not (folder / "other").exists()
    assert not left.exists()


@pytest.mark.parametrize("damage", ["cut", "missing", "no manifest"])
def test_a_folder_that_is_not_whole_is_built_again(tmp_path, damage):
    folder = built_folder(tmp_path, NAME, fill)
    if damage == "cut":
        os.truncate(folder / "model.safetensors", 10)
    else:
        (folder / ("config.json" if damage == "missing" else MANIFEST)).unlink()
    assert built_folder(tmp_path, NAME, fill) == folder
    assert (folder / "model.safetensors").stat().st_size == 1000
    assert (folder / "config.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", NAME]


def test_who_comes_second_waits_and_finds_the_folder(tmp_path):
    building = threading.Event()
    go_on = threading.Event()
    found = []

    def slow(folder):
        building.set()
        assert go_on.wait(20)
        fill(folder)

    first = threading.Thread(target=lambda: found.append(built_folder(tmp_path, NAME, slow)))
    second = threading.Thread(target=lambda: found.append(built_folder(tmp_path, NAME, refuse)))
    first.start()
    assert building.wait(20)
    second.start()
    second.join(0.2)
    assert second.is_alive()  # a lock belongs to an open file, so that threads wait for each other as processes do
    go_on.set()
    first.join(20)
    second.join(20)
    assert found == [tmp_path / NAME] * 2


def test_clear_removes_what_was_built_and_nothing_else(tmp_path):
    built_folder(tmp_path, NAME, fill)
    (tmp_path / "mine").mkdir()
    linked = built_folder(tmp_path, NAME.replace("entities", "sentiment"), fill)
    os.link(linked / "model.safetensors", tmp_path / "mine" / "link")
    manifest = (linked / MANIFEST).stat().st_size
    assert clear(tmp_path) == 1000 + 2 * len("{}") + 2 * manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "mine"]
    assert clear(tmp_path / "nowhere") == 0
