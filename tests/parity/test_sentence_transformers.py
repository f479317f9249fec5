"""Every vector equals that of sentence-transformers, whatever a folder puts around the transformer."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from hubwire_server import _native
from hubwire_server.backends.base import Head, LoadOptions, RaggedBatch
from hubwire_server.backends.loading import LoadedModel, load_model
from tests.parity.compare import Vectors, assert_equal, cosines
from tests.parity.texts import make_texts
from tests.unit.backends.tiny_models import MINILM, make_model, save_folder


@pytest.fixture(scope="module")
def minilm() -> LoadedModel:
    return load_model(MINILM, Head.BODY, LoadOptions(threads=2))


def embed(model: LoadedModel, texts: list[str], *, prompt: str = "", mode: str | None = None, batch_size: int = 0) -> Vectors:
    """Our vectors of texts, tokenized, run, pooled and scaled as worker and front do it; batches of random sizes where batch_size is 0."""
    tokenizer = _native.Tokenizer(model.tokenizer.json)
    skip_tokens = 0
    if prompt and not model.embedding_head.include_prompt:
        ids = tokenizer.encode([prompt], max_tokens=model.max_tokens).ids
        skip_tokens = len(ids) - int(ids[-1] in model.tokenizer.special_ids)
    sizes = random.Random(7)
    parts, start = [], 0
    while start < len(texts):
        some = texts[start : start + (batch_size or sizes.randint(1, 40))]
        batch = tokenizer.encode([prompt + text for text in some], max_tokens=model.max_tokens)
        hidden, dtype = model.backend.forward(RaggedBatch(batch.ids, batch.type_ids, batch.offsets))
        skip = np.full(len(some), skip_tokens, np.int64) if skip_tokens else None
        parts.append(model.embedding_head.pool(hidden, dtype, batch.offsets, mode=mode, skip=skip))
        start += len(some)
    vectors = np.concatenate(parts)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) if model.embedding_head.normalize else vectors


def test_500_texts_in_batches_and_alone(minilm: LoadedModel, theirs: Callable[..., Any]) -> None:
    reference = theirs(MINILM)
    texts = make_texts(500)
    assert minilm.backend.description.packed, minilm.backend.description.packed_note
    assert minilm.max_tokens == reference.max_seq_length == 256
    counts = _native.Tokenizer(minilm.tokenizer.json).encode(texts).token_counts
    assert (counts.min() <= 5, counts.max() > 256, np.median(counts) > 15) == (True, True, True)
    expected = reference.encode(texts, batch_size=32)
    assert_equal(embed(minilm, texts), expected)
    assert_equal(embed(minilm, texts, batch_size=1), expected)


def reference_pool(tokens: Vectors, mode: str) -> Any:
    """Pooling in float64, from the definitions in sentence_transformer/modules/pooling.py."""
    values = tokens.astype(np.float64)
    weights = np.arange(1, len(values) + 1)[:, None]
    return {
        "cls": lambda: values[0],
        "lasttoken": lambda: values[-1],
        "max": lambda: values.max(axis=0),
        "mean": lambda: values.mean(axis=0),
        "mean_sqrt_len_tokens": lambda: values.sum(axis=0) / np.sqrt(len(values)),
        "weightedmean": lambda: (values * weights).sum(axis=0) / weights.sum(),
    }[mode]()


def test_every_pooling_against_float64(minilm: LoadedModel, theirs: Callable[..., Any]) -> None:
    texts = make_texts(25, seed=5)
    tokens = [value.numpy() for value in theirs(MINILM).encode(texts, output_value="token_embeddings")]
    for mode in ("cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean"):
        expected = np.stack([reference_pool(value, mode) for value in tokens])
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        assert_equal(embed(minilm, texts, mode=mode), expected)


def build(st: ModuleType, path: Path, modules: list[Any], **kwargs: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        st.SentenceTransformer(modules=modules, device="cpu", **kwargs).save(str(path), create_model_card=False)
    return path


def transformer(st: ModuleType, path: Path) -> Any:
    return st.sentence_transformer.modules.Transformer(str(path), max_seq_length=120)


def check(theirs: Callable[..., Any], path: Path, **encode: Any) -> LoadedModel:
    """Compares 24 texts, and returns our model."""
    model = load_model(path, Head.BODY, LoadOptions(threads=2))
    reference = theirs(path)
    assert model.max_tokens == reference.max_seq_length
    assert model.embedding_head.prompts == {
        name: text for name, text in reference.prompts.items() if text or name in model.embedding_head.prompts
    }
    assert model.embedding_head.dimensions == (reference.truncate_dim or reference.get_embedding_dimension())
    texts = make_texts(24, seed=9)
    prompt = encode.get("prompt", model.embedding_head.prompts.get(encode.get("prompt_name", model.embedding_head.default_prompt_name), ""))
    assert_equal(embed(model, texts, prompt=prompt), reference.encode(texts, **encode))
    return model


def test_dense_layer_norm_and_normalize_after_two_poolings(st: ModuleType, theirs: Callable[..., Any], tmp_path: Path) -> None:
    modules = st.sentence_transformer.modules
    torch.manual_seed(3)
    tiny = save_folder(make_model("Bert"), tmp_path / "tiny")
    path = build(
        st,
        tmp_path / "model",
        [
            transformer(st, tiny),
            modules.Pooling(32, ("mean", "max")),
            modules.Dense(64, 48, activation_function=torch.nn.Tanh()),
            modules.Dropout(0.5),
            modules.Normalize(),
            modules.Dense(48, 48, bias=False, activation_function=torch.nn.GELU(), use_residual=True),
            modules.LayerNorm(48),
            modules.Dense(48, 20, activation_function=torch.nn.Identity(), use_residual=True),
            modules.Normalize(),
        ],
    )
    head = check(theirs, path).embedding_head
    assert (head.pooling, head.normalize, head.dimensions, head.pooling_fixed, len(head.modules)) == (("mean", "max"), True, 20, True, 5)


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"])
def test_prompts_that_take_no_part_in_pooling(st: ModuleType, theirs: Callable[..., Any], tmp_path: Path, mode: str) -> None:
    tiny = save_folder(make_model("Bert"), tmp_path / "tiny")
    pooling = st.sentence_transformer.modules.Pooling(32, mode, include_prompt=False)
    prompts = {"query": "Represent this query: ", "bare": "", "marked": "question [SEP]"}
    path = build(st, tmp_path / "model", [transformer(st, tiny), pooling], prompts=prompts, default_prompt_name="query")
    model = check(theirs, path)
    assert (model.embedding_head.include_prompt, model.embedding_head.default_prompt_name, model.embedding_head.normalize) == (
        False,
        "query",
        False,
    )
    reference, texts = theirs(path), make_texts(10, seed=2)
    for name in ("bare", "marked"):
        assert_equal(embed(model, texts, prompt=prompts[name]), reference.encode(texts, prompt_name=name))


def test_lower_case_that_the_folder_asks_for(theirs: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(MINILM, path)
    # A cased tokenizer, so that only the folder's own setting puts texts into lower case.
    settings = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**settings, "do_lower_case": False, "strip_accents": False}))
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["normalizer"] |= {"lowercase": False, "strip_accents": False}
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, "do_lower_case": True}))
    lowered = check(theirs, path)
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, "do_lower_case": False}))
    cased = check(theirs, path)
    assert (lowered.embedding_head.lowercase, cased.embedding_head.lowercase) == (True, False)
    texts = ["The Quick BROWN Fox ÉCLAIR"]
    assert cosines(embed(lowered, texts), embed(cased, texts))[0] < 0.99


def test_a_transformer_in_a_folder_of_its_own(theirs: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copytree(MINILM, tmp_path / "model")
    path = tmp_path / "model"
    inner = path / "0_Transformer"
    inner.mkdir()
    for file in [file for file in path.iterdir() if file.is_file() and file.name != "modules.json"]:
        file.rename(inner / file.name)
    (inner / "sentence_bert_config.json").rename(inner / "sentence_roberta_config.json")
    modules = json.loads((path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (path / "modules.json").write_text(json.dumps(modules))
    assert check(theirs, path).max_tokens == 256


@pytest.mark.parametrize("processing", [{"common": {"max_length": 9}}, {"text": {"max_length": 20}, "common": {"max_length": 9}}])
def test_a_limit_that_is_set_for_the_call_of_the_tokenizer(theirs: Callable[..., Any], tmp_path: Path, processing: dict[str, Any]) -> None:
    path = shutil.copytree(MINILM, tmp_path / "model")
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, "processing_kwargs": processing}))
    model = load_model(path, Head.BODY, LoadOptions(threads=2))
    assert model.max_tokens == 9
    texts = make_texts(24, seed=9)
    assert_equal(embed(model, texts), theirs(path).encode(texts))


def test_a_built_in_prompt_that_is_the_default(theirs: Callable[..., Any], tmp_path: Path) -> None:
    path = shutil.copytree(MINILM, tmp_path / "model")
    (path / "config_sentence_transformers.json").write_text(json.dumps({"default_prompt_name": "query"}))
    check(theirs, path)


@pytest.mark.parametrize("family", ["Bert", "Roberta", "MPNet", "DebertaV2", "T5", "Qwen3"])
def test_a_plain_folder_is_pooled_by_the_mean(theirs: Callable[..., Any], tmp_path: Path, family: str) -> None:
    model = load_and_compare_plain(theirs, save_folder(make_model(family), tmp_path))
    assert model.embedding_head.pooling == ("mean",)


def test_a_plain_causal_folder_is_pooled_by_the_last_token(theirs: Callable[..., Any], tmp_path: Path) -> None:
    model = load_and_compare_plain(theirs, save_folder(make_model("Qwen3", "ForCausalLM"), tmp_path))
    assert model.embedding_head.pooling == ("lasttoken",)


def load_and_compare_plain(theirs: Callable[..., Any], path: Path) -> LoadedModel:
    """As check, for folders whose limit sentence-transformers sets above what RoBERTa's positions reach; texts stay below it."""
    model = load_model(path, Head.BODY, LoadOptions(threads=2))
    reference = theirs(path)
    assert model.max_tokens in (reference.max_seq_length, model.backend.description.max_tokens)
    tokenizer = _native.Tokenizer(model.tokenizer.json)
    texts = [text for text in make_texts(30, seed=4) if tokenizer.encode([text]).token_counts[0] <= 100]
    assert_equal(embed(model, texts), reference.encode(texts))
    return model


