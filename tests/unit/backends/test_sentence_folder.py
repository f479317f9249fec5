"""Reading folders in the conventions of sentence-transformers, old and new, and refusing by name what is not understood."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hubwire_server.backends.sentence_folder import ModuleRef, read_sentence_folder
from hubwire_server.errors import HubwireError, Reason
from tests.unit.backends.tiny_models import MINILM

OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
}


def write(path: Path, files: dict[str, Any], modules: list[tuple[str, str]] | None = None) -> Path:
    """Writes a folder with Transformer and Pooling, and what else is given."""
    entries = [(NEW["Transformer"], ""), (NEW["Pooling"], "1_Pooling")] if modules is None else modules
    listed = [{"idx": index, "name": str(index), "path": place, "type": kind} for index, (kind, place) in enumerate(entries)]
    for name, content in {
        "modules.json": listed,
        "1_Pooling/config.json": {"embedding_dimension": 8, "pooling_mode": "mean"},
        **files,
    }.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_minilm_as_it_is_published() -> None:
    folder = read_sentence_folder(MINILM)
    assert (folder.pooling, folder.include_prompt, folder.max_seq_length, folder.lowercase) == (("mean",), True, 256, False)
    assert folder.modules == (ModuleRef("Normalize", MINILM / "2_Normalize"),)
    assert (folder.prompts, folder.default_prompt_name, folder.truncate_dim, folder.is_plain) == ({}, "", None, False)


def test_reading_a_folder_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom hubwire_server.backends.sentence_folder import read_sentence_folder\n"
        f"read_sentence_folder(Path({str(MINILM)!r}))\nprint({{'torch', 'transformers', 'numpy'}} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("config", "modes", "include_prompt"),
    [
        ({"pooling_mode": "cls", "embedding_dimension": 8}, ("cls",), True),
        ({"pooling_mode": ["mean", "max"], "include_prompt": False}, ("mean", "max"), False),
        ({"pooling_mode": ["lasttoken"]}, ("lasttoken",), True),
        ({"word_embedding_dimension": 8, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, ("mean",), True),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, ("cls", "max", "mean"), True),
        (
            {"pooling_mode_weightedmean_tokens": True, "pooling_mode_mean_sqrt_len_tokens": True},
            ("mean_sqrt_len_tokens", "weightedmean"),
            True,
        ),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, ("lasttoken",), True),
        ({"pooling_mode_mean_tokens": False}, ("mean",), True),
        ({"pooling_mode": "max", "pooling_mode_mean_tokens": True}, ("max",), True),
    ],
    ids=[
        "one mode",
        "several modes",
        "a list of one",
        "an old key",
        "old keys concatenate in their own order",
        "the newer of the old keys",
        "the last token",
        "no mode means the mean",
        "a new key wins over old ones",
    ],
)
def test_pooling_is_read(tmp_path: Path, config: dict[str, Any], modes: tuple[str, ...], include_prompt: bool) -> None:
    folder = read_sentence_folder(write(tmp_path, {"1_Pooling/config.json": config}))
    assert (folder.pooling, folder.include_prompt) == (modes, include_prompt)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_the_transformer_is_configured_under_any_of_its_old_names(tmp_path: Path, name: str) -> None:
    folder = read_sentence_folder(write(tmp_path, {f"sentence_{name}_config.json": {"max_seq_length": 99, "do_lower_case": True}}))
    assert (folder.max_seq_length, folder.lowercase) == (99, True)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"max_seq_length": None}, None),
        ({"max_seq_length": 128, "tokenizer_args": {"model_max_length": 64}}, 64),
        ({"processor_kwargs": {"model_max_length": 64}, "processing_kwargs": {"text": {"max_length": 32}}}, 32),
        ({"max_seq_length": 128, "processing_kwargs": {"common": {"max_length": 16}}}, 16),
        ({"processing_kwargs": {"text": {"max_length": 32}, "common": {"max_length": 16}}}, 16),
    ],
)
def test_the_longest_text_is_read_in_the_order_of_sentence_transformers(
    tmp_path: Path, config: dict[str, Any], expected: int | None
) -> None:
    assert read_sentence_folder(write(tmp_path, {"sentence_bert_config.json": config})).max_seq_length == expected


def test_modules_prompts_and_a_transformer_in_its_own_folder(tmp_path: Path) -> None:
    modules = [(OLD + name, place) for name, place in [("Transformer", "0_Transformer"), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")]]
    modules += [(OLD + "Dropout", "3_Dropout"), ("sentence_transformers.base.modules.normalize.Normalize", "4_Normalize")]
    settings = {"prompts": {"query": "query: ", "document": None}, "default_prompt_name": "query", "truncate_dim": 4}
    files = {"config_sentence_transformers.json": settings, "0_Transformer/sentence_bert_config.json": {"max_seq_length": 5}}
    folder = read_sentence_folder(write(tmp_path, files, modules))
    assert folder.transformer_path == tmp_path / "0_Transformer"
    assert folder.modules == (ModuleRef("Dense", tmp_path / "2_Dense"), ModuleRef("Normalize", tmp_path / "4_Normalize"))
    assert (folder.prompts, folder.default_prompt_name) == ({"query": "query: ", "document": ""}, "query")
    assert (folder.max_seq_length, folder.truncate_dim) == (5, 4)


@pytest.mark.parametrize("name", ["query", "document"])
def test_a_built_in_prompt_may_be_the_default_and_is_empty(tmp_path: Path, name: str) -> None:
    folder = read_sentence_folder(write(tmp_path, {"config_sentence_transformers.json": {"default_prompt_name": name}}))
    assert (folder.prompts, folder.default_prompt_name) == ({}, "")


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"architectures": ["BertModel"]}, "mean"),
        ({}, "mean"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "lasttoken"),
        ({"architectures": ["Qwen3ForCausalLM"], "is_causal": False}, "mean"),
    ],
)
def test_a_folder_without_modules_is_plain(tmp_path: Path, config: dict[str, Any], pooling: str) -> None:
    # sentence-transformers reads its own files only beside a modules.json.
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 9}))
    folder = read_sentence_folder(tmp_path)
    assert (folder.pooling, folder.is_plain, folder.max_seq_length, folder.modules) == ((pooling,), True, None, ())


T, P = (NEW["Transformer"], ""), (NEW["Pooling"], "1_Pooling")


@pytest.mark.parametrize(
    ("files", "modules", "reason", "says"),
    [
        ({}, [("custom_st.Transformer", ""), P], Reason.MODEL_NOT_SUPPORTED, r"custom_st\.Transformer is not part"),
        ({}, [(OLD + "StaticEmbedding", "")], Reason.MODEL_NOT_SUPPORTED, "it lists StaticEmbedding"),
        ({}, [T, (OLD + "WordWeights", "1"), P], Reason.MODEL_NOT_SUPPORTED, "it lists Transformer, WordWeights, Pooling"),
        ({}, [T], Reason.MODEL_NOT_SUPPORTED, "it lists Transformer"),
        ({}, [], Reason.MODEL_NOT_SUPPORTED, "it lists nothing"),
        ({}, [T, (NEW["Pooling"], "../other")], Reason.MODEL_LOAD_FAILED, "points out of the model folder"),
        ({}, [T, (NEW["Pooling"], "/etc")], Reason.MODEL_LOAD_FAILED, "points out of the model folder"),
        ({"modules.json": "{"}, None, Reason.MODEL_LOAD_FAILED, r"modules\.json cannot be read"),
        ({"modules.json": {}}, None, Reason.MODEL_LOAD_FAILED, "is not a JSON array"),
        ({"modules.json": [{"type": 3}]}, None, Reason.MODEL_LOAD_FAILED, "without type and path"),
        ({"1_Pooling/config.json": {"pooling_mode": "median"}}, None, Reason.MODEL_NOT_SUPPORTED, "pools by median"),
        ({"1_Pooling/config.json": {"pooling_mode": []}}, None, Reason.MODEL_NOT_SUPPORTED, "pools by nothing"),
        ({"config_sentence_transformers.json": {"model_type": "SparseEncoder"}}, None, Reason.MODEL_NOT_SUPPORTED, "is a SparseEncoder"),
        ({"config_sentence_transformers.json": {"default_prompt_name": "q"}}, None, Reason.MODEL_NOT_SUPPORTED, "default prompt 'q'"),
        ({"sentence_bert_config.json": {"max_seq_len": 9}}, None, Reason.MODEL_NOT_SUPPORTED, "not understood: max_seq_len"),
        ({"sentence_bert_config.json": {"tokenizer_name_or_path": "a/b"}}, None, Reason.MODEL_NOT_SUPPORTED, ": tokenizer_name_or_path"),
        ({"sentence_bert_config.json": {"query_length": 32}}, None, Reason.MODEL_NOT_SUPPORTED, ": query_length"),
        (
            {"sentence_bert_config.json": {"processing_kwargs": {"text": {"truncation": False}}}},
            None,
            Reason.MODEL_NOT_SUPPORTED,
            "truncation False",
        ),
        ({"config_sentence_transformers.json": {"truncate_dim": 0}}, None, Reason.MODEL_LOAD_FAILED, "truncate_dim is 0"),
        ({"sentence_bert_config.json": {"max_seq_length": "9"}}, None, Reason.MODEL_LOAD_FAILED, "max_seq_length is '9'"),
        ({"sentence_bert_config.json": {"transformer_task": "fill-mask"}}, None, Reason.MODEL_NOT_SUPPORTED, "fill-mask"),
        ({"sentence_bert_config.json": {"module_output_name": "sentence_embedding"}}, None, Reason.MODEL_NOT_SUPPORTED, "token embeddings"),
        ({"sentence_bert_config.json": {"modality_config": {"message": {}}}}, None, Reason.MODEL_NOT_SUPPORTED, "chat template"),
        (
            {"sentence_bert_config.json": {"modality_config": {"text": {"method": "get_text_features", "method_output_name": None}}}},
            None,
            Reason.MODEL_NOT_SUPPORTED,
            "last hidden state",
        ),
        ({"sentence_bert_config.json": {"config_args": {"num_hidden_layers": 2}}}, None, Reason.MODEL_NOT_SUPPORTED, "num_hidden_layers"),
        (
            {"sentence_bert_config.json": {"processing_kwargs": {"text": {"add_special_tokens": False}}}},
            None,
            Reason.MODEL_NOT_SUPPORTED,
            "add_special_tokens",
        ),
    ],
)
def test_what_is_not_understood_is_refused(
    tmp_path: Path, files: dict[str, Any], modules: list[tuple[str, str]] | None, reason: Reason, says: str
) -> None:
    with pytest.raises(HubwireError, match=says) as caught:
        read_sentence_folder(write(tmp_path, files, modules))
    assert caught.value.reason is reason
    assert str(tmp_path) not in caught.value.message


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HubwireError, match="gone is not a folder"):
        read_sentence_folder(tmp_path / "gone")
