"""Reranking: from logits to scores, and the order of the documents."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.tasks.rerank import RerankOptions, RerankRequest, RerankTask, relevance
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, TextLimits, Texts
from hubwire_server.testing import running_server

CALLER = Caller(client="test")


@pytest.fixture
async def task() -> AsyncIterator[RerankTask]:
    """Reranking with a worker of the fake model behind it."""
    async with running_server(task=Task.RERANK, description={"labels": ["relevant"]}) as server:
        texts = Texts(TextLimits(max_texts=20, max_text_bytes=1_000, max_request_bytes=2_000), threads=1)
        yield RerankTask(TextTask(server.app.registry, server.app.dispatcher, texts))
        texts.close()


def test_one_label_gives_its_logit_and_its_sigmoid():
    logits = np.array([[0.0], [2.0], [-900.0]], np.float32)
    np.testing.assert_array_equal(relevance(logits, "raw"), [0, 2, -900])
    np.testing.assert_allclose(relevance(logits, "sigmoid"), [0.5, 1 / (1 + np.exp(-2)), 0], atol=1e-300)


def test_two_labels_give_the_softmax_of_the_second():
    logits = np.random.default_rng(0).standard_normal((20, 2)).astype(np.float32) * 4
    exps = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(relevance(logits, "sigmoid"), exps[:, 1] / exps.sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(relevance(logits, "raw"), logits[:, 1].astype(np.float64) - logits[:, 0])


async def test_indices_are_places_in_the_request(task):
    documents = ["w5", "w1 w2", "w5", "w7 w8 w9"]
    result = await task.rerank(RerankRequest(query="w3", documents=documents), CALLER)
    assert sorted(result.indices.tolist()) == [0, 1, 2, 3]
    assert (np.diff(result.scores) <= 0).all()
    order = result.indices.tolist()
    assert order.index(2) == order.index(0) + 1  # the same document twice keeps the order of the request
    cut = await task.rerank(RerankRequest(query="w3", documents=documents, options=RerankOptions(top_n=2)), CALLER)
    assert cut.indices.tolist() == order[:2]


async def test_a_query_counts_as_often_as_it_is_read(task):
    query = "w" * 600
    await task.rerank(RerankRequest(query=query, documents=["w1"] * 3), CALLER)
    with pytest.raises(HubwireError) as caught:
        await task.rerank(RerankRequest(query=query, documents=["w1"] * 4), CALLER)
    assert (caught.value.reason, caught.value.field) == (Reason.TEXT_TOO_LARGE, "query")
    assert caught.value.metadata == {"size_bytes": "2400", "limit_bytes": "2000"}


async def test_a_document_that_fails_is_named_by_its_index(task):
    with pytest.raises(HubwireError) as caught:
        await task.rerank(RerankRequest(query="w1", documents=["w1", "w2", "nan"]), CALLER)
    assert (caught.value.reason, caught.value.field) == (Reason.OUTPUT_NOT_FINITE, "documents[2]")
