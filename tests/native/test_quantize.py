"""Conversions of vectors against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hubwire_server._native import NativeError, convert

VECTORS = arrays(
    np.float32,
    st.tuples(st.integers(0, 5), st.sampled_from([1, 3, 8, 17, 65])),
    elements=st.floats(-60000, 60000, width=32, allow_subnormal=False),
)


def scaled(vectors: np.ndarray, normalize: bool) -> np.ndarray:
    """Rows in float64, of length 1 where asked."""
    rows = vectors.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0) if normalize else rows


@settings(deadline=None)
@given(VECTORS, st.booleans())
def test_float32_is_scaled_and_rounded_once(vectors: np.ndarray, normalize: bool) -> None:
    rows, scales = convert(vectors, normalize=normalize)
    assert scales is None
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, scaled(vectors, normalize), rtol=2e-7, atol=1e-38)


@settings(deadline=None)
@given(VECTORS)
def test_float16_is_what_numpy_casts(vectors: np.ndarray) -> None:
    rows, scales = convert(vectors, encoding="float16")
    assert scales is None
    assert rows.dtype == np.float16
    np.testing.assert_array_equal(rows, vectors.astype(np.float16))


@settings(deadline=None)
@given(VECTORS, st.booleans())
def test_int8_is_rounded_to_the_nearest_multiple_of_its_scale(vectors: np.ndarray, normalize: bool) -> None:
    base, _ = convert(vectors, normalize=normalize)
    rows, scales = convert(vectors, normalize=normalize, encoding="int8")
    assert (rows.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (len(vectors),))
    np.testing.assert_array_equal(scales, np.abs(base).max(axis=1, initial=0) / np.float32(127))
    divisors = np.where(scales > 0, scales, np.inf).astype(np.float64)[:, None]
    np.testing.assert_array_equal(rows, np.clip(np.rint(base.astype(np.float64) / divisors), -127, 127))


@settings(deadline=None)
@given(VECTORS, st.booleans())
def test_binary_is_what_packbits_gives(vectors: np.ndarray, normalize: bool) -> None:
    rows, scales = convert(vectors, normalize=normalize, encoding="binary")
    assert scales is None
    assert rows.dtype == np.uint8
    np.testing.assert_array_equal(rows, np.packbits(vectors > 0, axis=1))


def test_a_bit_tells_of_the_value_before_it_is_scaled() -> None:
    # The least value that is above zero, divided by the length of this row, is too small for float32.
    vectors = np.array([[np.finfo(np.float32).max, 1e-45, -1.0]], np.float32)
    assert convert(vectors, normalize=True)[0][0, 1] == 0
    assert convert(vectors, normalize=True, encoding="binary")[0].tolist() == [[0b11000000]]


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8", "binary"])
def test_dimensions_are_cut_before_the_rest_is_done(encoding: str) -> None:
    vectors = np.random.default_rng(2).normal(size=(4, 30)).astype(np.float32)
    found = convert(vectors, dimensions=7, normalize=True, encoding=encoding)
    wanted = convert(np.ascontiguousarray(vectors[:, :7]), normalize=True, encoding=encoding)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8", "binary"])
def test_many_threads_give_what_one_gives(encoding: str) -> None:
    vectors = np.random.default_rng(3).normal(size=(3000, 300)).astype(np.float32)
    one, many = (convert(vectors, normalize=True, encoding=encoding, threads=threads) for threads in (1, 3))
    for left, right in zip(one, many, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8", "binary"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_row(encoding: str, bad: float) -> None:
    vectors = np.ones((4, 9), np.float32)
    vectors[2, 8] = bad
    with pytest.raises(NativeError) as caught:
        convert(vectors, encoding=encoding, normalize=True)
    assert (caught.value.reason, caught.value.index) == ("not_finite", 2)


def test_a_value_beyond_float16_is_refused_with_its_row() -> None:
    vectors = np.array([[1.0], [65519.0], [65520.0]], np.float32)
    with pytest.raises(NativeError) as caught:
        convert(vectors, encoding="float16")
    assert (caught.value.reason, caught.value.index) == ("not_finite", 2)


@pytest.mark.parametrize("dimensions", [0, 4])
def test_dimensions_out_of_range_are_refused(dimensions: int) -> None:
    with pytest.raises(NativeError) as caught:
        convert(np.ones((2, 3), np.float32), dimensions=dimensions)
    assert (caught.value.reason, caught.value.index) == ("out_of_range", None)


@pytest.mark.parametrize("vectors", [np.ones((2, 3)), np.ones((2, 3), np.float16), [[1.0]], None], ids=repr)
def test_vectors_of_another_type_are_a_type_error(vectors: Any) -> None:
    with pytest.raises(TypeError, match="vectors"):
        convert(vectors)


def test_a_part_of_a_wider_array_is_taken() -> None:
    vectors = np.random.default_rng(4).normal(size=(4, 30)).astype(np.float32)
    np.testing.assert_array_equal(convert(vectors[:, 3:9])[0], vectors[:, 3:9])
