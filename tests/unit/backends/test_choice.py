"""Choosing how a model runs on a CPU: cold and warm, what is refused, and what a broken cache costs."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hubwire_server.backends import choice as choice_module
from hubwire_server.backends import comparison as comparison_module
from hubwire_server.backends.base import Candidate, Head, LoadOptions, RaggedBatch
from hubwire_server.backends.loading import LoadedModel, load_model, runs_on_cpu
from hubwire_server.backends.onnx import build as build_module
from hubwire_server.backends.onnx import export as export_module
from hubwire_server.backends.onnx.cache import EXPORTS
from hubwire_server.backends.records import FOLDER
from hubwire_server.errors import HubwireError, Reason
from tests.unit.backends.tiny_models import make_model, save_folder

LENGTHS = (5, 40, 17, 17, 3, 60)
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
BATCH = RaggedBatch(np.random.default_rng(3).integers(1000, 20_000, OFFSETS[-1]).astype(np.int32), np.zeros(OFFSETS[-1], np.int32), OFFSETS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT."""
    return save_folder(make_model("Bert"), tmp_path_factory.mktemp("bert"))


def load(folder: Path, cache: Path, **options: object) -> LoadedModel:
    return load_model(folder, Head.BODY, LoadOptions(threads=1, cache_dir=cache, **options))  # type: ignore[arg-type]  # options vary


def chosen(model: LoadedModel) -> Candidate:
    (candidate,) = [candidate for candidate in model.candidates if candidate.chosen]
    assert (candidate.backend, candidate.dtype) == (model.backend.description.backend, model.backend.description.dtype)
    return candidate


def of_backend(model: LoadedModel, backend: str) -> list[Candidate]:
    return [candidate for candidate in model.candidates if candidate.backend == backend]


def vectors(model: LoadedModel) -> np.ndarray:
    hidden, dtype = model.backend.forward(BATCH)
    return model.embedding_head.pool(hidden, dtype, BATCH.offsets)


def test_auto_compares_and_times_every_candidate(folder: Path, tmp_path: Path) -> None:
    model = load(folder, tmp_path)
    assert chosen(model).dtype == "float32" or chosen(model).cosine >= 0.9995
    exact = [candidate for candidate in model.candidates if candidate.dtype == "float32"]
    assert {candidate.backend for candidate in exact} == {"torch", "onnx"}
    for candidate in exact:
        assert candidate.cosine > 1 - 1e-9
        assert candidate.short_ns > 0
        assert candidate.mixed_ns > candidate.short_ns
        assert candidate.note
    for candidate in model.candidates:
        assert candidate.dtype in ("float32", "bfloat16", "float16")
        assert bool(candidate.short_ns) or candidate.note


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_backend_that_is_named_serves(folder: Path, tmp_path: Path, backend: str) -> None:
    model = load(folder, tmp_path, backend=backend, dtype="float32")
    assert {candidate.backend for candidate in model.candidates} == {backend}
    assert chosen(model).backend == backend
    alone = load_model(folder, Head.BODY, LoadOptions(threads=1))
    assert alone.candidates == ()
    np.testing.assert_allclose(vectors(model), vectors(alone), atol=1e-5)


