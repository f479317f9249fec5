"""Reranking gives what the cross-encoder of sentence-transformers gives, and with two labels what a softmax of transformers gives."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import grpc.aio
import numpy as np
import pytest
import torch

from hubwire.v1 import rerank_pb2, rerank_pb2_grpc
from hubwire_server.tasks.rerank import RerankOptions, RerankRequest, RerankTask
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, Truncation
from tests.conftest import Server
from tests.parity.sequence_heads import FAMILIES, Head, gather_groups, head_server, in_process, make_head, over_grpc
from tests.parity.texts import make_texts

QUERIES = make_texts(20, seed=31)
DOCUMENTS = [make_texts(10, seed=100 + query) for query in range(len(QUERIES))]
"""Those of each query: 200 pairs in all."""
TOLERANCE = 1e-4
TWO_LABELS = "two labels"

Found = list[tuple[int, float]]
Ask = Callable[[list[int]], Awaitable[Sequence[Found]]]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Head]:
    folder = tmp_path_factory.mktemp("heads")
    heads = {family: make_head(family, folder, ["LABEL_0"]) for family in FAMILIES}
    return {**heads, TWO_LABELS: make_head("Bert", folder, ["irrelevant", "relevant"])}


@pytest.fixture(scope="module", params=["torch", "onnx"])
def server(request: pytest.FixtureRequest, heads: dict[str, Head], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with head_server(list(heads.values()), "rerank", request.param, tmp_path_factory.mktemp("cache")) as running:
        yield running


@pytest.fixture(scope="module")
def cross_encoders(st: ModuleType, heads: dict[str, Head]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {family: st.CrossEncoder(str(heads[family].path), device="cpu", local_files_only=True) for family in FAMILIES}


@pytest.fixture(scope="module")
def expected(cross_encoders: dict[str, Any], heads: dict[str, Head]) -> dict[tuple[str, str], list[np.ndarray]]:
    """The scores of the documents of each query, by name of the head and scoring."""
    scores = {}
    for family, model in cross_encoders.items():
        for scoring, activation in (("sigmoid", None), ("raw", torch.nn.Identity())):
            scores[family, scoring] = [
                model.predict([(query, document) for document in documents], activation_fn=activation, show_progress_bar=False)
                for query, documents in zip(QUERIES, DOCUMENTS, strict=True)
            ]
    logits = [two_labels(heads[TWO_LABELS], query, documents) for query, documents in zip(QUERIES, DOCUMENTS, strict=True)]
    scores[TWO_LABELS, "sigmoid"] = [torch.softmax(rows, dim=1)[:, 1].numpy() for rows in logits]
    scores[TWO_LABELS, "raw"] = [(rows[:, 1] - rows[:, 0]).numpy() for rows in logits]
    return scores


def two_labels(head: Head, query: str, documents: Sequence[str]) -> torch.Tensor:
    """The logits of a head with two labels, from transformers alone."""
    with torch.inference_mode():
        inputs = [head.tokenizer(query, document, truncation=True, return_tensors="pt") for document in documents]
        return torch.cat([head.model(**one).logits.double() for one in inputs])


def ask_task(task: TextTask, head: Head, **options: Any) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        found = []
        for index in indices:
            request = RerankRequest(
                query=QUERIES[index],
                documents=DOCUMENTS[index],
                model=head.name,
                options=RerankOptions(truncation=Truncation(), **options),
            )
            result = await RerankTask(task).rerank(request, Caller(client="parity"))
            found.append(list(zip(result.indices.tolist(), result.scores.tolist(), strict=True)))
        return found

    return ask


def ask_grpc(channel: grpc.aio.Channel, head: Head, scoring: str = "sigmoid", **options: Any) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        found = []
        for index in indices:
            request = rerank_pb2.RerankRequest(
                query=QUERIES[index],
                documents=DOCUMENTS[index],
                model=head.name,
                options=rerank_pb2.RerankOptions(truncation={}, scoring=f"RERANK_SCORING_{scoring.upper()}", **options),
            )
            response = await rerank_pb2_grpc.RerankServiceStub(channel).Rerank(request, timeout=60)
            found.append([(document.index, document.score) for document in response.documents])
        return found

    return ask


DOORS: dict[str, tuple[Any, Any]] = {"in process": (in_process, ask_task), "over gRPC": (over_grpc, ask_grpc)}


def assert_equal(found: dict[int, Found], expected: list[np.ndarray]) -> float:
    """Asserts order and scores, and returns the largest difference."""
    assert sorted(found) == list(range(len(expected)))
    largest = 0.0
    for query, answer in found.items():
        assert [index for index, _ in answer] == np.argsort(-expected[query], kind="stable").tolist(), query
        largest = max(largest, *(abs(score - expected[query][index]) for index, score in answer))
    assert largest < TOLERANCE
    return largest


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("scoring", ["sigmoid", "raw"])
@pytest.mark.parametrize("name", [*FAMILIES, TWO_LABELS])
def test_200_pairs_query_by_query_and_among_strangers(server, heads, expected, name, scoring, door, measured):
    open_door, make_ask = DOORS[door]

    async def alone(opened: Any) -> dict[int, Found]:
        ask = make_ask(opened, heads[name], scoring=scoring)
        return {index: (await ask([index]))[0] for index in range(len(QUERIES))}

    async def mixed(opened: Any) -> dict[int, Found]:
        return await gather_groups(make_ask(opened, heads[name], scoring=scoring), range(len(QUERIES)))

    with open_door(server) as run:
        largest = max(assert_equal(run(work), expected[name, scoring]) for work in (alone, mixed))
    measured("largest difference of a score", f"{largest:.1e}")


@pytest.mark.parametrize("door", DOORS)
def test_top_n_and_the_order_are_those_of_the_cross_encoder(server, heads, cross_encoders, door):
    open_door, make_ask = DOORS[door]
    with open_door(server) as run:
        (found,) = run(lambda opened: make_ask(opened, heads["Bert"], top_n=4)([3]))
    theirs = cross_encoders["Bert"].rank(QUERIES[3], DOCUMENTS[3], top_k=4, show_progress_bar=False)
    assert [index for index, _ in found] == [entry["corpus_id"] for entry in theirs]
    np.testing.assert_allclose([score for _, score in found], [entry["score"] for entry in theirs], atol=TOLERANCE)


def test_the_heads_tell_documents_apart(expected):
    """Scores that hardly differ would prove nothing."""
    for scores in expected.values():
        assert np.concatenate(scores).std() > 100 * TOLERANCE
