"""The tokenization task without a server: what it gives, and where it works."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.registry import Registry
from hubwire_server.tasks import texts as texts_module
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import TextLimits, Texts, Truncation
from hubwire_server.tasks.tokenization import CountTokensRequest, DetokenizeRequest, TokenizationTask, TokenizeOptions, TokenizeRequest
from tests.unit.tasks.decoding_models import make_ready, word_pieces


class OneModel(Registry):
    """A registry whose requests are all for one model."""

    def ready(self, name, task, *, field="model"):
        assert task is None
        return make_ready(word_pieces(), mask_token="[MASK]", clean_up_spaces=True)


@pytest.fixture
def task() -> Iterator[TokenizationTask]:
    texts = Texts(TextLimits(max_texts=100, max_text_bytes=1_000, max_request_bytes=10_000), threads=1)
    # Nothing here is computed by a worker, so that there is none.
    yield TokenizationTask(TextTask(OneModel(), None, texts))
    texts.close()


async def test_tokens_come_with_their_places_unless_only_ids_are_asked_for(task):
    result = await task.tokenize(TokenizeRequest(texts=["The foxs", ""]))
    assert result.tokens == ["[CLS]", "the", "fox", "##s", "[SEP]", "[CLS]", "[SEP]"]
    assert result.batch.spans[1:4].tolist() == [[0, 3], [4, 7], [7, 8]]
    assert (result.usage.input_tokens, result.usage.truncated_texts) == (7, 0)
    bare = await task.tokenize(TokenizeRequest(texts=["The foxs", ""], options=TokenizeOptions(ids_only=True)))
    assert bare.tokens is None
    assert bare.batch.spans is None
    assert bare.batch.ids.tolist() == result.batch.ids.tolist()


async def test_a_text_that_is_cut_is_counted(task):
    options = TokenizeOptions(truncation=Truncation(max_tokens=3), skip_special_tokens=True)
    result = await task.tokenize(TokenizeRequest(texts=["the fox sleeps .", "the"], options=options))
    assert result.tokens == ["the", "fox", "sleeps", "the"]
    assert result.batch.token_counts.tolist() == [4, 1]
    assert result.usage.truncated_texts == 1


async def test_ids_become_texts_as_transformers_cleans_them(task):
    ids = (await task.tokenize(TokenizeRequest(texts=["the isn't fox.", "foxs"]))).batch
    rows = [ids.ids[low:high].astype(np.int64) for low, high in zip(ids.offsets[:-1], ids.offsets[1:], strict=True)]
    assert (await task.detokenize(DetokenizeRequest(ids=rows))).texts == ["the isn't fox.", "foxs"]
    kept = await task.detokenize(DetokenizeRequest(ids=rows, keep_special_tokens=True))
    assert kept.texts == ["[CLS] the isn't fox. [SEP]", "[CLS] foxs [SEP]"]


@pytest.mark.parametrize(("ids", "field"), [([[5], [6, 13]], "texts[1].token_ids[1]"), ([[], [2**32 - 1, 5]], "texts[1].token_ids[0]")])
async def test_an_id_that_the_vocabulary_lacks_is_named_by_its_place(task, ids, field):
    with pytest.raises(HubwireError) as caught:
        await task.detokenize(DetokenizeRequest(ids=[np.array(row, dtype=np.int64) for row in ids]))
    error = caught.value
    assert (error.reason, error.field, error.metadata) == (Reason.VALUE_OUT_OF_RANGE, field, {"minimum": "0", "maximum": "12"})


async def test_large_requests_are_worked_on_in_a_thread(task, monkeypatch):
    seen = []

    def run(executor, work):
        seen.append(executor)
        return original(executor, work)

    loop = asyncio.get_running_loop()
    original = loop.run_in_executor
    monkeypatch.setattr(loop, "run_in_executor", run)
    texts = ["the fox"] * 4
    inline = (await task.tokenize(TokenizeRequest(texts=texts))).tokens
    assert (await task.count(CountTokensRequest(texts=texts))).counts.tolist() == [4] * 4
    assert seen == []
    monkeypatch.setattr(texts_module, "INLINE_TOKENIZE_CHARACTERS", 10)
    assert (await task.tokenize(TokenizeRequest(texts=texts))).tokens == inline
    assert (await task.count(CountTokensRequest(texts=texts))).counts.tolist() == [4] * 4
    assert len(seen) == 2


async def test_pairs_are_as_many_as_texts_and_may_be_empty(task):
    assert (await task.count(CountTokensRequest(texts=["the", ""], pairs=["", "fox"], skip_special_tokens=True))).counts.tolist() == [1, 1]
    calls = (
        task.count(CountTokensRequest(texts=["a", "b"], pairs=["c"])),
        task.tokenize(TokenizeRequest(texts=["a"], pairs=["b", "c"])),
    )
    for call in calls:
        with pytest.raises(HubwireError) as caught:
            await call
        assert (caught.value.reason, caught.value.field) == (Reason.COUNT_MISMATCH, "text_pairs")


@pytest.mark.parametrize(
    ("method", "kind", "name"), [("tokenize", TokenizeRequest, "MAX_TOKENIZE_BYTES"), ("count", CountTokensRequest, "MAX_COUNT_BYTES")]
)
async def test_texts_of_too_many_bytes_together_are_refused(task, monkeypatch, method, kind, name):
    monkeypatch.setattr(f"hubwire_server.tasks.tokenization.{name}", 6)
    await getattr(task, method)(kind(texts=["fox"], pairs=["fox"]))
    with pytest.raises(HubwireError) as caught:
        await getattr(task, method)(kind(texts=["fox"], pairs=["foxs"]))
    assert caught.value.reason == Reason.TEXT_TOO_LARGE
    assert caught.value.metadata == {"size_bytes": "7", "limit_bytes": "6"}
