"""Tokenization against the tokenizers library and transformers."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, processors, trainers

from hubwire_server._native import NativeError, Tokenizer

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog. " * 20,
    "Größe, naïve café, coöperation, Ångström",
    "Москва слезам не верит",
    "東京は日本の首都です。",
    "서울은 대한민국의 수도이다",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "emoji 😀😃 and 👩‍👩‍👧‍👦 and 🇩🇪 flags",
    "combining e\u0301 a\u0308 o\u0302\u0301 and n\u0303",
    "zero\u200bwidth \ufeff and \u00a0 spaces\t\nand\r\nlines",
    "nul \0 inside",
    "[CLS] literal [SEP] special [MASK] tokens [PAD]",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 beyond the first plane",
    "supercalifragilisticexpialidocious" * 10,
    "1234567890 3.14159 1,000,000 2026-11-24",
]
# Strings of every character that is one, with those that matter to tokenizers more often.
ANY_TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" aé日😀\u0301\0[]#")), max_size=60)


@pytest.fixture(scope="session")
def library(tokenizer_json: str) -> Library:
    library = Library.from_str(tokenizer_json)
    library.no_padding()
    library.no_truncation()
    return library


@pytest.fixture(scope="session")
def auto_tokenizer(model_folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # What its import warns of is not ours.
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(model_folder)


def rows(batch: Any, values: np.ndarray) -> list[list[Any]]:
    """The values of each text."""
    return [values[start:end].tolist() for start, end in zip(batch.offsets, batch.offsets[1:], strict=False)]


def cut_out(text: str, span: tuple[int, int], unit: str) -> str:
    """The part of a text that a span in `unit` names."""
    start, end = span
    if unit == "code_point":
        return text[start:end]
    if unit == "utf8_byte":
        return text.encode()[start:end].decode()
    return text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le")


def test_ids_spans_and_masks_are_those_of_the_library(tokenizer: Tokenizer, library: Library) -> None:
    batch = tokenizer.encode(TEXTS, spans="code_point")
    wanted = library.encode_batch(TEXTS)
    assert rows(batch, batch.ids) == [encoding.ids for encoding in wanted]
    assert rows(batch, batch.type_ids) == [encoding.type_ids for encoding in wanted]
    assert [[tuple(span) for span in row] for row in rows(batch, batch.spans)] == [encoding.offsets for encoding in wanted]
    assert rows(batch, batch.special_tokens_mask) == [[bool(special) for special in encoding.special_tokens_mask] for encoding in wanted]
    assert batch.token_counts.tolist() == [len(encoding.ids) for encoding in wanted]


@settings(deadline=None)
@given(st.lists(ANY_TEXT, max_size=5))
def test_any_text_gives_the_ids_of_the_library(tokenizer: Tokenizer, library: Library, texts: list[str]) -> None:
    batch = tokenizer.encode(texts)
    assert rows(batch, batch.ids) == [encoding.ids for encoding in library.encode_batch(texts)]


@settings(deadline=None)
@given(ANY_TEXT)
def test_spans_cut_the_same_words_out_in_every_unit(tokenizer: Tokenizer, text: str) -> None:
    cut = {}
    for unit in ("code_point", "utf8_byte", "utf16_unit"):
        batch = tokenizer.encode([text], spans=unit)
        cut[unit] = [cut_out(text, span, unit) for span in batch.spans.tolist()]
    assert cut["code_point"] == cut["utf8_byte"] == cut["utf16_unit"]


def test_spans_of_bytes_inside_a_character_cover_the_character() -> None:
    # A byte-level tokenizer that was trained on ASCII gives each byte of an emoji a token of its own.
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(["plain text"], trainers.BpeTrainer(show_progress=False, initial_alphabet=alphabet))
    tokenizer = Tokenizer(library.to_str())
    text = "a 😀é b"
    wanted = library.encode(text).offsets
    assert [tuple(span) for span in tokenizer.encode([text], spans="code_point").spans.tolist()] == wanted
    for unit in ("utf8_byte", "utf16_unit"):
        spans = tokenizer.encode([text], spans=unit).spans.tolist()
        assert [cut_out(text, span, unit) for span in spans] == [text[start:end] for start, end in wanted]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("max_tokens", [3, 4, 7, 16, 128, 200])
def test_truncated_ids_are_those_of_transformers(tokenizer: Tokenizer, auto_tokenizer: Any, side: str, max_tokens: int) -> None:
    auto_tokenizer.truncation_side = side
    batch = tokenizer.encode(TEXTS, max_tokens=max_tokens, truncation_side=side)
    wanted = auto_tokenizer(TEXTS, truncation=True, max_length=max_tokens)
    assert rows(batch, batch.ids) == wanted["input_ids"]
    assert rows(batch, batch.type_ids) == wanted["token_type_ids"]
    assert batch.token_counts.tolist() == [len(ids) for ids in auto_tokenizer(TEXTS, truncation=False, verbose=False)["input_ids"]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("max_tokens", [4, 5, 8, 9, 31, 200])
def test_truncated_pairs_are_those_of_transformers(tokenizer: Tokenizer, auto_tokenizer: Any, side: str, max_tokens: int) -> None:
    auto_tokenizer.truncation_side = side
    texts = [text for text in TEXTS for _ in TEXTS]
    pairs = TEXTS * len(TEXTS)
    batch = tokenizer.encode(texts, pairs, max_tokens=max_tokens, truncation_side=side)
    wanted = auto_tokenizer(texts, pairs, truncation="longest_first", max_length=max_tokens)
    assert rows(batch, batch.ids) == wanted["input_ids"]
    assert rows(batch, batch.type_ids) == wanted["token_type_ids"]


def test_pairs_have_two_segments_and_spans_of_their_own_text(tokenizer: Tokenizer, library: Library) -> None:
    pairs = TEXTS[::-1]
    wanted = library.encode_batch(list(zip(TEXTS, pairs, strict=True)))
    batch = tokenizer.encode(TEXTS, pairs, spans="code_point")
    assert rows(batch, batch.type_ids) == [encoding.type_ids for encoding in wanted]
    assert [[tuple(span) for span in row] for row in rows(batch, batch.spans)] == [encoding.offsets for encoding in wanted]
    units = tokenizer.encode(TEXTS, pairs, spans="utf16_unit")
    for points, utf16, kinds, text, pair in zip(
        rows(batch, batch.spans), rows(units, units.spans), rows(batch, batch.type_ids), TEXTS, pairs, strict=True
    ):
        for point, unit, kind in zip(points, utf16, kinds, strict=True):
            source = pair if kind else text
            assert cut_out(source, unit, "utf16_unit") == cut_out(source, point, "code_point")


def test_special_tokens_can_be_left_out(tokenizer: Tokenizer, library: Library) -> None:
    batch = tokenizer.encode(TEXTS, add_special_tokens=False, max_tokens=5)
    wanted = [encoding.ids for encoding in library.encode_batch(TEXTS, add_special_tokens=False)]
    assert rows(batch, batch.ids) == [ids[:5] for ids in wanted]
    assert batch.token_counts.tolist() == [len(ids) for ids in wanted]


@pytest.mark.parametrize("spans", [None, "utf8_byte"])
def test_two_threads_give_what_one_gives(tokenizer: Tokenizer, spans: Any) -> None:
    texts = TEXTS * 40
    one, two = (tokenizer.encode(texts, max_tokens=50, spans=spans, threads=threads) for threads in (1, 2))
    for name in ("ids", "type_ids", "offsets", "token_counts", "sources", "spans", "special_tokens_mask", "sequence_ids", "word_ids"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_arrays_have_the_promised_types_and_shapes(tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode(["a b", "c"], spans="code_point")
    found = {name: (getattr(batch, name).dtype, getattr(batch, name).shape) for name in ("ids", "type_ids", "offsets", "token_counts")}
    assert found == {
        "ids": (np.int32, (7,)),
        "type_ids": (np.int32, (7,)),
        "offsets": (np.int64, (3,)),
        "token_counts": (np.int64, (2,)),
    }
    assert (batch.spans.dtype, batch.spans.shape) == (np.uint32, (7, 2))
    assert (batch.special_tokens_mask.dtype, batch.special_tokens_mask.shape) == (np.bool_, (7,))
    assert (batch.sources.dtype, batch.sources.tolist()) == (np.int64, [0, 1])
    assert (batch.sequence_ids.dtype, batch.sequence_ids.tolist()) == (np.int8, [-1, 0, 0, -1, -1, 0, -1])
    assert (batch.word_ids.dtype, batch.word_ids.tolist()) == (np.int32, [-1, 0, 1, -1, -1, 0, -1])
    without = tokenizer.encode(["a b"])
    assert without.spans is without.special_tokens_mask is without.sequence_ids is without.word_ids is None


def test_no_texts_give_an_empty_batch(tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode([], spans="code_point")
    assert (batch.ids.shape, batch.offsets.tolist(), batch.spans.shape) == ((0,), [0], (0, 2))


def test_an_empty_text_has_its_special_tokens_alone(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([""]).ids.tolist() == [101, 102]
    assert tokenizer.encode([""], [""]).ids.tolist() == [101, 102, 102]


def test_a_very_long_text_is_cut_and_counted(tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode(["word " * 200_000], max_tokens=512)
    assert (len(batch.ids), batch.token_counts.tolist()) == (512, [200_002])


def test_any_sequence_of_str_is_taken(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(("a", "b")).ids.tolist() == tokenizer.encode(["a", "b"]).ids.tolist()


@pytest.mark.parametrize("texts", ["a text", [b"bytes"], [None], 7, None, {"a": 1}, iter(["a"])], ids=repr)
def test_what_is_no_sequence_of_str_is_a_type_error(tokenizer: Tokenizer, texts: Any) -> None:
    with pytest.raises(TypeError, match="texts"):
        tokenizer.encode(texts)


class Claiming(Sequence[str]):
    """Two texts that say of themselves to be more."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return ["a", "b"][index]


