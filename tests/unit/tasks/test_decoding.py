"""From ids to texts."""

from __future__ import annotations

import numpy as np
import pytest

from hubwire_server._native import Tokenizer
from hubwire_server.tasks.decoding import decode, known_ids, offsets_of, vocabulary_entries
from tests.unit.tasks.decoding_models import make_ready, word_pieces


@pytest.mark.parametrize(("clean", "expected"), [(False, "the isn ' t fox."), (True, "the isn't fox.")])
def test_spaces_are_cleaned_up_where_the_tokenizer_is_set_to(clean, expected):
    model = make_ready(word_pieces(), mask_token="[MASK]", clean_up_spaces=clean)
    batch = model.tokenizer.encode(["the isn't fox."])
    assert decode(model, batch.ids, batch.offsets, skip_special_tokens=True) == [expected]


def test_ids_that_the_vocabulary_lacks_have_no_entry():
    tokenizer = Tokenizer(word_pieces())
    ids = np.array([5, 99, 6, 13])
    assert known_ids(tokenizer, ids).tolist() == [True, False, True, False]
    assert vocabulary_entries(tokenizer, ids.astype(np.int32)) == ["the", "", "fox", ""]
    assert vocabulary_entries(tokenizer, np.array([7], np.int32)) == ["##s"]
    assert vocabulary_entries(tokenizer, np.zeros(0, np.int32)) == []


def test_offsets_begin_at_nothing_and_end_at_all():
    assert offsets_of([2, 0, 3]).tolist() == [0, 2, 2, 5]
    assert offsets_of([]).tolist() == [0]
