"""Windows of long texts, words, and the way back from ids, against transformers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from hubwire_server._native import NativeError, Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Größe, naïve café, coöperation, Ångström; Москва слезам не верит.",
    "Who wrote the book? The book was written by a person whom nobody knows.",
    "emoji 😀😃 and 👩‍👩‍👧‍👦 and 🇩🇪 flags, 東京は日本の首都です。",
]
CONTEXTS = [" ".join(CORPUS) * 3, "short", "", "a " * 90, "supercalifragilistic" * 8, "مرحبا بالعالم " * 9 + "e\u0301 𝔘𝔫𝔦"]
QUESTIONS = ["Who wrote it?", "", "What is naïve?", "😀", "one two three", "and why?"]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def byte_pair(post_processor: Any, add_prefix_space: bool) -> Library:
    """A byte-level tokenizer, as of RoBERTa and GPT-2."""
    library = Library(models.BPE(unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    library.train_from_iterator(
        CORPUS, trainers.BpeTrainer(show_progress=False, vocab_size=400, initial_alphabet=alphabet, special_tokens=names)
    )
    library.post_processor = post_processor
    return library


def unigram() -> Library:
    """A sentencepiece-like tokenizer, as of XLM-R and DeBERTa."""
    library = Library(models.Unigram())
    library.normalizer = normalizers.NFKC()
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    library.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(show_progress=False, vocab_size=150, unk_token="<unk>", special_tokens=names)
    )
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return library


def fast(kind: str, folder: Path) -> Any:
    """A fast tokenizer of transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # What its import warns of is not ours.
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if kind == "bert":
        return AutoTokenizer.from_pretrained(folder)
    library = {
        "roberta": lambda: byte_pair(processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True), True),
        "byte_level": lambda: byte_pair(processors.ByteLevel(trim_offsets=False), False),
        "unigram": unigram,
    }[kind]()
    return PreTrainedTokenizerFast(tokenizer_object=library, **SPECIAL, mask_token="<mask>")


@pytest.fixture(scope="module", params=["bert", "roberta", "byte_level", "unigram"])
def both(request: pytest.FixtureRequest, model_folder: Path) -> tuple[Any, Tokenizer]:
    """A tokenizer of transformers, and ours out of its JSON form."""
    reference = fast(request.param, model_folder)
    return reference, Tokenizer(reference.backend_tokenizer.to_str())


def rows(batch: Any, values: np.ndarray) -> list[list[Any]]:
    """The values of each row."""
    return [values[start:end].tolist() for start, end in zip(batch.offsets, batch.offsets[1:], strict=False)]


def numbers(values: list[int | None]) -> list[int]:
    """The values, with -1 for None."""
    return [-1 if value is None else value for value in values]


def assert_same(batch: Any, wanted: Any) -> None:
    """That a batch has the rows that transformers made."""
    count = len(wanted["input_ids"])
    assert rows(batch, batch.ids) == wanted["input_ids"]
    if "token_type_ids" in wanted:
        assert rows(batch, batch.type_ids) == wanted["token_type_ids"]
    assert [[tuple(span) for span in row] for row in rows(batch, batch.spans)] == wanted["offset_mapping"]
    assert rows(batch, batch.special_tokens_mask) == [[bool(mark) for mark in row] for row in wanted["special_tokens_mask"]]
    assert rows(batch, batch.sequence_ids) == [numbers(wanted.sequence_ids(row)) for row in range(count)]
    assert rows(batch, batch.word_ids) == [numbers(wanted.word_ids(row)) for row in range(count)]
    if "overflow_to_sample_mapping" in wanted:
        assert batch.sources.tolist() == wanted["overflow_to_sample_mapping"]


OUTPUTS: dict[str, Any] = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
WINDOWS: dict[str, Any] = {**OUTPUTS, "return_overflowing_tokens": True}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("max_tokens", "stride"), [(16, 0), (16, 5), (24, 11), (40, 33), (500, 128)])
def test_windows_of_single_texts_are_those_of_transformers(both: Any, side: Any, max_tokens: int, stride: int) -> None:
    reference, tokenizer = both
    reference.truncation_side = side
    wanted = reference(CONTEXTS, truncation=True, max_length=max_tokens, stride=stride, **WINDOWS)
    assert_same(tokenizer.encode(CONTEXTS, max_tokens=max_tokens, truncation_side=side, stride=stride, spans="code_point"), wanted)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("truncation", ["only_first", "only_second"])
