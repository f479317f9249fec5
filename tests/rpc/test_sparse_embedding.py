"""The sparse methods of EmbeddingService over gRPC, with the fake model: what comes back for what is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hubwire.v1 import embedding_pb2, embedding_pb2_grpc
from hubwire_server._native import Tokenizer
from hubwire_server.backends.base import LoadOptions, RaggedBatch
from hubwire_server.errors import Reason
from hubwire_server.models.description import Task
from hubwire_server.testing import FakeModel
from tests.conftest import Server, serve
from tests.rpc.conftest import read_status
from tests.rpc.fake_words import NAMES

TEXTS = ["w1", "w2 w3 w4", "w5 unknown w6 w7 w8 w9"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(task=Task.SPARSE_EMBEDDING) as running:
        yield running


@pytest.fixture
def stub(server: Server) -> embedding_pb2_grpc.EmbeddingServiceStub:
    return embedding_pb2_grpc.EmbeddingServiceStub(server.channel)


@pytest.fixture
def embed(stub) -> Callable[..., embedding_pb2.EmbedSparseResponse]:
    """Asks the server."""

    def call(*texts: str, **options) -> embedding_pb2.EmbedSparseResponse:
        request = embedding_pb2.EmbedSparseRequest(texts=texts, options=embedding_pb2.EmbedSparseOptions(**options))
        return stub.EmbedSparse(request, timeout=60)

    return call


@pytest.fixture
def expected(tmp_path: Path) -> Callable[[str], np.ndarray]:
    """The dense form of the vector of a text, by numpy."""
    (tmp_path / "config.json").write_text("{}")
    model = FakeModel(tmp_path, LoadOptions(threads=1), Task.SPARSE_EMBEDDING)
    tokenizer = Tokenizer(model.tokenizer_json)

    def of(text: str) -> np.ndarray:
        batch = tokenizer.encode([text])
        logits, _ = model.forward(RaggedBatch(batch.ids, batch.type_ids, batch.offsets))
        return np.log1p(np.maximum(logits.astype(np.float64), 0)).max(axis=0)

    return of


def dense(vector: embedding_pb2.SparseVector, dimensions: int) -> np.ndarray:
    values = np.zeros(dimensions)
    values[list(vector.indices)] = list(vector.values)
    return values


def stream(stub, items: list[tuple[str, str]], *, ordered: bool = False, chunk: int = 3, **options):
    def requests():
        settings = embedding_pb2.StreamEmbedSparseOptions(options=embedding_pb2.EmbedSparseOptions(**options), ordered=ordered)
        yield embedding_pb2.StreamEmbedSparseRequest(options=settings)
        for low in range(0, len(items), chunk):
            some = [embedding_pb2.StreamEmbedItem(id=id_, text=text) for id_, text in items[low : low + chunk]]
            yield embedding_pb2.StreamEmbedSparseRequest(items=embedding_pb2.StreamEmbedItems(items=some))

    return stub.StreamEmbedSparse(requests(), timeout=60)


def test_a_vector_is_the_log_of_the_largest_logit_above_zero_by_ascending_index(embed, expected):
    response = embed(*TEXTS)
    assert response.dimensions == len(NAMES)
    for text, vector in zip(TEXTS, response.vectors, strict=True):
        assert list(vector.indices) == np.flatnonzero(expected(text)).tolist()
        np.testing.assert_allclose(dense(vector, len(NAMES)), expected(text), atol=1e-5)
        assert list(vector.tokens) == []
    assert (response.model.name, response.model.fingerprint) == ("fake", "00000000000000fa")
    assert response.usage.input_tokens == 3 + 5 + 8
    assert 0 < response.timings.forward_nanos < response.timings.compute_nanos < response.timings.total_nanos


def test_max_terms_keeps_the_largest_by_ascending_index(embed):
    full, cut = (dict(zip(vector.indices, vector.values, strict=True)) for k in (0, 10) for vector in embed(TEXTS[1], max_terms=k).vectors)
    largest = sorted(full, key=lambda index: (-full[index], index))[:10]
    assert list(cut) == sorted(largest)
    assert cut == {index: full[index] for index in cut}
    assert embed(TEXTS[1], max_terms=5_000).vectors == embed(TEXTS[1]).vectors


def test_tokens_are_the_words_of_the_indices(embed):
    for vector in embed(*TEXTS, return_tokens=True, max_terms=30).vectors:
        assert list(vector.tokens) == [NAMES[index] for index in vector.indices]
        assert len(vector.tokens) == 30


def test_a_large_request_gives_what_each_text_gives_alone(embed):
    texts = [f"w{index} w{index + 1}" for index in range(500)]
    together = embed(*texts)
    assert sum(len(vector.indices) for vector in together.vectors) > 200_000  # so that all of it was done in threads
    for index in range(0, 500, 61):
        (alone,) = embed(texts[index]).vectors
        np.testing.assert_allclose(dense(together.vectors[index], len(NAMES)), dense(alone, len(NAMES)), atol=1e-6)


def test_a_stream_answers_each_item_once_and_a_bad_one_with_its_own_error(stub, embed):
    items = [(f"id{index}", f"w{index} w{index + 1}") for index in range(40)]
    bad = {3: ("", Reason.TEXT_EMPTY), 17: ("w1 " * 100, Reason.TEXT_TOO_LONG), 29: ("nan w1", Reason.OUTPUT_NOT_FINITE)}
    for index, (text, _) in bad.items():
        items[index] = (f"id{index}", text)
    responses = list(stream(stub, items, ordered=True, max_terms=20, return_tokens=True))
    results = [result for response in responses for result in response.results]
    assert [result.id for result in results] == [id_ for id_, _ in items]
    for index, result in enumerate(results):
        if index in bad:
            details = read_status(result.error)
            assert (details.reason, details.field if details.code == "INVALID_ARGUMENT" else "text") == (bad[index][1], "text")
        else:
            (alone,) = embed(items[index][1], max_terms=20, return_tokens=True).vectors
            assert list(result.vector.tokens) == list(alone.tokens)
            np.testing.assert_allclose(list(result.vector.values), list(alone.values), atol=1e-6)
    assert {response.dimensions for response in responses} == {len(NAMES)}
    assert sum(response.usage.input_tokens for response in responses) == 4 * (40 - len(bad))


def test_messages_of_a_stream_stay_below_what_clients_take(stub):
    items = [(str(index), f"w{index}") for index in range(900)]
    sizes = [len(response.results) for response in stream(stub, items, chunk=300)]
    assert sum(sizes) == 900
    assert max(sizes) <= 2_097_152 // (len(NAMES) * 8)


def test_a_model_that_fills_masks_makes_sparse_vectors_too():
    with serve(task=Task.FILL_MASK) as server:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(server.channel)
        assert len(stub.EmbedSparse(embedding_pb2.EmbedSparseRequest(texts=["w1"]), timeout=60).vectors) == 1
