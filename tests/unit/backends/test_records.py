"""What was measured is found again under the same circumstances, and under no others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hubwire_server.backends import records as records_module
from hubwire_server.backends.base import Candidate, Head, LoadOptions
from hubwire_server.backends.records import FOLDER, Record, Records

RECORD = Record(
    candidates=(
        Candidate(backend="torch", dtype="float32", cosine=1.0, short_ns=5, mixed_ns=6, note="packed"),
        Candidate(backend="onnx", dtype="float32", chosen=True, cosine=0.99999999, short_ns=3, mixed_ns=4),
    ),
    session="threads never spin",
)
OPTIONS = LoadOptions(threads=2)


@pytest.fixture
def records(tmp_path):
    kept = Records(tmp_path)
    kept.write("ab", OPTIONS, RECORD)
    return kept


def test_a_record_is_found_as_it_was_written(records):
    found = records.find("ab", OPTIONS)
    assert found == RECORD
    assert found.chosen.backend == "onnx"


@pytest.mark.parametrize(
    ("fingerprint", "options"),
    [
        ("cd", OPTIONS),
        ("ab", replace(OPTIONS, threads=1)),
        ("ab", replace(OPTIONS, backend="torch")),
        ("ab", replace(OPTIONS, dtype="int8")),
        ("ab", replace(OPTIONS, allow_pickle=True)),
        ("ab", replace(OPTIONS, allow_remote_code=True)),
    ],
)
def test_another_model_or_other_options_have_no_record(records, fingerprint, options):
    assert records.find(fingerprint, options) is None


def test_another_head_of_the_model_has_no_record(records, tmp_path):
    assert Records(tmp_path, Head.MASKED_LM).find("ab", OPTIONS) is None
    assert Records(tmp_path, Head.BODY).find("ab", OPTIONS) == RECORD


@pytest.mark.parametrize(("name", "value"), [("processor", lambda: "another"), ("version", lambda package: "0"), ("FORMAT", -1)])
def test_another_processor_version_or_format_has_no_record(records, monkeypatch, name, value):
    monkeypatch.setattr(records_module, name, value)
    assert records.find("ab", OPTIONS) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"candidates": []}', b'{"candidates": [{"backend": "onnx", "dtype": 3}]}'])
def test_a_broken_record_is_none(records, tmp_path, content):
    (path,) = (tmp_path / FOLDER).iterdir()
    path.write_bytes(content)
    assert records.find("ab", OPTIONS) is None


def test_a_record_can_be_forgotten_and_all_can_be_cleared(records, tmp_path):
    records.forget("ab", OPTIONS)
    assert records.find("ab", OPTIONS) is None
    records.write("ab", OPTIONS, RECORD)
    (tmp_path / FOLDER / "mine.txt").write_text("not ours")
    records.begin("ab", OPTIONS)
    assert records.clear() > 0
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["mine.txt"]
    (tmp_path / FOLDER / "mine.txt").unlink()
    assert not any((tmp_path / FOLDER).iterdir())
    assert records.clear() == 0


def test_unfinished_measuring_is_counted_until_it_finishes(records):
    assert records.unfinished("ab", OPTIONS) == 0
    for count in (1, 2):
        records.begin("ab", OPTIONS)
        assert records.unfinished("ab", OPTIONS) == count
    assert records.unfinished("cd", OPTIONS) == 0
    records.finish("ab", OPTIONS)
    assert records.unfinished("ab", OPTIONS) == 0
    assert records.find("ab", OPTIONS) == RECORD


def test_a_folder_that_cannot_be_written_costs_the_record_alone(tmp_path):
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    records = Records(tmp_path)
    records.write("ab", OPTIONS, RECORD)
    assert records.find("ab", OPTIONS) is None