@pytest.mark.parametrize(("max_tokens", "stride"), [(60, 0), (60, 9), (72, 20), (600, 128)])
def test_windows_of_pairs_are_those_of_transformers(both: Any, side: Any, truncation: Any, max_tokens: int, stride: int) -> None:
    reference, tokenizer = both
    reference.truncation_side = side
    pair = (QUESTIONS, CONTEXTS) if truncation == "only_second" else (CONTEXTS, QUESTIONS)
    wanted = reference(*pair, truncation=truncation, max_length=max_tokens, stride=stride, **WINDOWS)
    batch = tokenizer.encode(
        *pair, max_tokens=max_tokens, truncation_side=side, truncation=truncation, stride=stride, spans="code_point", threads=2
    )
    assert_same(batch, wanted)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(CONTEXTS), st.sampled_from(CONTEXTS)), min_size=1, max_size=3),
    st.integers(8, 90),
    st.integers(0, 3),
    st.sampled_from(["left", "right"]),
)
def test_windows_of_both_texts_of_a_pair_come_in_the_order_of_transformers(
    model_folder: Path, pairs: list[tuple[str, str]], max_tokens: int, stride: int, side: Any
) -> None:
    reference = fast("bert", model_folder)
    reference.truncation_side = side
    tokenizer = Tokenizer(reference.backend_tokenizer.to_str())
    texts, others = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    # Where the stride leaves no progress the library panics, and we refuse.
    assume(stride < (max_tokens - 3) // 2)
    wanted = reference(texts, others, truncation=True, max_length=max_tokens, stride=stride, **WINDOWS)
    assert_same(tokenizer.encode(texts, others, max_tokens=max_tokens, truncation_side=side, stride=stride, spans="code_point"), wanted)


@pytest.mark.parametrize("unit", ["utf8_byte", "utf16_unit"])
def test_spans_of_windows_have_the_unit_asked_for(both: Any, unit: Any) -> None:
    _, tokenizer = both
    options: dict[str, Any] = {"max_tokens": 60, "truncation": "only_second", "stride": 10}
    points = tokenizer.encode(QUESTIONS, CONTEXTS, spans="code_point", **options)
    units = tokenizer.encode(QUESTIONS, CONTEXTS, spans=unit, **options)
    encoding, width = ("utf-8", 1) if unit == "utf8_byte" else ("utf-16-le", 2)
    row_of = np.repeat(points.sources, np.diff(points.offsets))
    for source, sequence, point, other in zip(row_of, points.sequence_ids, points.spans.tolist(), units.spans.tolist(), strict=True):
        text = (CONTEXTS if sequence == 1 else QUESTIONS)[source]
        cut = text.encode(encoding)[other[0] * width : other[1] * width].decode(encoding)
        assert cut == text[point[0] : point[1]]


def test_every_window_knows_the_length_of_its_text(both: Any) -> None:
    _, tokenizer = both
    whole = tokenizer.encode(CONTEXTS)
    batch = tokenizer.encode(CONTEXTS, max_tokens=20, stride=4)
    assert batch.token_counts.tolist() == np.diff(whole.offsets)[batch.sources].tolist()
    assert len(batch.sources) > len(CONTEXTS)
    assert whole.sources.tolist() == list(range(len(CONTEXTS)))


def test_texts_that_are_cut_on_one_side_are_those_of_transformers(both: Any) -> None:
    reference, tokenizer = both
    reference.truncation_side = "right"
    for truncation, pair in (("only_second", (QUESTIONS, CONTEXTS)), ("only_first", (CONTEXTS, QUESTIONS))):
        wanted = reference(*pair, truncation=truncation, max_length=60, **OUTPUTS)
        assert_same(tokenizer.encode(*pair, truncation=truncation, max_tokens=60, spans="code_point"), wanted)  # type: ignore[arg-type] # a literal


def test_a_stride_without_progress_is_refused(tokenizer: Tokenizer) -> None:
    cases: list[tuple[dict[str, Any], int | None]] = [
        ({"texts": ["a"], "max_tokens": 10, "stride": 8}, None),
        ({"texts": ["a", "b c d e f"], "pairs": ["b", "a " * 20], "truncation": "only_second", "max_tokens": 12, "stride": 4}, 1),
        ({"texts": ["a", "a " * 20], "pairs": ["b", "c"], "truncation": "only_second", "max_tokens": 12, "stride": 0}, 1),
        ({"texts": ["a", "b"], "pairs": ["b", "a " * 20], "truncation": "only_first", "max_tokens": 12}, 1),
    ]
    for options, index in cases:
        with pytest.raises(NativeError) as caught:
            tokenizer.encode(**options)
        assert (caught.value.reason, caught.value.index) == ("out_of_range", index), options
    assert tokenizer.encode(["a " * 20], max_tokens=10, stride=7).offsets.size == 14


WORD = st.text(st.sampled_from("abcé日😀\u0301'#- Ä"), max_size=6)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(WORD, max_size=30), min_size=1, max_size=4))
def test_words_are_those_of_transformers(both: Any, words: list[list[str]]) -> None:
    reference, tokenizer = both
    reference.truncation_side = "right"
    wanted = reference(words, is_split_into_words=True, **OUTPUTS)
    assert_same(tokenizer.encode_words(words, spans="code_point"), wanted)
    wanted = reference(words, is_split_into_words=True, truncation=True, max_length=12, stride=3, **WINDOWS)
    assert_same(tokenizer.encode_words(words, max_tokens=12, stride=3, spans="code_point"), wanted)


