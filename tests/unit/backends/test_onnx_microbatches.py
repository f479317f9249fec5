"""Sorting and cutting a batch: every text once, little padding, and a way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubwire_server.backends.onnx.microbatches import MAX_PADDING, MAX_PAIRS, TokenOrder, cut
from hubwire_server.scheduling import planner

LENGTHS = st.lists(st.integers(0, 300), max_size=60)


def offsets_of(lengths: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def test_the_padding_allowed_is_that_of_the_planner() -> None:
    assert MAX_PADDING == planner.MAX_PADDING


@given(LENGTHS, st.integers(1, 2000), st.one_of(st.none(), st.integers(1, 8)))
def test_micro_batches_pad_little_and_keep_to_the_budget(lengths: list[int], budget: int, texts: int | None) -> None:
    ordered = sorted(length for length in lengths if length)
    runs = cut(ordered, budget, texts)
    assert [text for first, last in runs for text in range(first, last)] == list(range(len(ordered)))
    for first, last in runs:
        part = ordered[first:last]
        rectangle = len(part) * part[-1]
        assert sum(part) >= (1 - MAX_PADDING) * rectangle
        assert len(part) == 1 or (rectangle <= budget and rectangle * part[-1] <= MAX_PAIRS)
        assert texts is None or len(part) <= texts


def test_a_batch_that_may_be_one_rectangle_is_one() -> None:
    assert cut([12] * 85, 1024) == [(0, 85)]
    assert cut([12] * 86, 1024) == [(0, 85), (85, 86)]
    assert cut([8, 9, 10, 10], 1024) == [(0, 4)]


def test_long_texts_run_alone_or_nearly_so() -> None:
    assert cut([64] * 10, 1024) == [(0, 8), (8, 10)]
    assert cut([128] * 3, 1024) == [(0, 2), (2, 3)]
    assert cut([256] * 2, 1024) == [(0, 1), (1, 2)]


@given(LENGTHS)
def test_the_order_is_by_length_and_leads_back(lengths: list[int]) -> None:
    offsets = offsets_of(lengths)
    order = TokenOrder.by_length(offsets)
    assert order.lengths.tolist() == sorted(length for length in lengths if length)
    tokens = np.arange(offsets[-1], dtype=np.int32)
    text_of_token = np.repeat(np.arange(len(lengths)), lengths)
    ordered = order.sort(tokens)
    # Each text's tokens stand together, in their own order.
    starts = np.cumsum(order.lengths) - order.lengths
    for start, length in zip(starts, order.lengths, strict=True):
        part = ordered[start : start + length]
        assert np.array_equal(part, np.arange(part[0], part[0] + length))
        assert len(set(text_of_token[part])) == 1
    hidden = np.repeat(ordered[:, None], 2, axis=1).astype(np.float32)
    assert np.array_equal(order.restore(hidden)[:, 0], tokens)


@pytest.mark.parametrize("lengths", [[3, 3, 3], [1, 2, 2, 9], [5], []], ids=str)
def test_a_batch_that_is_sorted_is_not_copied(lengths: list[int]) -> None:
    offsets = offsets_of(lengths)
    order = TokenOrder.by_length(offsets)
    ids = np.arange(offsets[-1], dtype=np.int32)
    hidden = np.zeros((len(ids), 2), np.float32)
    assert order.sort(ids) is ids
    assert order.restore(hidden) is hidden
