"""A whole embedding model: limits, fingerprint, tokenizer, and the torch-free start."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hubwire_server import _native
from hubwire_server.backends.base import Head, LoadOptions
from hubwire_server.backends.fingerprint import fingerprint
from hubwire_server.backends.loading import DEFAULT_MAX_TOKENS, load_model
from hubwire_server.backends.tokenizer_export import export_tokenizer
from hubwire_server.errors import HubwireError, Reason
from tests.unit.backends.tiny_models import MINILM, make_model, save_folder

OPTIONS = LoadOptions(threads=1)


def test_minilm() -> None:
    model = load_model(MINILM, Head.BODY, OPTIONS)
    assert (model.max_tokens, model.embedding_head.dimensions, model.embedding_head.normalize) == (256, 384, True)
    assert model.fingerprint == fingerprint(MINILM, [MINILM / "1_Pooling"])
    tokenizer = model.tokenizer
    assert tokenizer.special_ids == (0, 100, 101, 102, 103)
    ids = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id)
    assert ids == (0, 100, 101, 102, 103)
    assert (tokenizer.mask_token, tokenizer.padding_side, tokenizer.word_pieces) == ("[MASK]", "right", True)
    assert _native.Tokenizer(model.tokenizer.json).encode(["hello"]).ids.tolist() == [101, 7592, 102]


def test_importing_the_entry_imports_no_torch() -> None:
    code = "import sys, hubwire_server.backends.loading\nprint({'torch', 'transformers', 'safetensors'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("family", "set_by_tokenizer", "expected"),
    [("Bert", None, 160), ("Bert", 40, 40), ("Roberta", None, 158), ("T5", 77, 77), ("T5", None, DEFAULT_MAX_TOKENS)],
    ids=["positions", "the tokenizer", "positions of roberta", "the tokenizer of t5", "nothing"],
)
def test_the_limit_of_a_plain_folder_comes_from(tmp_path: Path, family: str, set_by_tokenizer: int | None, expected: int) -> None:
    path = save_folder(make_model(family), tmp_path)
    settings = json.loads((path / "tokenizer_config.json").read_text())
    settings.pop("model_max_length")
    if set_by_tokenizer is not None:
        settings["model_max_length"] = set_by_tokenizer
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_model(path, Head.BODY, OPTIONS).max_tokens == expected


def test_a_limit_above_what_the_model_reads_is_lowered(tmp_path: Path) -> None:
    path = shutil.copytree(MINILM, tmp_path / "model")
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 9_999}))
    assert load_model(path, Head.BODY, OPTIONS).max_tokens == 512


@pytest.mark.parametrize("place", ["chat_template.jinja", "additional_chat_templates/tool.jinja", "tokenizer_config.json"])
def test_a_plain_model_with_a_chat_template_is_refused_before_it_is_loaded(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("hubwire_server.backends.loading._load", refuse)
    path = save_folder(make_model("Qwen3"), tmp_path)
    file = path / place
    file.parent.mkdir(exist_ok=True)
    settings = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**settings, "chat_template": "{{ messages }}"}))
    with pytest.raises(HubwireError, match="chat template") as caught:
        load_model(path, Head.BODY, OPTIONS)
    assert caught.value.reason is Reason.MODEL_NOT_SUPPORTED


def test_a_fingerprint_is_that_of_the_content_alone(tmp_path: Path) -> None:
    copy = shutil.copytree(MINILM, tmp_path / "another name")
    folders = [copy / "1_Pooling", copy / "2_Normalize"]
    same = fingerprint(MINILM, [MINILM / "1_Pooling"])
    assert len(same) == 16
    assert int(same, 16) >= 0
    (copy / "README.md").write_text("other words")
    (copy / "pytorch_model.bin").write_bytes(b"a pickled copy of the same weights")
    (copy / "onnx").mkdir()
    (copy / "onnx" / "model.onnx").write_bytes(b"an export of the same weights")
    assert fingerprint(copy, folders) == same


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "vocab.txt", "1_Pooling/config.json", "modules.json"]
)
def test_a_fingerprint_moves_with_every_file_that_counts(tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(MINILM, tmp_path / "model")
    with (copy / name).open("ab") as stream:
        stream.write(b" ")
    assert fingerprint(copy, [copy / "1_Pooling"]) != fingerprint(MINILM, [MINILM / "1_Pooling"])


def test_lower_case_is_put_into_the_tokenizer_once(tmp_path: Path) -> None:
    exported = export_tokenizer(MINILM, lowercase=True)
    normalizers = json.loads(exported.json)["normalizer"]["normalizers"]
    assert [step["type"] for step in normalizers] == ["Lowercase", "BertNormalizer"]
    path = shutil.copytree(MINILM, tmp_path / "model")
    (path / "tokenizer.json").write_text(exported.json)
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    again = json.loads(export_tokenizer(path, lowercase=True).json)["normalizer"]["normalizers"]
    assert [step["type"] for step in again] == ["Lowercase", "BertNormalizer"]


def test_a_tokenizer_without_a_json_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    with pytest.raises(HubwireError, match="ByT5Tokenizer runs in Python alone") as caught:
        export_tokenizer(tmp_path)
    assert caught.value.reason is Reason.MODEL_NOT_SUPPORTED


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    make_model("Bert").save_pretrained(tmp_path)
    with pytest.raises(HubwireError, match="has no tokenizer") as caught:
        load_model(tmp_path, Head.BODY, OPTIONS)
    assert caught.value.reason is Reason.MODEL_NOT_SUPPORTED


def test_a_tokenizer_with_code_of_its_own_is_not_allowed(tmp_path: Path) -> None:
    path = save_folder(make_model("Bert"), tmp_path)
    (path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}))
    (path / "own.py").write_text("raise SystemExit")
    (path / "config.json").write_text(json.dumps({**json.loads((path / "config.json").read_text()), "model_type": "own"}))
    with pytest.raises(HubwireError, match="--allow-remote-code") as caught:
        export_tokenizer(path)
    assert caught.value.reason is Reason.MODEL_NOT_ALLOWED


def test_a_broken_tokenizer_is_a_failed_load(tmp_path: Path) -> None:
    path = save_folder(make_model("Bert"), tmp_path)
    (path / "tokenizer.json").write_text("{")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(HubwireError, match="cannot load the tokenizer") as caught:
        load_model(path, Head.BODY, OPTIONS)
    assert caught.value.reason is Reason.MODEL_LOAD_FAILED
    assert str(tmp_path) not in caught.value.message
