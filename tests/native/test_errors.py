"""Every reason for which the core refuses a value."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from hubwire_server import _native
from hubwire_server._native import NativeError, Tokenizer

ONES = np.ones((2, 3), np.float32)
IDS = np.array([1, -1], np.int32)
WORD_LEVEL = json.dumps(
    {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"known": 0}, "unk_token": "missing"},
    }
)


def pool_while_offsets_change(threads: int) -> None:
    """Pools until a call finds, after it has checked the offsets, that another thread has written to them."""
    hidden, offsets = np.zeros((20_000, 384), np.float32), np.arange(0, 20_001, 10)
    array_changes(offsets, 2**40, partial(_native.pool_ragged, hidden, offsets, threads=threads))


def encode_while_ids_change() -> None:
    """Encodes until a call finds that the tokens have become longer than what it has made room for."""
    vectors, ids = np.zeros((20_000, 384), np.float32), np.ones(20_000, np.int32)
    spans, special = np.zeros((20_000, 2), np.uint32), np.zeros(20_000, bool)
    array_changes(ids, 2**31 - 1, partial(_native.encode_token_embeddings, vectors, np.array([0, 20_000]), ids, spans, special))


def array_changes(array: np.ndarray, bad: int, call: Callable[[], Any]) -> None:
    """Calls, while a thread writes to the array, until a call fails otherwise than by the check of what it was given."""
    ended = threading.Event()

    def write() -> None:
        good = array[-2]
        while not ended.is_set():
            array[-2] = bad
            array[-2] = good

    writer = threading.Thread(target=write)
    writer.start()
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                call()
            except NativeError as error:
                if error.reason != "offsets_out_of_order":
                    raise
    finally:
        ended.set()
        writer.join()


CASES: list[tuple[str, str, int | None, Callable[[Tokenizer], Any]]] = [
    ("json that is none", "invalid_tokenizer", None, lambda _: Tokenizer("{")),
    ("json of something else", "invalid_tokenizer", None, lambda _: Tokenizer(b"[1, 2]")),
    ("json with a lone surrogate", "invalid_tokenizer", None, lambda _: Tokenizer("\udc00")),
    ("a word that the model has no name for", "tokenization_failed", 1, lambda _: Tokenizer(WORD_LEVEL).encode(["known", "other"])),
    ("a text with a lone surrogate", "invalid_argument", 2, lambda tokenizer: tokenizer.encode(["a", "b", "c\ud83d"])),
    ("a pair with a lone surrogate", "invalid_argument", 0, lambda tokenizer: tokenizer.encode(["a"], ["\udfff"])),
    ("an id with a lone surrogate", "invalid_argument", 1, lambda _: _native.encode_stream_results(["a", "\ud800"], ONES)),
    ("an unknown side", "invalid_argument", None, lambda tokenizer: tokenizer.encode(["a"], truncation_side="middle")),
    ("an unknown text to cut", "invalid_argument", None, lambda tokenizer: tokenizer.encode(["a"], ["b"], truncation="only_third")),
    ("an unknown unit", "invalid_argument", None, lambda tokenizer: tokenizer.encode(["a"], spans="word")),
    ("an unknown mode", "invalid_argument", None, lambda _: _native.pool_ragged(ONES, np.array([0, 2]), mode="median")),
    ("an unknown encoding", "invalid_argument", None, lambda _: _native.convert(ONES, encoding="int4")),
    ("an unknown encoding on the wire", "invalid_argument", None, lambda _: _native.encode_matrix(ONES, encoding="float32")),
    ("an unknown instruction set", "invalid_argument", None, lambda _: _native.set_simd_level("mmx")),
    ("pairs of another number", "shape_mismatch", None, lambda tokenizer: tokenizer.encode(["a", "b"], ["c"])),
    ("a mask of another shape", "shape_mismatch", None, lambda _: _native.pool_padded(ONES[None], np.ones((1, 3), bool))),
    ("vectors of one dimension", "shape_mismatch", None, lambda _: _native.convert(ONES[0])),
    ("a word with a lone surrogate", "invalid_argument", 1, lambda tokenizer: tokenizer.encode_words([["a"], ["b", "\ud83d"]])),
    ("a negative id", "out_of_range", 1, lambda tokenizer: tokenizer.decode(IDS, np.array([0, 1, 2]), skip_special_tokens=True)),
    ("an id that no token has", "out_of_range", 1, lambda tokenizer: tokenizer.tokens(IDS)),
    ("falling offsets", "offsets_out_of_order", 1, lambda _: _native.pool_ragged(ONES, np.array([0, -1, 2]))),
    ("a limit of no tokens", "out_of_range", None, lambda tokenizer: tokenizer.encode(["a"], max_tokens=0)),
    ("a negative skip", "out_of_range", 0, lambda _: _native.pool_ragged(ONES, np.array([0, 2]), skip=np.array([-1]))),
    ("too many dimensions", "out_of_range", None, lambda _: _native.encode_vectors(ONES, field=1, dimensions=4)),
    ("a value that is not finite", "not_finite", 0, lambda _: _native.convert(ONES * np.float32(np.inf))),
    ("offsets that change while they are read", "internal", None, lambda _: pool_while_offsets_change(threads=1)),
    ("offsets that change while two threads read them", "internal", None, lambda _: pool_while_offsets_change(threads=2)),
    ("ids that change while they are read", "internal", None, lambda _: encode_while_ids_change()),
]


@pytest.mark.parametrize(("reason", "index", "call"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_refusal_has_a_reason_and_an_index(
    tokenizer: Tokenizer, reason: str, index: int | None, call: Callable[[Tokenizer], Any]
) -> None:
    with pytest.raises(NativeError) as caught:
        call(tokenizer)
    assert (caught.value.reason, caught.value.index) == (reason, index)
    assert str(caught.value)


def test_every_reason_has_a_case() -> None:
    assert {case[1] for case in CASES} == set(NativeError.reasons)


def test_every_reason_is_documented() -> None:
    with open(_native.__file__.rpartition("/")[0] + "/_native.pyi", encoding="utf-8") as stub:
        documentation = stub.read().partition("class NativeError")[2].partition('"""')[2].partition('"""')[0]
    assert all(f'"{reason}"' in documentation for reason in NativeError.reasons)


def test_a_refusal_is_a_value_error() -> None:
    assert issubclass(NativeError, ValueError)


@pytest.mark.parametrize("value", [-1, 2**64, 1.5, "7"], ids=repr)
def test_a_number_of_the_wrong_kind_is_no_panic(tokenizer: Tokenizer, value: Any) -> None:
    with pytest.raises((TypeError, OverflowError)):
        tokenizer.encode(["a"], max_tokens=value)
    with pytest.raises((TypeError, OverflowError)):
        _native.convert(ONES, threads=value)
