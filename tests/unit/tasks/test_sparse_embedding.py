"""The sparse embedding task: which entries of a vector stay, and what a stream keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.tasks import sparse_embedding
from hubwire_server.tasks.sparse_embedding import (
    MAX_RESPONSE_BYTES,
    EmbedSparseOptions,
    EmbedSparseRequest,
    SparseEmbeddingTask,
    SparseVector,
    largest_terms,
    term_offsets,
)
from hubwire_server.tasks.stream import StreamEntry
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, TextLimits, Texts
from hubwire_server.testing import running_server

CALLER = Caller(client="test")


@pytest.fixture
async def task() -> AsyncIterator[SparseEmbeddingTask]:
    """The task with a worker of the fake model behind it."""
    async with running_server(task=Task.SPARSE_EMBEDDING) as server:
        texts = Texts(TextLimits(max_texts=2_000, max_text_bytes=1_000, max_request_bytes=1_000_000), threads=1)
        yield SparseEmbeddingTask(TextTask(server.app.registry, server.app.dispatcher, texts))
        texts.close()


@given(st.lists(st.integers(1, 9), min_size=2, max_size=30), st.data())
def test_the_largest_entries_stay_and_of_equal_ones_the_first(values, data):
    count = data.draw(st.integers(1, len(values) - 1))
    indices = np.arange(len(values), dtype=np.int32) * 3
    kept = largest_terms(indices, np.array(values, dtype=np.float32), count)
    expected = sorted(sorted(range(len(values)), key=lambda index: (-values[index], index))[:count])
    assert kept.indices.tolist() == [3 * index for index in expected]
    assert kept.values.tolist() == [values[index] for index in expected]


@pytest.mark.parametrize(("max_terms", "count"), [(0, 4), (2, 2), (4, 4), (9, 4)])
async def test_the_value_of_a_stream_holds_no_batch(task, max_terms, count):
    plan = task.plan("", EmbedSparseOptions(max_terms=max_terms))
    batch = (np.arange(100, dtype=np.int32), np.linspace(0.1, 1, 100, dtype=np.float32))
    output = tuple(array[10:14] for array in batch)
    vector = plan.value(StreamEntry("id", "text"), None, [0], [output])
    assert len(vector.indices) == len(vector.values) == count
    assert vector.indices.tolist() == list(range(14 - count, 14)) if count == 2 else list(range(10, 14))
    assert not any(np.shares_memory(array, own) for array, own in zip(batch, (vector.indices, vector.values), strict=True))


async def test_a_message_of_a_stream_holds_what_clients_take(task):
    vocabulary = task.plan("", EmbedSparseOptions()).model.masked_language_model.vocabulary_size
    for options, terms in ((EmbedSparseOptions(), vocabulary), (EmbedSparseOptions(max_terms=10), 10)):
        most = task.plan("", options).most_results
        # An index of 32 bits takes 5 bytes at most, one of a vocabulary 3, and a value 4.
        assert MAX_RESPONSE_BYTES / 2 < most * terms * 8 <= MAX_RESPONSE_BYTES
    assert task.plan("", EmbedSparseOptions(max_terms=2**31)).most_results == 1
    named = task.plan("", EmbedSparseOptions(return_tokens=True)).most_results
    assert named < task.plan("", EmbedSparseOptions()).most_results


async def test_what_is_finished_in_a_thread_is_the_same(task, monkeypatch):
    request = EmbedSparseRequest(texts=["w1 w2", "w3"], options=EmbedSparseOptions(max_terms=7, return_tokens=True))
    inline = await task.embed_sparse(request, CALLER)
    monkeypatch.setattr(sparse_embedding, "INLINE_TERMS", 0)
    threaded = await task.embed_sparse(request, CALLER)
    assert inline.tokens == threaded.tokens
    assert [vector.indices.tolist() for vector in inline.vectors] == [vector.indices.tolist() for vector in threaded.vectors]
    assert len(inline.tokens) == 14


async def test_an_answer_may_hold_so_many_entries_and_no_more(task, monkeypatch):
    texts = ["w1 w2", "w3"]
    full = await task.embed_sparse(EmbedSparseRequest(texts=texts), CALLER)
    terms = sum(len(vector.indices) for vector in full.vectors)
    monkeypatch.setattr(sparse_embedding, "MAX_ANSWER_TERMS", terms)
    assert len((await task.embed_sparse(EmbedSparseRequest(texts=texts), CALLER)).vectors) == 2
    monkeypatch.setattr(sparse_embedding, "MAX_ANSWER_TERMS", terms - 1)
    with pytest.raises(HubwireError) as caught:
        await task.embed_sparse(EmbedSparseRequest(texts=texts), CALLER)
    assert (caught.value.reason, caught.value.metadata) == (Reason.TOO_MANY_TEXTS, {"count": "2", "limit": "1"})
    cut = EmbedSparseRequest(texts=texts, options=EmbedSparseOptions(max_terms=10))
    assert len((await task.embed_sparse(cut, CALLER)).vectors) == 2


def test_offsets_are_those_of_the_entries():
    vectors = [SparseVector(np.zeros(size, np.int32), np.zeros(size, np.float32)) for size in (3, 0, 2)]
    assert term_offsets(vectors).tolist() == [0, 3, 3, 5]
