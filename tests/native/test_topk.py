"""The largest logits of rows, and sparse vectors, against numpy and torch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hubwire_server import _native

# Few different values, so that many are equal.
COARSE = st.sampled_from([-3.0, -0.0, 0.0, 0.5, 1.0, 7.25, -120.0, 88.0, 1e30])


def matrix(values: st.SearchStrategy[float]) -> st.SearchStrategy[NDArray[np.float32]]:
    """Rows of one length, of which some are longer than a block of the core."""
    shapes = st.tuples(st.integers(0, 4), st.sampled_from([1, 2, 15, 16, 17, 127, 128, 129, 300, 1100]))
    return shapes.flatmap(
        lambda shape: st.tuples(st.lists(values, min_size=1, max_size=40), st.integers(0, 2**32 - 1)).map(
            lambda drawn: np.random.default_rng(drawn[1]).choice(np.array(drawn[0], np.float32), shape)
        )
    )


@settings(deadline=None)
@given(matrix(COARSE), st.integers(0, 1200), st.integers(1, 3))
def test_the_largest_come_first_and_equal_ones_by_column(logits: NDArray[np.float32], k: int, threads: int) -> None:
    ids, values, logsumexp = _native.top_k(logits, k, threads=threads)
    wanted = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ids, wanted)
    np.testing.assert_array_equal(values, np.take_along_axis(logits, wanted, axis=1))
    assert (ids.dtype, values.dtype, logsumexp.dtype) == (np.int32, np.float32, np.float32)
    exact = torch.logsumexp(torch.from_numpy(logits.astype(np.float64)), dim=1).numpy()
    np.testing.assert_allclose(logsumexp, exact, rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0, 60.0])
def test_probabilities_of_a_vocabulary_are_those_of_torch(scale: float) -> None:
    logits = (np.random.default_rng(5).standard_normal((6, 30_522)) * scale).astype(np.float32)
    ids, values, logsumexp = _native.top_k(logits, 10, threads=2)
    wanted = torch.from_numpy(logits.astype(np.float64)).softmax(dim=1).topk(10, dim=1)
    np.testing.assert_array_equal(ids, wanted.indices.numpy())
    # A logarithm in float32 is rounded, by more the larger it is, and the probability with it.
    rounding = 2 * np.spacing(np.abs(logsumexp).max())
    np.testing.assert_allclose(np.exp(values - logsumexp[:, None]), wanted.values.numpy(), rtol=2e-6 + rounding)


def test_rising_and_falling_rows_are_right_as_well() -> None:
    rising = np.arange(5000, dtype=np.float32)[None]
    assert _native.top_k(rising, 3)[0].tolist() == [[4999, 4998, 4997]]
    assert _native.top_k(-rising, 3)[0].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("call", [_native.top_k, _native.sparse_rows], ids=["top_k", "sparse_rows"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_value_that_is_not_finite_names_its_row(call: object, bad: float, threads: int) -> None:
    logits = np.zeros((40, 30_000), np.float32)
    logits[[17, 33], [129, 5]] = bad
    with pytest.raises(_native.NativeError) as caught:
        if call is _native.top_k:
            _native.top_k(logits, 2, threads=threads)
        else:
            _native.sparse_rows(logits, threads=threads)
    assert (caught.value.reason, caught.value.index) == ("not_finite", 17)


@settings(deadline=None)
@given(matrix(COARSE), st.integers(1, 3))
def test_sparse_rows_hold_what_is_above_zero(maxima: NDArray[np.float32], threads: int) -> None:
    indices, values, offsets = _native.sparse_rows(maxima, threads=threads)
    rows, columns = np.nonzero(maxima > 0)
    np.testing.assert_array_equal(indices, columns)
    np.testing.assert_array_equal(offsets, np.searchsorted(rows, np.arange(len(maxima) + 1)))
    np.testing.assert_array_equal(values, np.log1p(maxima[rows, columns].astype(np.float64)).astype(np.float32))
    assert (indices.dtype, values.dtype, offsets.dtype) == (np.int32, np.float32, np.int64)


def test_a_sparse_vector_is_that_of_the_pooled_logits_of_torch() -> None:
    logits = np.random.default_rng(3).standard_normal((50, 4000)).astype(np.float32) - np.float32(2.5)
    offsets = np.array([0, 20, 21, 50])
    indices, values, rows = _native.sparse_rows(_native.pool_ragged(logits, offsets, mode="max"), threads=2)
    for text, (start, stop) in enumerate(pairwise(offsets)):
        wanted = torch.log1p(torch.relu(torch.from_numpy(logits[start:stop]))).max(dim=0).values
        found = torch.zeros(4000)
        found[torch.from_numpy(indices[rows[text] : rows[text + 1]].astype(np.int64))] = torch.from_numpy(
            values[rows[text] : rows[text + 1]]
        )
        torch.testing.assert_close(found, wanted, rtol=2e-7, atol=0)


def test_rows_without_values_are_refused() -> None:
    with pytest.raises(_native.NativeError) as caught:
        _native.top_k(np.zeros((2, 0), np.float32), 1)
    assert caught.value.reason == "shape_mismatch"
    assert [array.shape for array in _native.top_k(np.zeros((0, 5), np.float32), 2)] == [(0, 2), (0, 2), (0,)]
    assert _native.sparse_rows(np.zeros((2, 0), np.float32))[2].tolist() == [0, 0, 0]
