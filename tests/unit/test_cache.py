"""`hubwire cache`: listing and clearing what servers keep."""

from __future__ import annotations

import json

import pytest

from hubwire_server.backends.base import Candidate, LoadOptions
from hubwire_server.backends.onnx.cache import EXPORTS, ExportCache, ExportKey
from hubwire_server.backends.records import Record, Records
from hubwire_server.cache import main
from hubwire_server.models import demo

KEY = ExportKey(fingerprint="0123456789abcdef", dtype="float32", allow_pickle=False, allow_remote_code=False)


@pytest.fixture
def folder(tmp_path):
    """A cache with one export of 1,000 bytes and one record."""
    ExportCache(tmp_path / EXPORTS).write(KEY, lambda target: (target / "graph.onnx").write_bytes(bytes(1000)))
    Records(tmp_path).write(KEY.fingerprint, LoadOptions(), Record(candidates=(Candidate(backend="onnx", dtype="float32", chosen=True),)))
    return tmp_path


def test_the_list_names_exports_and_their_size(folder, capsys):
    assert main(["--cache-dir", str(folder)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["FINGERPRINT", "SIZE", "AGE", "NAME"]
    assert (rows[1][0], rows[1][-1]) == (KEY.fingerprint, KEY.name())


def test_the_list_is_json_for_machines(folder, capsys):
    assert main(["list", "--json", "--cache-dir", str(folder)]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["name"], entry["fingerprint"]) == (KEY.name(), KEY.fingerprint)
    assert entry["bytes"] > 1000


def test_clear_removes_exports_and_records(folder, capsys):
    assert main(["clear", "--json", "--cache-dir", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["freed_bytes"] > 1000
    assert ExportCache(folder / EXPORTS).find(KEY) is None
    assert Records(folder).find(KEY.fingerprint, LoadOptions()) is None


def test_the_environment_of_the_server_names_the_folder(folder, capsys, monkeypatch):
    monkeypatch.setenv("HUBWIRE_CACHE_DIR", str(folder))
    assert main([]) == 0
    assert KEY.name() in capsys.readouterr().out


def test_an_empty_cache_is_no_error(tmp_path, capsys):
    assert main(["--cache-dir", str(tmp_path / "none")]) == 0
    assert "no exported model" in capsys.readouterr().out
    assert main(["clear", "--cache-dir", str(tmp_path / "none")]) == 0


def test_without_a_home_nothing_is_removed(monkeypatch, capsys, tmp_path):
    (tmp_path / EXPORTS / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hubwire_server.settings.Settings.cache_folder", "")
    assert main(["clear"]) == 1
    assert "--cache-dir" in capsys.readouterr().err
    assert (tmp_path / EXPORTS / "mine").is_dir()


def test_an_unknown_action_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["wipe"])
    assert stop.value.code == 2


def test_clear_removes_demo_models(tmp_path, capsys):
    built = demo.build("sentiment", tmp_path)
    size = sum(file.stat().st_size for file in built.iterdir())
    assert main(["clear", "--json", "--cache-dir", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["freed_bytes"] >= size > 0
    assert not built.exists()
