"""Text classification: from logits to labels, and the options of a request."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import ClassificationDetails, Task
from hubwire_server.tasks import text_classification
from hubwire_server.tasks.decoding import softmax
from hubwire_server.tasks.stream import StreamEntry
from hubwire_server.tasks.text_classification import (
    MAX_RESPONSE_BYTES,
    MAX_RESPONSE_LABELS,
    ClassifyOptions,
    ClassifyTextRequest,
    TextClassificationTask,
    best_first,
    default_function,
    sigmoid,
)
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, TextLimits, Texts, Truncation
from hubwire_server.testing import running_server

LABELS = ["a", "b", "c", "b", "e"]
CALLER = Caller(client="test")


@pytest.fixture
async def task() -> AsyncIterator[TextClassificationTask]:
    """Text classification with a worker of the fake model behind it."""
    async with running_server(task=Task.TEXT_CLASSIFICATION, description={"labels": LABELS}) as server:
        texts = Texts(TextLimits(max_texts=2_000, max_text_bytes=1_000, max_request_bytes=1_000_000), threads=1)
        yield TextClassificationTask(TextTask(server.app.registry, server.app.dispatcher, texts))
        texts.close()


@pytest.mark.parametrize(
    ("problem_type", "labels", "function"),
    [
        ("", 1, "sigmoid"),
        ("", 2, "softmax"),
        ("single_label_classification", 1, "sigmoid"),
        ("single_label_classification", 3, "softmax"),
        ("multi_label_classification", 1, "sigmoid"),
        ("multi_label_classification", 3, "sigmoid"),
        ("regression", 1, "none"),
        ("regression", 3, "none"),
    ],
)
def test_the_default_function_follows_the_problem_type(problem_type, labels, function):
    assert default_function(ClassificationDetails(labels=tuple("abc"[:labels]), problem_type=problem_type)) == function


def test_logits_of_any_size_have_scores_without_overflow():
    logits = np.array([[-3e38, -800.0, -1.0, 0.0, 1.0, 800.0, 3e38]])
    np.testing.assert_allclose(sigmoid(logits), [[0, 0, 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1, 1]], atol=1e-300)
    np.testing.assert_array_equal(softmax(logits), [[0, 0, 0, 0, 0, 0, 1]])
    np.testing.assert_allclose(softmax(np.array([[800.0, 801.0]])), [[1 / (1 + np.e), np.e / (1 + np.e)]])


@given(
    rows=st.integers(1, 9).flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from([-1.5, 0.0, 0.25, 2.0, 3e9]), min_size=width, max_size=width), min_size=1, max_size=5
        )
    ),
    k=st.integers(1, 12),
)
def test_the_best_come_first_and_equal_ones_keep_their_order(rows, k):
    columns, scores = best_first(np.array(rows), k)
    for row, found, values in zip(rows, columns.tolist(), scores.tolist(), strict=True):
        expected = sorted(range(len(row)), key=lambda index: -row[index])[:k]
        assert found == expected
        assert values == [row[index] for index in expected]


def test_scores_that_are_equal_as_they_travel_count_as_equal():
    """In float64 the second is larger, but a caller could not see why it came first."""
    columns, scores = best_first(np.array([[0.5, 0.5 + 1e-12]]), 2)
    assert columns.tolist() == [[0, 1]]
    assert scores.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("k", [1, 7, 500, 1_000])
def test_the_best_of_very_many_labels_are_those_that_sorting_all_finds(k, monkeypatch):
    """Scores that saturate are equal although their logits differ."""
    logits = np.random.default_rng(0).normal(0, 60, (20, 1_000)).astype(np.float32)
    for scores in (sigmoid(logits.astype(np.float64)), softmax(logits.astype(np.float64)), np.round(logits.astype(np.float64), -1)):
        chosen = best_first(scores, k)
        with monkeypatch.context() as patch:
            patch.setattr(np, "argsort", None)
            best_first(scores, k)  # nothing is sorted
            patch.undo()
            patch.setattr(text_classification, "MIN_NATIVE_LABELS", 10_000)
            expected = best_first(scores, k)
        np.testing.assert_array_equal(chosen[0], expected[0])
        np.testing.assert_array_equal(chosen[1], expected[1])
        assert chosen[0].dtype == np.int64


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_scores_that_overflow_as_they_travel_have_an_order_too():
    scores = np.zeros((1, 300))
    scores[0, [5, 9]] = [1e300, -1e300]
    columns, _ = best_first(scores, 300)
    assert columns[0, [0, 1, -1]].tolist() == [5, 0, 9]


async def test_a_plan_ranks_rows_in_parts_with_the_same_answer(task, monkeypatch):
    plan = task.plan("", ClassifyOptions(labels=("e", "b"), top_k=2), pair=False)
    logits = np.random.default_rng(0).standard_normal((11, 5)).astype(np.float32)
    whole = plan.rank(logits)
    sizes = []
    function = text_classification.apply_function
    monkeypatch.setattr(text_classification, "apply_function", lambda rows, name: sizes.append(len(rows)) or function(rows, name))
    monkeypatch.setattr(text_classification, "SCORED_AT_ONCE", 20)
    parts = plan.rank(logits)
    assert sizes == [4, 4, 3]
    np.testing.assert_array_equal(whole.columns, parts.columns)
    np.testing.assert_array_equal(whole.scores, parts.scores)


async def test_logits_that_nobody_asked_for_count_too(task, monkeypatch):
    monkeypatch.setattr(text_classification, "MAX_LOGITS", 11)
    with pytest.raises(HubwireError) as caught:
        await task.classify(ClassifyTextRequest(texts=["crash"] * 3, options=ClassifyOptions(top_k=1)), CALLER)
    assert (caught.value.reason, caught.value.field) == (Reason.TOO_MANY_TEXTS, "texts")
    assert caught.value.metadata == {"count": "3", "limit": "2"}
    answered = await task.classify(ClassifyTextRequest(texts=["w1"] * 2, options=ClassifyOptions(top_k=1)), CALLER)
    assert answered.ranked.scores.shape == (2, 1)


async def test_a_plan_ranks_the_labels_that_were_asked_for(task):
    logits = np.array([[0.0, 1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0, 0.0]], np.float32)
    ranked = task.plan("", ClassifyOptions(labels=("e", "b"), top_k=2, function="none"), pair=False).rank(logits)
    assert ranked.columns.tolist() == [[4, 3], [1, 3]]
    assert ranked.scores.tolist() == [[4, 3], [3, 1]]
    whole = task.plan("", ClassifyOptions(), pair=False).rank(logits)
    some = task.plan("", ClassifyOptions(labels=("b",)), pair=False).rank(logits)
    np.testing.assert_allclose(whole.scores.sum(axis=1), 1, rtol=1e-6)
    assert some.scores.tolist() == [
        [score for score, column in zip(*row, strict=True) if column in (1, 3)]
        for row in zip(whole.scores.tolist(), whole.columns.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("options", "reason", "field"),
    [
        (ClassifyOptions(labels=("a", "x")), Reason.LABEL_NOT_FOUND, "labels[1]"),
        (ClassifyOptions(labels=("a", "a")), Reason.VALUE_REPEATED, "labels[1]"),
        (ClassifyOptions(truncation=Truncation(max_tokens=99)), Reason.VALUE_OUT_OF_RANGE, "truncation.max_tokens"),
    ],
)
@pytest.mark.parametrize("path", ["", "options."])
async def test_an_option_that_does_not_fit_is_named_where_it_stands(task, options, reason, field, path):
    with pytest.raises(HubwireError) as caught:
        task.plan("", options, path=path, pair=False)
    assert (caught.value.reason, caught.value.field) == (reason, f"{path}options.{field}")


async def test_a_pair_needs_more_room_than_a_text(task):
    options = ClassifyOptions(truncation=Truncation(max_tokens=4))
    assert task.plan("", options, pair=False).reading.limit_tokens == 4
    with pytest.raises(HubwireError, match="takes 5 to 32"):
        task.plan("", options, pair=True)


async def test_an_answer_of_a_million_labels_is_refused_before_it_is_computed(task, monkeypatch):
    monkeypatch.setattr(text_classification, "MAX_SCORES", 11)
    with pytest.raises(HubwireError) as caught:
        await task.classify(ClassifyTextRequest(texts=["crash"] * 3), CALLER)
    assert (caught.value.reason, caught.value.field) == (Reason.TOO_MANY_TEXTS, "texts")
    assert caught.value.metadata == {"count": "3", "limit": "2"}
    cut = await task.classify(ClassifyTextRequest(texts=["w1"] * 3, options=ClassifyOptions(top_k=3)), CALLER)
    assert cut.ranked.scores.shape == (3, 3)


async def test_a_large_request_is_scored_in_a_thread_with_the_same_answer(task, monkeypatch):
    texts = [f"w{index}" for index in range(50)]
    inline = await task.classify(ClassifyTextRequest(texts=texts), CALLER)
    monkeypatch.setattr(text_classification, "INLINE_SCORES", 0)
    threaded = await task.classify(ClassifyTextRequest(texts=texts), CALLER)
    np.testing.assert_array_equal(inline.ranked.columns, threaded.ranked.columns)
    np.testing.assert_array_equal(inline.ranked.scores, threaded.ranked.scores)


@pytest.mark.parametrize(
    ("label", "top_k", "most"),
    [
        ("a", 1, MAX_RESPONSE_LABELS),  # as many as are written quickly
        ("a", 5, MAX_RESPONSE_LABELS // 5),
        ("a", 3_000, 1),  # one at least
        ("é" * 5_000, 1, MAX_RESPONSE_BYTES // (64 + 12 + 10_000)),  # names may be long
    ],
)
async def test_a_message_of_a_stream_holds_few_results_where_their_labels_are_many_or_long(task, label, top_k, most):
    plan = task.plan("", ClassifyOptions(), pair=True)
    details = msgspec.structs.replace(plan.model.description.classification, labels=(label,) * 5)
    model = dataclasses.replace(plan.model, description=msgspec.structs.replace(plan.model.description, classification=details))
    assert dataclasses.replace(plan, model=model, top_k=top_k).most_results == most


async def test_a_message_of_a_stream_holds_few_results_of_a_head_with_very_many_labels(task):
    plan = task.plan("", ClassifyOptions(top_k=1), pair=True)
    for labels, most in ((1_000, text_classification.INLINE_SCORES // 1_000), (100_000, 1)):
        names = tuple(f"l{index}" for index in range(labels))
        details = msgspec.structs.replace(plan.model.description.classification, labels=names)
        model = dataclasses.replace(plan.model, description=msgspec.structs.replace(plan.model.description, classification=details))
        assert dataclasses.replace(plan, model=model).most_results == most


async def test_a_value_of_a_stream_does_not_keep_the_memory_of_its_batch(task):
    plan = task.plan("", ClassifyOptions(), pair=True)
    batch = np.arange(50, dtype=np.float32).reshape(10, 5)
    value = plan.value(StreamEntry("1", "w1"), None, [0], [(batch[3],)])
    assert value.tolist() == batch[3].tolist()
    assert value.base is None
