"""RerankService over gRPC, with the fake model: what comes back for what is asked."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from hubwire.v1 import rerank_pb2, rerank_pb2_grpc, text_classification_pb2, text_classification_pb2_grpc
from hubwire_server.models.description import Task
from tests.conftest import Server, serve
from tests.rpc.conftest import read_error

DOCUMENTS = ["w1", "w2 w3 w4", "w5 unknown w6", "w1", "w7 w8 w9"]
QUERY = "w20 w21"
RAW = rerank_pb2.RERANK_SCORING_RAW


@pytest.fixture(scope="module", params=[["LABEL_0"], ["no", "yes"]], ids=["one label", "two labels"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve(task=Task.RERANK, description={"labels": request.param}) as running:
        yield running


@pytest.fixture(scope="module")
def expected(server: Server) -> np.ndarray:
    """The logits of the documents, in float64, from the head that classifies the same pairs."""
    options = text_classification_pb2.ClassifyTextOptions(function="CLASSIFICATION_FUNCTION_NONE")
    request = text_classification_pb2.ClassifyTextRequest(
        model="fake", texts=[QUERY] * len(DOCUMENTS), text_pairs=DOCUMENTS, options=options
    )
    answer = text_classification_pb2_grpc.TextClassificationServiceStub(server.channel).ClassifyText(request, timeout=30)
    rows = [{entry.label: entry.score for entry in found.labels} for found in answer.classifications]
    return np.array([row["yes"] - row["no"] if "yes" in row else row["LABEL_0"] for row in rows], dtype=np.float64)


def rerank(server: Server, documents=DOCUMENTS, query=QUERY, **options) -> rerank_pb2.RerankResponse:
    request = rerank_pb2.RerankRequest(query=query, documents=documents, options=rerank_pb2.RerankOptions(**options))
    return rerank_pb2_grpc.RerankServiceStub(server.channel).Rerank(request, timeout=30)


def test_documents_come_back_by_their_logit_and_equal_ones_in_the_order_of_the_request(server, expected):
    response = rerank(server, scoring=RAW)
    order = [document.index for document in response.documents]
    assert order == sorted(range(len(DOCUMENTS)), key=lambda index: -expected[index])
    assert order.index(3) == order.index(0) + 1  # the same document twice
    np.testing.assert_allclose([document.score for document in response.documents], expected[order], atol=1e-6)
    assert all(document.document == "" for document in response.documents)


@pytest.mark.parametrize("scoring", [rerank_pb2.RERANK_SCORING_UNSPECIFIED, rerank_pb2.RERANK_SCORING_SIGMOID])
def test_scores_are_from_0_to_1_unless_they_are_asked_for_raw(server, expected, scoring):
    for document in rerank(server, scoring=scoring).documents:
        assert document.score == pytest.approx(1 / (1 + np.exp(-expected[document.index])), abs=1e-6)


@pytest.mark.parametrize(("top_n", "count"), [(0, 5), (2, 2), (5, 5), (99, 5)])
def test_top_n_keeps_the_best_with_their_place_in_the_request(server, top_n, count):
    whole = rerank(server)
    response = rerank(server, top_n=top_n, return_documents=True)
    assert [(d.index, d.score) for d in response.documents] == [(d.index, d.score) for d in whole.documents][:count]
    assert [document.document for document in response.documents] == [DOCUMENTS[document.index] for document in response.documents]


def test_an_answer_carries_model_usage_and_timings(server):
    response = rerank(server)
    assert (response.model.name, response.model.fingerprint) == ("fake", "00000000000000fa")
    assert response.usage.input_tokens == sum(2 + len(document.split()) + 3 for document in DOCUMENTS)
    assert 0 < response.timings.compute_nanos < response.timings.total_nanos
    assert min(response.timings.decode_nanos, response.timings.tokenize_nanos, response.timings.encode_nanos) > 0


def test_truncation_cuts_the_longer_of_query_and_document(server):
    long = " ".join(f"w{index}" for index in range(100))
    response = rerank(server, [long, "w1"], truncation={"max_tokens": 10}, scoring=RAW)
    assert response.usage.truncated_texts == 1
    cut = rerank(server, ["w0 w1 w2 w3 w4", "w1"], scoring=RAW)
    assert list(response.documents) == list(cut.documents)


def test_a_head_with_more_labels_is_refused_by_name():
    with serve(task=Task.TEXT_CLASSIFICATION, description={"labels": ["a", "b", "c"]}) as running:
        stub = rerank_pb2_grpc.RerankServiceStub(running.channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Rerank(rerank_pb2.RerankRequest(model="fake", query="w1", documents=["w2"]), timeout=30)
    details = read_error(caught.value)
    assert (details.reason, details.field, details.model) == ("OPTION_NOT_SUPPORTED", "model", "fake")
    assert "3 labels (a, b, c)" in details.message
