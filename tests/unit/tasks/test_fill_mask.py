"""The fill-mask task: masks in a batch, words to choose from, and the sequences with each in its place."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from hubwire_server._native import Tokenizer
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.tasks import fill_mask
from hubwire_server.tasks.fill_mask import FillMaskOptions, FillMaskRequest, FillMaskTask, find_masks, target_ids, write_candidates
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, TextLimits, Texts
from hubwire_server.testing import running_server
from tests.unit.tasks.decoding_models import byte_level, make_ready, word_pieces

CALLER = Caller(client="test")


@pytest.fixture
async def task() -> AsyncIterator[FillMaskTask]:
    """The task with a worker of the fake model behind it."""
    async with running_server(task=Task.FILL_MASK) as server:
        texts = Texts(TextLimits(max_texts=2_000, max_text_bytes=1_000, max_request_bytes=1_000_000), threads=1)
        yield FillMaskTask(TextTask(server.app.registry, server.app.dispatcher, texts))
        texts.close()


def test_masks_are_found_in_each_text():
    tokenizer = Tokenizer(word_pieces())
    mask_id = tokenizer.token_to_id("[MASK]")
    batch = tokenizer.encode(["[MASK] fox", "fox", "the [MASK] [MASK]", "[MASK]"])
    masks = find_masks(batch, mask_id)
    assert masks.offsets.tolist() == [0, 1, 1, 3, 4]
    assert masks.texts.tolist() == [0, 2, 2, 3]
    assert (batch.ids[masks.positions] == mask_id).all()
    assert (batch.ids == mask_id).sum() == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the [MASK] sleeps", ["the fox sleeps", "thes sleeps", "the sleeps", "the. sleeps"]),
        ("[MASK] the [MASK]", ["fox the [MASK]", "##s the [MASK]", "[SEP] the [MASK]", ". the [MASK]"]),
        ("[MASK] [SEP] fox", ["fox fox", "##s fox", "fox", ". fox"]),
        ("[MASK] [SEP] [MASK]", ["fox [SEP] [MASK]", "##s [SEP] [MASK]", "[SEP] [SEP] [MASK]", ". [SEP] [MASK]"]),
    ],
)
def test_a_sequence_has_the_token_in_place_of_its_mask(text, expected):
    model = make_ready(word_pieces(), mask_token="[MASK]")
    tokenizer = model.tokenizer
    batch = tokenizer.encode(["the fox", text], spans="code_point")
    masks = find_masks(batch, tokenizer.token_to_id("[MASK]"))
    candidates = [tokenizer.token_to_id(token) for token in ("fox", "##s", "[SEP]", ".")]
    ids = np.array([candidates] * len(masks.positions), dtype=np.int32)
    tokens, sequences = write_candidates(model, batch, masks, ids)
    assert tokens[:4] == ["fox", "##s", "[SEP]", "."]
    assert sequences[:4] == expected


def test_a_token_is_without_the_space_before_it_and_its_sequence_with_it():
    model = make_ready(byte_level(), mask_token="<mask>")
    tokenizer = model.tokenizer
    batch = tokenizer.encode(["the<mask>"], spans="code_point")
    masks = find_masks(batch, tokenizer.token_to_id("<mask>"))
    ids = np.array([[tokenizer.token_to_id("Ġfox"), tokenizer.token_to_id("fox")]], dtype=np.int32)
    assert write_candidates(model, batch, masks, ids) == (["fox", "fox"], ["the fox", "thefox"])


def test_a_word_is_an_entry_of_the_vocabulary_or_one_token():
    pieces = make_ready(word_pieces(), mask_token="[MASK]")
    ids = {token: pieces.tokenizer.token_to_id(token) for token in ("the", "fox", "##s", "[UNK]")}
    assert target_ids(pieces, ["fox", "##s", "the"]).tolist() == sorted([ids["fox"], ids["##s"], ids["the"]])
    assert target_ids(pieces, ["[UNK]"]).tolist() == [ids["[UNK]"]]
    assert target_ids(pieces, ["FOX"]).tolist() == [ids["fox"]]  # the tokenizer lowers it
    assert target_ids(pieces, ["fox", "FOX"]).tolist() == [ids["fox"]]
    bytes_ = make_ready(byte_level(), mask_token="<mask>")
    assert bytes_.tokenizer.token_to_id("sleeps") is None
    assert target_ids(bytes_, ["sleeps"]).tolist() == [bytes_.tokenizer.token_to_id("Ġsleeps")]


@pytest.mark.parametrize(("targets", "index"), [(["fox", "foxs"], 1), (["unknown"], 0), (["the fox"], 0), (["fox", "  "], 1)])
def test_what_is_not_one_token_is_refused(targets, index):
    with pytest.raises(HubwireError) as caught:
        target_ids(make_ready(word_pieces(), mask_token="[MASK]"), targets)
    error = caught.value
    assert (error.reason, error.field, error.metadata) == (
        Reason.TARGET_NOT_FOUND,
        f"options.targets[{index}]",
        {"value": targets[index]},
    )


def test_a_token_that_the_head_has_no_column_for_is_refused():
    model = make_ready(word_pieces(), mask_token="[MASK]", vocabulary_size=5)
    assert model.tokenizer.token_to_id(".") >= 5
    with pytest.raises(HubwireError, match="not one token"):
        target_ids(model, ["."])


async def test_a_model_without_a_mask_token_says_so():
    async with running_server(task=Task.FILL_MASK, description={"tokenizer": {"special_ids": [1, 2]}}) as server:
        texts = Texts(TextLimits(max_texts=10, max_text_bytes=1_000, max_request_bytes=1_000), threads=1)
        with pytest.raises(HubwireError, match="no mask token") as caught:
            await FillMaskTask(TextTask(server.app.registry, server.app.dispatcher, texts)).plan("", FillMaskOptions())
        assert caught.value.reason is Reason.MODEL_NOT_SUPPORTED
        texts.close()


@pytest.mark.parametrize(
    ("options", "top_k"),
    [({}, 5), ({"top_k": 1_000}, 1_000), ({"targets": ("w1", "w2")}, 2), ({"targets": ("w1", "w2"), "top_k": 1}, 1)],
)
async def test_the_number_of_tokens_is_settled_before_texts_are_batched(task, options, top_k):
    plan = await task.plan("", FillMaskOptions(**options))
    assert (plan.top_k, plan.key.option) == (top_k, str(top_k))


async def test_an_answer_may_hold_so_many_tokens_and_no_more(task, monkeypatch):
    request = FillMaskRequest(texts=["w1 [MASK]", "[MASK] [MASK] w2"], options=FillMaskOptions(top_k=3))
    size = 3 * (1 * 4 + 2 * 5)
    monkeypatch.setattr(fill_mask, "MAX_SEQUENCE_TOKENS", size)
    assert len((await task.fill_mask(request, CALLER)).sequences) == 9
    monkeypatch.setattr(fill_mask, "MAX_SEQUENCE_TOKENS", size - 1)
    with pytest.raises(HubwireError) as caught:
        await task.fill_mask(request, CALLER)
    assert (caught.value.reason, caught.value.metadata) == (Reason.TOO_MANY_TEXTS, {"count": "2", "limit": "1"})


async def test_what_is_written_in_a_thread_is_the_same(task, monkeypatch):
    request = FillMaskRequest(texts=["w1 [MASK]", "[MASK] [MASK] w2"])
    inline = await task.fill_mask(request, CALLER)
    monkeypatch.setattr(fill_mask, "INLINE_DECODE_TOKENS", 0)
    threaded = await task.fill_mask(request, CALLER)
    assert (inline.tokens, inline.sequences) == (threaded.tokens, threaded.sequences)
