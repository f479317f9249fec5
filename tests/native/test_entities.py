"""Entities against the token-classification pipeline of transformers."""

from __future__ import annotations

import warnings
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hubwire_server import _native
from hubwire_server._native import Entities

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # What its import warns of is not ours.
    from transformers import TokenClassificationPipeline

LABELS = ["O", "B-PER", "I-PER", "PER", "B-LOC", "I-LOC", "S-LOC"]
STRATEGIES = ["none", "simple", "first", "average", "max"]


def tag(label: str) -> str:
    """The tag of a label, as `get_tag` has it."""
    return label[2:] if label.startswith(("B-", "I-")) else label


NAMES = list(dict.fromkeys(tag(label) for label in LABELS))
TAGS = np.array([NAMES.index(tag(label)) for label in LABELS], np.int32)
BEGINS = np.array([label.startswith("B-") for label in LABELS])


class Pipeline(TokenClassificationPipeline):  # type: ignore[misc] # transformers has no types
    """The pipeline's own methods, without a model."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(LABELS))))
        self.tokenizer = SimpleNamespace(convert_tokens_to_string=" ".join)


def reference(
    scores: NDArray[np.float32], offsets: NDArray[np.int64], kept: NDArray[np.bool_], is_subword: NDArray[np.bool_], strategy: str
) -> list[tuple[int, int, int, str, float]]:
    """The row, the first and the last token, the name and the score of each entity, as the pipeline finds them."""
    pipeline, found = Pipeline(), []
    for row, (start, stop) in enumerate(pairwise(offsets)):
        tokens = [
            {"word": "w", "scores": scores[i], "start": i, "end": i, "index": i, "is_subword": bool(is_subword[i])}
            for i in range(start, stop)
            if kept[i]
        ]
        for entity in pipeline.aggregate(tokens, strategy):
            name = entity["entity"] if strategy == "none" else entity["entity_group"]
            found.append((row, entity["start"], entity["end"], name, float(entity["score"])))
    return found


def listed(entities: Entities, strategy: str) -> list[tuple[int, int, int, str, float]]:
    """The same of what the core found."""
    arrays = (entities.rows, entities.first, entities.last, entities.labels, entities.scores)
    rows = zip(*(array.tolist() for array in arrays), strict=True)
    return [
        (row, first, last, LABELS[label] if strategy == "none" else LABELS[label].split("-", 1)[-1], score)
        for row, first, last, label, score in rows
    ]


def batch(seed: int, lengths: list[int], coarse: bool) -> tuple[Any, ...]:
    """Tokens with labels in runs, so that entities are long enough to have means of many scores."""
    random = np.random.default_rng(seed)
    total = sum(lengths)
    offsets = np.concatenate(([0], np.cumsum(np.array(lengths, np.int64)))).astype(np.int64)
    logits = random.standard_normal((total, len(LABELS))).astype(np.float32)
    likely = np.repeat(random.integers(0, len(LABELS), total + 1), random.integers(1, 40, total + 1))[:total]
    logits[np.arange(total), likely] += np.float32(random.choice([0.0, 2.0, 6.0]))
    if coarse:
        logits = np.round(logits)
    scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores = scores / scores.sum(axis=-1, keepdims=True)
    return scores, offsets, random.random(total) < 0.9, random.random(total) < 0.4


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 400), max_size=4), st.booleans())
def test_entities_are_those_of_the_pipeline(strategy: Any, seed: int, lengths: list[int], coarse: bool) -> None:
    arrays = batch(seed, lengths, coarse)
    found = _native.aggregate_entities(*arrays, TAGS, BEGINS, strategy=strategy)
    assert listed(found, strategy) == reference(*arrays, strategy)


def test_arrays_have_the_promised_types() -> None:
    found = _native.aggregate_entities(*batch(1, [5, 0, 7], False), TAGS, BEGINS, strategy="simple")
    types = [array.dtype for array in (found.rows, found.first, found.last, found.labels, found.scores)]
    assert types == [np.int64, np.int64, np.int64, np.int32, np.float32]


def test_no_tokens_have_no_entities() -> None:
    empty = np.zeros((0, 7), np.float32), np.array([0, 0, 0]), np.zeros(0, bool), np.zeros(0, bool)
    assert _native.aggregate_entities(*empty, TAGS, BEGINS, strategy="max").rows.size == 0


def test_a_score_that_is_not_finite_counts_where_its_token_is_kept() -> None:
    scores, offsets, _, is_subword = batch(1, [5, 7], False)
    scores[6, 2] = np.nan
    kept = np.ones(12, bool)
    with pytest.raises(_native.NativeError) as caught:
        _native.aggregate_entities(scores, offsets, kept, is_subword, TAGS, BEGINS, strategy="simple")
    assert (caught.value.reason, caught.value.index) == ("not_finite", 1)
    kept[6] = False
    found = _native.aggregate_entities(scores, offsets, kept, is_subword, TAGS, BEGINS, strategy="simple")
    assert np.isfinite(found.scores).all()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("kept", np.ones(4, bool), "shape_mismatch"),
        ("is_subword", np.ones(6, bool), "shape_mismatch"),
        ("tags", TAGS[:-1], "shape_mismatch"),
        ("begins", BEGINS[:-1], "shape_mismatch"),
        ("offsets", np.array([0, 6]), "offsets_out_of_order"),
        ("strategy", "last", "invalid_argument"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name: str, value: Any, reason: str) -> None:
    scores, offsets, kept, is_subword = batch(1, [5], False)
    arguments: dict[str, Any] = {"scores": scores, "offsets": offsets, "kept": kept, "is_subword": is_subword, "tags": TAGS}
    arguments.update({"begins": BEGINS, "strategy": "simple"})
    with pytest.raises(_native.NativeError) as caught:
        _native.aggregate_entities(**{**arguments, name: value})
    assert caught.value.reason == reason


def test_tokens_without_labels_are_refused() -> None:
    none = np.zeros(0, np.int32), np.zeros(0, bool)
    with pytest.raises(_native.NativeError) as caught:
        _native.aggregate_entities(np.zeros((2, 0), np.float32), np.array([0, 2]), *[np.ones(2, bool)] * 2, *none, strategy="simple")
    assert caught.value.reason == "out_of_range"
