"""What a checkpoint with a task head says of itself, and which checkpoints are refused: never a head of random numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hubwire_server.backends.base import Head, LoadOptions
from hubwire_server.backends.head_folder import read_head_folder
from hubwire_server.backends.loading import load_model
from hubwire_server.errors import HubwireError, Reason
from tests.unit.backends.tiny_models import make_model, save_folder

OPTIONS = LoadOptions(threads=1)


def folder(path: Path, **config: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    return path


def edit_config(path: Path, **changes: Any) -> None:
    config = {**json.loads((path / "config.json").read_text()), **changes}
    (path / "config.json").write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


@pytest.mark.parametrize(
    ("architectures", "head"),
    [
        (["BertForSequenceClassification"], Head.SEQUENCE_CLASSIFICATION),
        (["BertForTokenClassification"], Head.TOKEN_CLASSIFICATION),
        (["XLNetForQuestionAnsweringSimple"], Head.QUESTION_ANSWERING),
        (["BertForPreTraining"], Head.MASKED_LM),
        (["FlaubertWithLMHeadModel"], Head.MASKED_LM),
        (["BartForConditionalGeneration"], Head.MASKED_LM),
        (["BertModel", "BertForMaskedLM"], Head.MASKED_LM),
        ([], Head.SEQUENCE_CLASSIFICATION),
    ],
    ids=str,
)
def test_a_class_with_the_head_is_taken(architectures: list[str], head: Head, tmp_path: Path) -> None:
    assert read_head_folder(folder(tmp_path, architectures=architectures), head).path == tmp_path


@pytest.mark.parametrize(
    ("architecture", "head", "says"),
    [
        ("BertModel", Head.SEQUENCE_CLASSIFICATION, "no head for sequence_classification: bert ForSequenceClassification is needed"),
        ("BertForTokenClassification", Head.SEQUENCE_CLASSIFICATION, "it is of BertForTokenClassification"),
        ("BertForSequenceClassification", Head.TOKEN_CLASSIFICATION, "it is of BertForSequenceClassification"),
        ("BertForMultipleChoice", Head.QUESTION_ANSWERING, "it is of BertForMultipleChoice"),
        ("GPT2LMHeadModel", Head.MASKED_LM, "it is of GPT2LMHeadModel"),
        ("XLNetForQuestionAnswering", Head.QUESTION_ANSWERING, "XLNetForQuestionAnswering searches for answers with beams"),
    ],
)
def test_another_class_is_refused_by_its_name(architecture: str, head: Head, says: str, tmp_path: Path) -> None:
    with pytest.raises(HubwireError, match=says) as caught:
        read_head_folder(folder(tmp_path, architectures=[architecture]), head)
    assert caught.value.reason is Reason.MODEL_NOT_SUPPORTED


@pytest.mark.parametrize(
    ("family", "saved", "wanted", "missing"),
    [
        ("Bert", "Model", Head.SEQUENCE_CLASSIFICATION, "classifier"),
        ("Bert", "Model", Head.MASKED_LM, r"cls\.predictions"),
        ("Roberta", "ForMaskedLM", Head.TOKEN_CLASSIFICATION, "classifier"),
        ("DistilBert", "ForMaskedLM", Head.QUESTION_ANSWERING, "qa_outputs"),
    ],
)
def test_a_checkpoint_that_hides_its_class_is_refused_for_the_weights_that_it_lacks(
    family: str, saved: str, wanted: Head, missing: str, tmp_path: Path
) -> None:
    path = save_folder(make_model(family, saved), tmp_path)
    edit_config(path, architectures=None)
    with pytest.raises(HubwireError, match=rf"lacks weights of the model: .*{missing}.*{wanted} needs those of {family}For") as caught:
        load_model(path, wanted, OPTIONS)
    assert caught.value.reason is Reason.MODEL_NOT_SUPPORTED


def test_a_classifier_of_texts_may_not_lack_its_pooler(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = save_folder(make_model("Bert", "ForSequenceClassification"), tmp_path)
    state = {name: tensor for name, tensor in load_file(path / "model.safetensors").items() if "pooler" not in name}
    save_file(state, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(HubwireError, match=r"lacks weights of the model: bert\.pooler\.dense\.bias"):
        load_model(path, Head.SEQUENCE_CLASSIFICATION, OPTIONS)


def test_a_family_without_such_a_head_is_refused(tmp_path: Path) -> None:
    path = save_folder(make_model("T5"), tmp_path)
    edit_config(path, architectures=None)
    with pytest.raises(HubwireError, match="has no class of 't5' for masked_lm") as caught:
        load_model(path, Head.MASKED_LM, OPTIONS)
    assert caught.value.reason is Reason.MODEL_NOT_SUPPORTED


def test_the_base_of_a_checkpoint_with_a_head_serves_embedding(tmp_path: Path) -> None:
    path = save_folder(make_model("Bert", "ForMaskedLM"), tmp_path)
    model = load_model(path, Head.BODY, OPTIONS)
    assert (model.backend.description.architecture, model.backend.description.row_size, model.labels) == ("BertModel", 32, ())
    assert model.embedding_head is not None


def test_labels_and_the_type_of_the_problem_come_from_the_configuration(tmp_path: Path) -> None:
    names = {0: "sad", 1: "glad", 2: "mad"}
    path = save_folder(make_model("Bert", "ForSequenceClassification", id2label=names, label2id={}), tmp_path)
    edit_config(path, problem_type="multi_label_classification")
    model = load_model(path, Head.SEQUENCE_CLASSIFICATION, OPTIONS)
    assert (model.labels, model.problem_type) == (("sad", "glad", "mad"), "multi_label_classification")
    assert (model.embedding_head, model.max_tokens) == (None, 160)
    edit_config(path, id2label={"1": "glad"}, num_labels=3, problem_type=None)
    again = read_head_folder(path, Head.SEQUENCE_CLASSIFICATION)
    assert (again.labels(3), again.problem_type) == (("LABEL_0", "glad", "LABEL_2"), "")
    edit_config(path, id2label={"one": "glad"})
    with pytest.raises(HubwireError, match="id2label"):
        read_head_folder(path, Head.SEQUENCE_CLASSIFICATION)


def test_the_folder_of_a_sparse_encoder_sets_its_longest_text(tmp_path: Path) -> None:
    path = save_folder(make_model("Bert", "ForMaskedLM"), tmp_path)
    (path / "modules.json").write_text("[]")
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 99, "do_lower_case": True}))
    assert load_model(path, Head.MASKED_LM, OPTIONS).max_tokens == 99


def test_a_head_stays_in_float32_unless_less_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubwire_server.backends.torch.devices.computes_natively", lambda dtype: True)
    path = save_folder(make_model("Bert", "ForSequenceClassification"), tmp_path / "model")
    model = load_model(path, Head.SEQUENCE_CLASSIFICATION, LoadOptions(threads=1, cache_dir=tmp_path / "cache"))
    assert {candidate.dtype for candidate in model.candidates} == {"float32"}
    assert all(candidate.cosine > 1 - 1e-9 for candidate in model.candidates)
    asked = load_model(path, Head.SEQUENCE_CLASSIFICATION, LoadOptions(threads=1, dtype="int8", cache_dir=tmp_path / "cache"))
    assert (asked.backend.description.dtype, asked.backend.description.head) == ("int8", Head.SEQUENCE_CLASSIFICATION)


def test_each_head_of_a_checkpoint_has_an_export_and_a_record_of_its_own(tmp_path: Path) -> None:
    path = save_folder(make_model("Bert", "ForMaskedLM"), tmp_path / "model")
    options = LoadOptions(threads=1, backend="onnx", cache_dir=tmp_path / "cache")
    for _ in range(2):
        for head, size in ((Head.BODY, 32), (Head.MASKED_LM, 30_522)):
            description = load_model(path, head, options).backend.description
            assert (description.head, description.row_size) == (head, size)
    assert len([each for each in (tmp_path / "cache" / "exports").iterdir() if each.is_dir()]) == 2
    assert len(list((tmp_path / "cache" / "choices").iterdir())) == 2


@pytest.mark.parametrize(
    ("kind", "pooling", "text"),
    [
        ("SpladePooling", {"pooling_strategy": "sum"}, "pooling_strategy 'sum'"),
        ("SpladePooling", {"activation_function": "log1p_relu"}, "activation_function 'log1p_relu'"),
        ("SparseAutoEncoder", {}, "SparseAutoEncoder"),
    ],
)
def test_a_sparse_encoder_that_pools_in_another_way_is_refused(tmp_path, kind, pooling, text):
    path = folder(tmp_path / "model", architectures=["BertForMaskedLM"])
    modules = [{"type": "sentence_transformers.MLMTransformer", "path": ""}, {"type": f"sentence_transformers.{kind}", "path": "1_Pooling"}]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling/config.json").write_text(json.dumps(pooling))
    with pytest.raises(HubwireError, match=text) as caught:
        read_head_folder(path, Head.MASKED_LM)
    assert caught.value.reason is Reason.MODEL_NOT_SUPPORTED


def test_a_splade_encoder_is_read(tmp_path):
    path = folder(tmp_path / "model", architectures=["BertForMaskedLM"])
    modules = [{"type": "a.MLMTransformer", "path": ""}, {"type": "a.SpladePooling", "path": "1_SpladePooling"}]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_SpladePooling").mkdir()
    (path / "1_SpladePooling/config.json").write_text(json.dumps({"pooling_strategy": "max", "activation_function": "relu"}))
    assert read_head_folder(path, Head.MASKED_LM).path == path