def test_a_start_with_a_warm_cache_needs_no_torch_and_tells_the_same(folder: Path, tmp_path: Path) -> None:
    cold = load(folder, tmp_path, backend="onnx")
    code = (
        "import sys, json; from pathlib import Path\n"
        "from hubwire_server.backends.base import Head, LoadOptions\n"
        "from hubwire_server.models.description import Task\n"
        "from hubwire_server.workers.model import load\n"
        f"options = LoadOptions(threads=1, backend='onnx', device='auto', cache_dir=Path({str(tmp_path)!r}))\n"
        f"model = load(Path({str(folder)!r}), options, Task.EMBEDDING)\n"
        "engines = sorted({'torch', 'transformers', 'onnx'} & set(sys.modules))\n"
        "print(json.dumps([engines, model.description.fingerprint, [c.short_ns for c in model.description.candidates]]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == [[], cold.fingerprint, [candidate.short_ns for candidate in cold.candidates]]


def test_an_export_that_came_without_measurements_serves_where_onnx_is_asked_for(folder: Path, tmp_path: Path) -> None:
    load(folder, tmp_path, backend="onnx")
    for record in (tmp_path / FOLDER).iterdir():
        record.unlink()
    model = load(folder, tmp_path, backend="onnx")
    assert chosen(model).short_ns == 0
    assert vectors(model).shape == (len(LENGTHS), 32)


def test_what_was_chosen_in_torch_is_loaded_in_torch_again(folder: Path, tmp_path: Path) -> None:
    first = load(folder, tmp_path, backend="torch")
    again = load(folder, tmp_path, backend="torch")
    assert again.candidates == first.candidates
    assert again.backend.description.dtype == chosen(first).dtype


def damage_graph(export: Path) -> None:
    (export / "graph.onnx").write_bytes(b"no graph")


def damage_tokenizer(export: Path) -> None:
    (export / "exported_tokenizer.json").unlink()


def damage_probe(export: Path) -> None:
    """As if the export no longer gave what torch gave, on this machine: the files are whole."""
    from hubwire_server.backends.onnx.cache import _seal
    from hubwire_server.backends.onnx.check import read_probe, write_probe

    probe = read_probe(export)
    write_probe(export, probe.with_output(probe.output * np.float32(1.01)))
    (export / "manifest.json").unlink()
    _seal(export, export.name.partition("-")[0])


@pytest.mark.parametrize("damage", [damage_graph, damage_tokenizer, damage_probe])
def test_a_cache_that_no_longer_holds_is_made_anew(folder: Path, tmp_path: Path, damage, caplog: pytest.LogCaptureFixture) -> None:
    expected = vectors(load(folder, tmp_path, backend="onnx"))
    (export,) = [path for path in (tmp_path / EXPORTS).iterdir() if path.is_dir()]
    damage(export)
    with caplog.at_level(logging.WARNING):
        model = load(folder, tmp_path, backend="onnx")
    np.testing.assert_array_equal(vectors(model), expected)
    assert chosen(model).short_ns > 0, "it was measured anew"
    if damage is damage_probe:
        assert "differs from torch" in caplog.text


def refuse(*args: object, **kwargs: object) -> None:
    raise export_module.ExportError("this family cannot be traced")


def full(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [
        pytest.param("export_model", refuse, "this family cannot be traced", id="a model that does not export"),
        pytest.param("MAX_DIFFERENCE", -1.0, "differs from torch", id="a model that does not match"),
        pytest.param("MAX_EXPORT_BYTES", 1000, "are not exported", id="a model that is too large"),
        pytest.param("export_model", full, "could not be written: No space left on device", id="a full disk"),
    ],
)
def test_what_does_not_run_in_onnx_stays_in_torch_and_says_why(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, value: object, reason: str
) -> None:
    monkeypatch.setattr(build_module, attribute, value)
    model = load(folder, tmp_path)
    assert model.backend.description.backend == "torch"
    (refused,) = of_backend(model, "onnx")
    assert reason in refused.note
    assert (refused.short_ns, refused.chosen) == (0, False)
    with pytest.raises(HubwireError, match=reason) as failed:
        load(folder, tmp_path, backend="onnx")
    assert failed.value.reason is Reason.MODEL_NOT_SUPPORTED
    assert "--backend auto" in failed.value.message
    assert not [path for path in (tmp_path / EXPORTS).iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_written_costs_onnx_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = load(folder, tmp_path / "file")
    assert model.backend.description.backend == "torch"
    (refused,) = of_backend(model, "onnx")
    assert "could not be written" in refused.note


def test_a_lower_precision_that_is_not_equal_enough_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubwire_server.backends.torch.devices.computes_natively", lambda dtype: dtype == "bfloat16")
    monkeypatch.setattr(comparison_module, "MIN_COSINE", 1 - 1e-12)
    model = load(folder, tmp_path, backend="torch")
    assert chosen(model).dtype == "float32"
    (half,) = [candidate for candidate in model.candidates if candidate.dtype == "bfloat16"]
    assert "not equal enough" in half.note
    assert 0.99 < half.cosine < 1 - 1e-9
    assert half.short_ns == 0


def fail(*args: object, **kwargs: object) -> None:
    raise RuntimeError("a shape that nobody tried\nsecond line")


def test_a_candidate_that_fails_on_longer_texts_is_refused_and_torch_serves(folder: Path, tmp_path: Path, monkeypatch) -> None:
    forward = choice_module.OnnxBackend.forward
    monkeypatch.setattr(
        choice_module.OnnxBackend,
        "forward",
        lambda self, batch, rows=None: fail() if max(np.diff(batch.offsets)) > 100 else forward(self, batch, rows),
    )
    model = load(folder, tmp_path)
    assert chosen(model).backend == "torch"
    assert {candidate.note for candidate in of_backend(model, "onnx")} == {"RuntimeError: a shape that nobody tried"}


def test_a_model_that_gives_nan_in_float32_is_left_to_torch(folder: Path, tmp_path: Path, monkeypatch) -> None:
    def nan(*args: object) -> None:
        raise HubwireError(Reason.OUTPUT_NOT_FINITE, "the model gave NaN or infinity")

    monkeypatch.setattr(comparison_module.VectorComparer, "outputs", nan)
    model = load(folder, tmp_path)
    assert chosen(model).backend == "torch"
    assert {candidate.note for candidate in of_backend(model, "onnx")} == {"the model gave NaN or infinity"}


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_float32_must_be_equal_however_it_was_asked_for(folder: Path, tmp_path: Path, monkeypatch, dtype: str) -> None:
    monkeypatch.setattr(comparison_module, "lowest_cosine", lambda expected, vectors: 0.9999)
    model = load(folder, tmp_path, dtype=dtype)
    assert model.backend.description.backend == "torch"
    assert all("not equal enough" in candidate.note for candidate in of_backend(model, "onnx"))


def test_files_that_change_while_a_model_is_loaded_fail_the_load_and_leave_nothing(folder: Path, tmp_path: Path, monkeypatch) -> None:
    fingerprints = iter(["a" * 16, "b" * 16, "b" * 16])
    monkeypatch.setattr("hubwire_server.backends.loading.fingerprint", lambda path, folders: next(fingerprints))
    with pytest.raises(HubwireError, match="changed while it was loaded") as failed:
        load(folder, tmp_path)
    assert failed.value.reason is Reason.MODEL_LOAD_FAILED
    assert not [path for path in (tmp_path / EXPORTS).iterdir() if path.is_dir()]
    assert not (tmp_path / FOLDER).exists() or not any((tmp_path / FOLDER).iterdir())


def test_a_full_disk_is_not_held_against_onnx_for_ever(folder: Path, tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "export_model", full)
        assert chosen(load(folder, tmp_path)).backend == "torch"
    assert all(candidate.short_ns for candidate in of_backend(load(folder, tmp_path), "onnx"))


def test_a_worker_that_ends_while_it_measures_tries_torch_alone_at_last(folder: Path, tmp_path: Path, monkeypatch) -> None:
    class Killed(BaseException):
        """In place of a signal, which nothing can clean up after."""

    def end(*args: object) -> None:
        raise Killed

    monkeypatch.setattr(choice_module.Records, "finish", lambda *args: None)
    with monkeypatch.context() as patch:
        patch.setattr(choice_module, "time_candidates", end)
        for _ in range(choice_module.MAX_UNFINISHED):
            with pytest.raises(Killed):
                load(folder, tmp_path)
        model = load(folder, tmp_path)
    assert (model.backend.description.backend, len(model.candidates)) == ("torch", 1)
    assert "ended 2 times" in chosen(model).note
    monkeypatch.undo()
    assert len(load(folder, tmp_path).candidates) == 1, "the note of the deaths is still there, and this start drops it"
    assert not list((tmp_path / FOLDER).glob("*.measuring"))
    assert {candidate.backend for candidate in load(folder, tmp_path).candidates} == {"torch", "onnx"}


def test_vectors_of_zeros_are_equal() -> None:
    zeros, ones = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    assert comparison_module.lowest_cosine(zeros, zeros) == 1
    assert comparison_module.lowest_cosine(zeros, ones) == 0


def test_int8_is_for_those_who_ask(folder: Path, tmp_path: Path) -> None:
    model = load(folder, tmp_path, dtype="int8")
    assert {(candidate.backend, candidate.dtype) for candidate in model.candidates} == {("onnx", "int8")}
    assert 0.9 < chosen(model).cosine < 1 - 1e-9
    again = load(folder, tmp_path, dtype="int8")
    np.testing.assert_array_equal(vectors(again), vectors(model))
    assert again.candidates == model.candidates


def test_a_half_precision_that_is_asked_for_leaves_nothing_to_choose(folder: Path, tmp_path: Path) -> None:
    model = load(folder, tmp_path, dtype="bfloat16")
    assert (model.backend.description.backend, model.backend.description.dtype, model.candidates) == ("torch", "bfloat16", ())


def test_onnx_without_a_cache_folder_is_refused(folder: Path) -> None:
    with pytest.raises(HubwireError, match="cache folder"):
        load_model(folder, Head.BODY, LoadOptions(backend="onnx"))


@pytest.mark.parametrize(
    ("device", "files", "expected"), [("cpu", True, True), ("cuda:0", False, False), ("mps", False, False), ("auto", False, True)]
)
def test_where_a_model_runs_is_known_without_torch(monkeypatch, tmp_path: Path, device: str, files: bool, expected: bool) -> None:
    monkeypatch.setattr("hubwire_server.backends.loading.ACCELERATORS", (str(tmp_path) if files else str(tmp_path / "none"),))
    assert runs_on_cpu(device) is expected


def test_where_something_looks_like_an_accelerator_torch_decides(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hubwire_server.backends.loading.ACCELERATORS", (str(tmp_path),))
    for found, expected in (("cuda:0", False), ("cpu", True)):
        monkeypatch.setattr("hubwire_server.backends.torch.detect_device", lambda found=found: found)
        assert runs_on_cpu("auto") is expected