@pytest.mark.parametrize("length", [0, 2**42, 2**62])
def test_the_length_of_a_sequence_is_not_trusted(tokenizer: Tokenizer, length: int) -> None:
    assert tokenizer.encode(Claiming(length)).ids.tolist() == tokenizer.encode(["a", "b"]).ids.tolist()
    assert tokenizer.encode(["a", "b"], Claiming(length)).ids.tolist() == tokenizer.encode(["a", "b"], ["a", "b"]).ids.tolist()
    with pytest.raises(TypeError, match="texts"):
        tokenizer.encode(range(length or 1))  # type: ignore[arg-type] # what is tested


def test_json_is_taken_as_str_and_as_bytes(tokenizer_json: str) -> None:
    assert Tokenizer(tokenizer_json.encode()).encode(["a"]).ids.tolist() == Tokenizer(tokenizer_json).encode(["a"]).ids.tolist()
    with pytest.raises(TypeError, match="json"):
        Tokenizer(7)  # type: ignore[arg-type] # what is tested


def test_special_tokens_and_the_vocabulary_are_counted(tokenizer: Tokenizer) -> None:
    assert (tokenizer.count_special_tokens(), tokenizer.count_special_tokens(pair=True), tokenizer.vocab_size) == (2, 3, 30522)


@pytest.mark.parametrize("add_special_tokens", [True, False])
@pytest.mark.parametrize("pair", [True, False])
def test_a_limit_without_room_for_a_token_is_refused(tokenizer: Tokenizer, add_special_tokens: bool, pair: bool) -> None:
    pairs = ["b"] if pair else None
    special = tokenizer.count_special_tokens(pair) if add_special_tokens else 0
    with pytest.raises(NativeError) as caught:
        tokenizer.encode(["a"], pairs, add_special_tokens=add_special_tokens, max_tokens=special)
    assert (caught.value.reason, caught.value.index) == ("out_of_range", None)
    assert len(tokenizer.encode(["a"], pairs, add_special_tokens=add_special_tokens, max_tokens=special + 1).ids) == special + 1


def test_other_threads_run_while_texts_are_tokenized(tokenizer: Tokenizer) -> None:
    texts = ["a text of several words that takes a while " * 50] * 500
    ended = threading.Event()
    gaps: list[float] = []

    def tick() -> None:
        last = time.perf_counter()
        while not ended.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticker = threading.Thread(target=tick)
    ticker.start()
    started = time.perf_counter()
    tokenizer.encode(texts)
    took = time.perf_counter() - started
    ended.set()
    ticker.join()
    # Held throughout, the GIL would leave one gap as long as the call.
    assert len(gaps) > 10
    assert max(gaps) < took / 2


def test_one_tokenizer_serves_many_threads(tokenizer: Tokenizer) -> None:
    wanted = tokenizer.encode(TEXTS, max_tokens=20).ids.tolist()
    found: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: found.append(tokenizer.encode(TEXTS, max_tokens=20, threads=2).ids.tolist())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 8


def test_the_library_here_is_of_the_version_that_the_core_is_built_with() -> None:
    # The comparisons of this file mean something between neighbouring versions only.
    assert tokenizers.__version__.startswith("0.23.")