def test_spans_of_words_are_inside_of_the_word(tokenizer: Tokenizer) -> None:
    words = ["naïve", "😀😀a", "plain"]
    for unit, encoding, width in (("utf8_byte", "utf-8", 1), ("utf16_unit", "utf-16-le", 2)):
        batch = tokenizer.encode_words([words], spans=unit)  # type: ignore[arg-type] # a literal
        points = tokenizer.encode_words([words], spans="code_point")
        for word, point, span in zip(batch.word_ids, points.spans.tolist(), batch.spans.tolist(), strict=True):
            if word >= 0:
                assert words[word].encode(encoding)[span[0] * width : span[1] * width].decode(encoding) == words[word][point[0] : point[1]]


def test_no_words_give_special_tokens_alone(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_words([[], ["a"]]).ids.tolist() == [101, 102, 101, 1037, 102]
    assert tokenizer.encode_words([]).offsets.tolist() == [0]


@pytest.mark.parametrize("words", ["a text", ["a text"], [["a"], None], [[b"a"]], None], ids=repr)
def test_what_are_no_lists_of_words_is_a_type_error(tokenizer: Tokenizer, words: Any) -> None:
    with pytest.raises(TypeError, match="words"):
        tokenizer.encode_words(words)


@pytest.mark.parametrize("skip", [True, False])
def test_ids_become_the_texts_of_transformers(both: Any, skip: bool) -> None:
    reference, tokenizer = both
    batch = tokenizer.encode(CONTEXTS + QUESTIONS)
    wanted = reference.backend_tokenizer.decode_batch(rows(batch, batch.ids), skip_special_tokens=skip)
    assert tokenizer.decode(batch.ids, batch.offsets, skip_special_tokens=skip) == wanted
    assert tokenizer.decode(np.array([], np.int32), np.array([0, 0]), skip_special_tokens=skip) == [""]


def test_tokens_and_their_lengths_are_those_of_transformers(both: Any) -> None:
    reference, tokenizer = both
    ids = np.arange(len(reference), dtype=np.int32)
    tokens = reference.convert_ids_to_tokens(ids.tolist())
    assert tokenizer.tokens(ids) == tokens
    assert tokenizer.token_lengths().tolist() == [len(token) for token in tokens]
    assert [tokenizer.token_to_id(token) for token in tokens] == ids.tolist()
    assert tokenizer.token_to_id("no such token") is None


def test_the_lengths_are_one_array_that_nobody_changes(tokenizer: Tokenizer) -> None:
    lengths = tokenizer.token_lengths()
    assert tokenizer.token_lengths() is lengths
    assert (lengths.dtype, lengths.shape) == (np.int32, (30522,))
    with pytest.raises(ValueError, match="read-only"):
        lengths[0] = 1