def test_truncate_dim_cuts_after_normalize(st: ModuleType, theirs: Callable[..., Any], tmp_path: Path) -> None:
    modules = st.sentence_transformer.modules
    tiny = save_folder(make_model("Bert"), tmp_path / "tiny")
    path = build(st, tmp_path / "model", [transformer(st, tiny), modules.Pooling(32), modules.Normalize()], truncate_dim=12)
    head = check(theirs, path).embedding_head
    assert (head.dimensions, head.normalize) == (12, False)


def test_pickled_weights_of_transformer_and_dense_are_read_where_allowed(
    st: ModuleType, theirs: Callable[..., Any], tmp_path: Path
) -> None:
    tiny = tmp_path / "tiny"
    body = make_model("Bert")
    save_folder(body, tiny)
    modules = st.sentence_transformer.modules
    path = build(st, tmp_path / "model", [transformer(st, tiny), modules.Pooling(32), modules.Dense(32, 8)])
    expected = theirs(path).encode(texts := make_texts(10, seed=3))
    (path / "model.safetensors").unlink()
    torch.save(body.state_dict(), path / "pytorch_model.bin")
    dense = path / "2_Dense"
    torch.save(theirs_dense_state(dense), dense / "pytorch_model.bin")
    (dense / "model.safetensors").unlink()
    assert_equal(embed(load_model(path, Head.BODY, LoadOptions(threads=1, allow_pickle=True)), texts), expected)


def theirs_dense_state(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return state
