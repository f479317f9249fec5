"""Positions in other units, and what stands before a token."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hubwire_server.tasks.spans import code_points, convert_spans, follows_no_space, repeat_rows

CHARACTERS = "az \t~é\u0301ñßא\u05d1ع敏捷\uffff\U00010000🦊👍🏽\U0010ffff"


def make_text(seed: int) -> str:
    """A text of characters of every width, short enough to try all of its positions."""
    return "".join(random.Random(seed).choices(CHARACTERS, k=random.Random(seed).randint(0, 20)))


@pytest.mark.parametrize(
    ("unit", "encoding", "size"), [("utf8_byte", "utf-8", 1), ("utf16_unit", "utf-16-le", 2), ("code_point", "utf-32-le", 4)]
)
def test_positions_are_those_of_the_encoded_text(unit, encoding, size):
    for seed in range(200):
        text = make_text(seed)
        spans = np.array([(start, end) for start in range(len(text) + 1) for end in range(start, len(text) + 1)])
        encoded = text.encode(encoding)
        for (start, end), (low, high) in zip(spans.tolist(), convert_spans(text, spans, unit).tolist(), strict=True):
            assert encoded[low * size : high * size].decode(encoding) == text[start:end]


def test_ascii_and_code_points_are_left_alone():
    spans = np.array([[0, 3], [4, 7]])
    assert convert_spans("one two", spans, "utf8_byte") is spans
    assert convert_spans("🦊ne two", spans, "code_point") is spans


def test_a_text_without_characters_has_one_position():
    assert convert_spans("", np.array([0]), "utf8_byte").tolist() == [0]
    assert code_points("").tolist() == []
    assert code_points("a🦊").tolist() == [0x61, 0x1F98A]


def test_a_space_before_a_token_or_as_its_first_character_ends_a_word():
    texts = ["", *(make_text(seed) for seed in range(300)), " ", ""]
    places = [(source, start) for source, text in enumerate(texts) for start in range(len(text) + 1)]
    sources, starts = np.array(places).T
    expected = [start > 0 and " " not in texts[source][start - 1 : start + 1] for source, start in places]
    assert follows_no_space(texts, sources, starts).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_rows_are_repeated_for_their_tokens():
    assert repeat_rows(np.array([5, 6, 7]), np.array([0, 2, 2, 3])).tolist() == [5, 5, 7]
