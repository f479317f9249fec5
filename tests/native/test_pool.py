"""Pooling against numpy in float64, and against sentence-transformers."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubwire_server._native import NativeError, pool_padded, pool_ragged

MODES = ["mean", "max", "cls", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"]
DTYPES = ["float32", "float16", "bfloat16"]
MASK_DTYPES = [np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
WIDTHS = [1, 3, 17, 384, 1000]


def stored(values: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Values in the form in which they are given to the core, and what they then are in float64."""
    if dtype == "bfloat16":
        bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return bits, (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    cast = values.astype(dtype)
    return cast, cast.astype(np.float64)


def pooled(hidden: np.ndarray, mask: np.ndarray, mode: str, skip: int, normalize: bool) -> np.ndarray:
    """One text in float64: hidden (length, h), mask (length,)."""
    places = np.flatnonzero(mask)
    if places.size:
        first = places[0]
        places = places[places >= first + skip]
    if not places.size:
        return np.zeros(hidden.shape[1])
    tokens, weights = hidden[places], (places - first + 1)[:, None]
    row = {
        "mean": lambda: tokens.mean(0),
        "max": lambda: tokens.max(0),
        "cls": lambda: tokens[0],
        "lasttoken": lambda: tokens[-1],
        "mean_sqrt_len_tokens": lambda: tokens.sum(0) / np.sqrt(len(tokens)),
        "weightedmean": lambda: (tokens * weights).sum(0) / weights.sum(),
    }[mode]()
    norm = np.linalg.norm(row)
    return row / norm if normalize and norm > 0 else row


def test_the_type_of_pooled_vectors_is_float32(level: str) -> None:
    for dtype in DTYPES:
        hidden, _ = stored(np.ones((2, 3, 4)), dtype)
        found = pool_padded(hidden, np.ones((2, 3), bool))
        assert (found.dtype, found.shape) == (np.float32, (2, 4))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_padded_batches_are_pooled_as_float64_does(level: str, mode: str, dtype: str) -> None:
    @settings(deadline=None, max_examples=40)
    @given(
        seed=st.integers(0, 2**32 - 1),
        texts=st.integers(0, 4),
        length=st.integers(0, 10),
        width=st.sampled_from(WIDTHS),
        density=st.sampled_from([0.0, 0.5, 1.0]),
        mask_dtype=st.sampled_from(MASK_DTYPES),
        skips=st.booleans(),
        normalize=st.booleans(),
        threads=st.integers(1, 3),
    )
    def check(
        seed: int, texts: int, length: int, width: int, density: float, mask_dtype: type, skips: bool, normalize: bool, threads: int
    ) -> None:
        random = np.random.default_rng(seed)
        hidden, wanted = stored(random.normal(size=(texts, length, width)), dtype)
        mask = (random.random((texts, length)) < density).astype(mask_dtype)
        skip = random.integers(0, 4, texts) if skips else None
        found = pool_padded(hidden, mask, mode=mode, skip=skip, normalize=normalize, threads=threads)
        for text in range(texts):
            row = pooled(wanted[text], mask[text], mode, 0 if skip is None else skip[text], normalize)
            np.testing.assert_allclose(found[text], row, rtol=1e-5, atol=1e-5)

    check()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_ragged_batches_are_pooled_as_float64_does(level: str, mode: str, dtype: str) -> None:
    @settings(deadline=None, max_examples=40)
    @given(
        seed=st.integers(0, 2**32 - 1),
        lengths=st.lists(st.integers(0, 12), max_size=5),
        width=st.sampled_from(WIDTHS),
        skips=st.booleans(),
        normalize=st.booleans(),
        threads=st.integers(1, 3),
    )
    def check(seed: int, lengths: list[int], width: int, skips: bool, normalize: bool, threads: int) -> None:
        random = np.random.default_rng(seed)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        hidden, wanted = stored(random.normal(size=(offsets[-1], width)), dtype)
        skip = random.integers(0, 4, len(lengths)) if skips else None
        found = pool_ragged(hidden, offsets, mode=mode, skip=skip, normalize=normalize, threads=threads)
        assert found.shape == (len(lengths), width)
        for text, (start, end) in enumerate(itertools.pairwise(offsets)):
            row = pooled(wanted[start:end], np.ones(end - start), mode, 0 if skip is None else skip[text], normalize)
            np.testing.assert_allclose(found[text], row, rtol=1e-5, atol=1e-5)

    check()


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_means_what_it_means_in_sentence_transformers(mode: str, padding_side: str, include_prompt: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # What their imports warn of is not ours.
        import torch
        from sentence_transformers.sentence_transformer.modules.pooling import Pooling

    random = np.random.default_rng(5)
    lengths, longest, width, prompt = [9, 4, 12, 7], 12, 24, 3
    hidden = random.normal(size=(len(lengths), longest, width)).astype(np.float32)
    mask = np.zeros((len(lengths), longest), np.int64)
    for row, length in zip(mask, lengths, strict=True):
        row[slice(longest - length, None) if padding_side == "left" else slice(length)] = 1
    pooling = Pooling(width, mode, include_prompt=include_prompt)
    features = {"token_embeddings": torch.from_numpy(hidden), "attention_mask": torch.from_numpy(mask), "prompt_length": prompt}
    wanted = pooling(features)["sentence_embedding"].numpy()
    skip = None if include_prompt else np.full(len(lengths), prompt)
    np.testing.assert_allclose(pool_padded(hidden, mask, mode=mode, skip=skip), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_ragged_and_padded_batches_give_the_same(mode: str) -> None:
    random = np.random.default_rng(9)
    lengths = random.integers(1, 30, 20)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = random.normal(size=(offsets[-1], 40)).astype(np.float32)
    mask = np.arange(30) < lengths[:, None]
    padded = np.full((20, 30, 40), np.nan, np.float32)
    padded[mask] = flat
    np.testing.assert_array_equal(pool_padded(padded, mask, mode=mode), pool_ragged(flat, offsets, mode=mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_row(level: str, mode: str, dtype: str, bad: float) -> None:
    values = np.ones((3, 5, 20))
    values[1, [0, 4], 19] = bad  # The first and the last token, so that every mode pools one.
    hidden, _ = stored(values, dtype)
    with pytest.raises(NativeError) as caught:
        pool_padded(hidden, np.ones((3, 5), np.int64), mode=mode)
    assert (caught.value.reason, caught.value.index) == ("not_finite", 1)
    masked = np.ones((3, 5), np.int64)
    masked[1, [0, 4]] = 0
    assert np.isfinite(pool_padded(hidden, masked, mode=mode)).all()


def test_finite_values_whose_sum_overflows_still_have_a_mean(level: str) -> None:
    largest = np.finfo(np.float32).max
    hidden = np.full((1, 7, 3), largest, np.float32)
    for mode in ("mean", "weightedmean"):
        np.testing.assert_array_equal(pool_padded(hidden, np.ones((1, 7), bool), mode=mode), np.full((1, 3), largest))


@pytest.mark.parametrize("mode", ["mean", "mean_sqrt_len_tokens", "weightedmean"])
def test_a_long_text_is_pooled_as_exactly_as_a_short_one(level: str, mode: str) -> None:
    tokens = 100_000
    hidden = np.random.default_rng(7).normal(3, 1, size=(tokens, 16)).astype(np.float32)
    wanted = pooled(hidden.astype(np.float64), np.ones(tokens), mode, 0, normalize=False)
    np.testing.assert_allclose(pool_ragged(hidden, np.array([0, tokens]), mode=mode)[0], wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "arrange",
    [
        lambda hidden: hidden.transpose(0, 2, 1).copy().transpose(0, 2, 1),
        lambda hidden: np.repeat(hidden, 2, axis=1)[:, ::2],
        lambda hidden: hidden[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        np.asfortranarray,
        lambda hidden: np.frombuffer(b"x" + hidden.tobytes(), np.float32, offset=1).reshape(hidden.shape),
    ],
    ids=["transposed", "every second", "backwards", "fortran order", "not aligned"],
)
def test_arrays_that_lie_otherwise_in_memory_are_taken(arrange: Any) -> None:
    hidden = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])
    other = arrange(hidden)
    np.testing.assert_array_equal(other, hidden)
    for mode in MODES:
        wanted = pool_padded(hidden, mask, mode=mode)
        np.testing.assert_array_equal(pool_padded(other, np.asfortranarray(mask), mode=mode), wanted)


def test_arguments_stay_as_they_are() -> None:
    hidden, mask = np.ones((2, 3, 4), np.float32), np.ones((2, 3), np.int64)
    hidden.flags.writeable = mask.flags.writeable = False
    pool_padded(hidden, mask, normalize=True)
    assert (hidden == 1).all()


@pytest.mark.parametrize("hidden", [np.ones((2, 3, 4)), np.ones((2, 3, 4), np.int32), np.ones((2, 3, 4), ">f4"), [[[1.0]]], None], ids=repr)
def test_hidden_states_of_another_type_are_a_type_error(hidden: Any) -> None:
    with pytest.raises(TypeError, match="hidden"):
        pool_padded(hidden, np.ones((2, 3), bool))


@pytest.mark.parametrize("mask", [np.ones((2, 3), np.float32), np.ones((2, 3), object), [[1, 1, 1]] * 2], ids=repr)
def test_a_mask_of_another_type_is_a_type_error(mask: Any) -> None:
    with pytest.raises(TypeError, match="mask"):
        pool_padded(np.ones((2, 3, 4), np.float32), mask)


def test_offsets_and_skip_of_another_type_are_a_type_error() -> None:
    hidden = np.ones((4, 2), np.float32)
    with pytest.raises(TypeError, match="offsets"):
        pool_ragged(hidden, np.array([0, 4], np.int32))  # type: ignore[arg-type] # what is tested
    with pytest.raises(TypeError, match="skip"):
        pool_ragged(hidden, np.array([0, 4]), skip=[1])  # type: ignore[arg-type] # what is tested


@pytest.mark.parametrize(
    ("offsets", "index"),
    [([], 0), ([1, 4], 0), ([0, 3, 2, 4], 2), ([0, 5], 1), ([0, 3], 1), ([0, -1, 4], 1), ([-(2**63), 4], 0), ([0, 2**63 - 1, 4], 2)],
)
def test_offsets_out_of_order_are_refused_with_their_index(offsets: list[int], index: int) -> None:
    with pytest.raises(NativeError) as caught:
        pool_ragged(np.ones((4, 2), np.float32), np.array(offsets, np.int64))
    assert (caught.value.reason, caught.value.index) == ("offsets_out_of_order", index)


@pytest.mark.parametrize(
    ("hidden", "mask", "skip"),
    [
        ((2, 3, 4), (3, 2), None),
        ((2, 3, 4), (2, 4), None),
        ((2, 3, 4), (2, 3, 1), None),
        ((2, 3), (2, 3), None),
        ((2, 3, 4), (2, 3), (3,)),
        ((2, 3, 4), (2, 3), (2, 1)),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_refused(hidden: tuple[int, ...], mask: tuple[int, ...], skip: tuple[int, ...] | None) -> None:
    skips = None if skip is None else np.zeros(skip, np.int64)
    with pytest.raises(NativeError) as caught:
        pool_padded(np.ones(hidden, np.float32), np.ones(mask, bool), skip=skips)
    assert caught.value.reason == "shape_mismatch"
