"""Answer spans against a plain statement of what they are, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubwire_server import _native

Case = dict[str, Any]


def case(seed: int, windows: list[list[int]], coarse: bool, nulls: bool) -> Case:
    """Questions, each with windows of so many tokens."""
    random = np.random.default_rng(seed)
    lengths = np.array([length for question in windows for length in question], np.int64)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    start, end = (random.standard_normal((2, offsets[-1])) * 3).astype(np.float32)
    if coarse:
        start, end = np.round(start), np.round(end)
    has_null = (lengths > 0) & (random.random(lengths.size) < 0.8) & nulls
    return {
        "start": start,
        "end": end,
        "offsets": offsets,
        "sources": np.repeat(np.arange(len(windows)), [len(question) for question in windows]).astype(np.int64),
        "allowed": random.random(offsets[-1]) < 0.7,
        "null": np.where(has_null, offsets[:-1] + random.integers(0, np.maximum(lengths, 1)), -1),
    }


def reference(given_case: Case, max_answer_tokens: int, k: int) -> tuple[list[list[tuple[int, int, float]]], list[float]]:
    """All spans of each question sorted by their probability, the first 4 k of them, and the null scores."""
    start, end = given_case["start"].astype(np.float64), given_case["end"].astype(np.float64)
    offsets, allowed, null = given_case["offsets"], given_case["allowed"], given_case["null"]
    answers, null_scores = [], []
    for source in np.unique(given_case["sources"]):
        windows = np.flatnonzero(given_case["sources"] == source)
        nulls = [null[window] for window in windows if null[window] >= 0]
        context = [token for window in windows for token in range(offsets[window], offsets[window + 1]) if allowed[token]]
        read = sorted({*context, *nulls})
        totals = [np.sum(np.exp(logits[read])) for logits in (start, end)]
        spans = []
        for window in windows:
            inside = [token for token in context if offsets[window] <= token < offsets[window + 1]]
            for first in inside:
                spans += [(start[first] + end[last], first, last) for last in inside if first <= last < first + max_answer_tokens]
        spans.sort(key=lambda span: (-span[0], span[1], span[2]))
        answers.append([(first, last, np.exp(total) / totals[0] / totals[1]) for total, first, last in spans[: 4 * k]])
        null_scores.append(min((np.exp(start[token] + end[token]) / totals[0] / totals[1] for token in nulls), default=0.0))
    return answers, null_scores


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.lists(st.integers(0, 25), min_size=1, max_size=3), max_size=3),
    st.booleans(),
    st.booleans(),
    st.integers(1, 30),
    st.integers(0, 8),
)
def test_the_best_spans_are_the_best_of_all_spans(
    seed: int, windows: list[list[int]], coarse: bool, nulls: bool, max_answer_tokens: int, k: int
) -> None:
    arguments = case(seed, windows, coarse, nulls)
    found = _native.best_answers(**arguments, max_answer_tokens=max_answer_tokens, k=k)
    answers, null_scores = reference(arguments, max_answer_tokens, k)
    assert found.sources.tolist() == [source for source, spans in enumerate(answers) for _ in spans]
    flat = [span for spans in answers for span in spans]
    assert list(zip(found.first.tolist(), found.last.tolist(), strict=True)) == [(first, last) for first, last, _ in flat]
    np.testing.assert_allclose(found.scores, [score for _, _, score in flat], rtol=1e-6)
    np.testing.assert_allclose(found.null_scores, null_scores, rtol=1e-6)
    types = [array.dtype for array in (found.sources, found.first, found.last, found.scores, found.null_scores)]
    assert types == [np.int64, np.int64, np.int64, np.float32, np.float32]


def test_large_logits_are_no_overflow() -> None:
    arguments = case(3, [[20, 20]], False, True)
    found = _native.best_answers(**{**arguments, "start": arguments["start"] * 1e30}, max_answer_tokens=5, k=2)
    assert np.isfinite(found.scores).all()
    assert np.isfinite(found.null_scores).all()


@pytest.mark.parametrize(
    ("name", "value", "reason", "index"),
    [
        ("end", np.zeros(3, np.float32), "shape_mismatch", None),
        ("allowed", np.ones(3, bool), "shape_mismatch", None),
        ("sources", np.array([0]), "shape_mismatch", None),
        ("null", np.array([-1]), "shape_mismatch", None),
        ("offsets", np.array([0, 4, 3, 9]), "offsets_out_of_order", 2),
        ("sources", np.array([1, 1, 1]), "out_of_range", 0),
        ("sources", np.array([-1, 0, 1]), "out_of_range", 0),
        ("sources", np.array([0, 2, 3]), "out_of_range", 1),
        ("sources", np.array([0, 1, 0]), "out_of_range", 2),
        ("null", np.array([-1, 3, -1]), "out_of_range", 1),
        ("null", np.array([-1, -2, -1]), "out_of_range", 1),
        ("max_answer_tokens", 0, "out_of_range", None),
    ],
)
def test_what_does_not_fit_is_refused(name: str, value: Any, reason: str, index: int | None) -> None:
    arguments = {**case(1, [[4, 3], [2]], False, False), "max_answer_tokens": 3, "k": 1, name: value}
    with pytest.raises(_native.NativeError) as caught:
        _native.best_answers(**arguments)
    assert (caught.value.reason, caught.value.index) == (reason, index)


@pytest.mark.parametrize("name", ["start", "end"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_counts_where_it_is_read(name: str, bad: float) -> None:
    arguments = case(1, [[4, 3], [2]], False, False)
    arguments[name][5] = bad
    arguments["allowed"][:] = True
    with pytest.raises(_native.NativeError) as caught:
        _native.best_answers(**arguments, max_answer_tokens=3, k=1)
    assert (caught.value.reason, caught.value.index) == ("not_finite", 1)
    arguments["allowed"][5] = False
    assert np.isfinite(_native.best_answers(**arguments, max_answer_tokens=3, k=1).scores).all()
