"""Sparse vectors are those of SPLADE as its description says it, computed by plain transformers for each text alone, and as
sentence-transformers gives them."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import grpc.aio
import numpy as np
import pytest
import torch

from hubwire.v1 import embedding_pb2 as pb
from hubwire.v1 import embedding_pb2_grpc as pb_grpc
from hubwire_server.tasks.sparse_embedding import EmbedSparseOptions, EmbedSparseRequest, SparseEmbeddingTask
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, Truncation
from tests.conftest import Server
from tests.parity.masked_heads import MODELS, make_masked
from tests.parity.sequence_heads import MAX_TOKENS, Head, gather_groups, head_server, in_process, over_grpc
from tests.parity.texts import make_texts

TEXTS = make_texts(200, seed=31)
TOLERANCE = 1e-4

Found = tuple[list[int], list[float]]
Ask = Callable[[list[int]], Awaitable[Sequence[Found]]]


@pytest.fixture(scope="module")
def masked_heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Head]:
    """A model of each family, and the real one."""
    folder = tmp_path_factory.mktemp("masked")
    return {family: make_masked(family, folder) for family in MODELS}


@pytest.fixture(scope="module")
def expected(masked_heads: dict[str, Head]) -> dict[str, np.ndarray]:
    """The dense form of the vector of each text alone, shape (texts, vocabulary), by family."""
    return {family: np.stack([reference(head, text) for text in TEXTS]) for family, head in masked_heads.items()}


@pytest.fixture(scope="module", params=["torch", "onnx"])
def server(request: pytest.FixtureRequest, masked_heads: dict[str, Head], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with head_server(list(masked_heads.values()), "sparse_embedding", request.param, tmp_path_factory.mktemp("cache")) as running:
        yield running


def reference(head: Head, text: str) -> np.ndarray:
    inputs = head.tokenizer(text, return_tensors="pt", truncation=True, max_length=MAX_TOKENS)
    with torch.inference_mode():
        logits = head.model(**inputs).logits[0]
    return torch.log1p(torch.relu(logits)).amax(dim=0).numpy()


def ask_task(task: TextTask, head: Head) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        options = EmbedSparseOptions(truncation=Truncation(max_tokens=MAX_TOKENS))
        request = EmbedSparseRequest(texts=[TEXTS[index] for index in indices], model=head.name, options=options)
        result = await SparseEmbeddingTask(task).embed_sparse(request, Caller(client="parity"))
        return [(vector.indices.tolist(), vector.values.tolist()) for vector in result.vectors]

    return ask


def ask_grpc(channel: grpc.aio.Channel, head: Head) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        options = pb.EmbedSparseOptions(truncation={"max_tokens": MAX_TOKENS})
        request = pb.EmbedSparseRequest(texts=[TEXTS[index] for index in indices], model=head.name, options=options)
        response = await pb_grpc.EmbeddingServiceStub(channel).EmbedSparse(request, timeout=60)
        return [(list(vector.indices), list(vector.values)) for vector in response.vectors]

    return ask


DOORS: dict[str, tuple[Any, Any]] = {"in process": (in_process, ask_task), "over gRPC": (over_grpc, ask_grpc)}


def assert_equal(found: dict[int, Found], expected: np.ndarray) -> float:
    """Asserts the values of all indices, those that are left out among them, and returns the largest difference."""
    assert sorted(found) == list(range(len(expected)))
    dense = np.zeros(expected.shape)
    for index, (indices, values) in found.items():
        assert indices == sorted(set(indices))
        assert min(values) > 0
        dense[index, indices] = values
    largest = float(np.abs(dense - expected).max())
    assert largest < TOLERANCE
    return largest


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("family", MODELS)
def test_200_texts_alone_and_among_strangers(server, masked_heads, expected, family, door, measured):
    open_door, make_ask = DOORS[door]

    async def alone(opened: Any) -> dict[int, Found]:
        ask = make_ask(opened, masked_heads[family])
        return {index: (await ask([index]))[0] for index in range(len(TEXTS))}

    async def mixed(opened: Any) -> dict[int, Found]:
        return await gather_groups(make_ask(opened, masked_heads[family]), range(len(TEXTS)))

    with open_door(server) as run:
        largest = max(assert_equal(run(work), expected[family]) for work in (alone, mixed))
    measured("largest difference of a value", f"{largest:.1e}")


def test_a_stream_of_200_texts(server, masked_heads, expected, measured):
    head = masked_heads["ModernBert"]
    items = [pb.StreamEmbedItem(id=str(index), text=text) for index, text in enumerate(TEXTS)]
    options = pb.StreamEmbedSparseOptions(model=head.name, options=pb.EmbedSparseOptions(truncation={"max_tokens": MAX_TOKENS}))
    requests = [
        pb.StreamEmbedSparseRequest(options=options),
        *(pb.StreamEmbedSparseRequest(items=pb.StreamEmbedItems(items=items[low : low + 30])) for low in range(0, len(items), 30)),
    ]
    responses = pb_grpc.EmbeddingServiceStub(server.channel).StreamEmbedSparse(iter(requests), timeout=60)
    found = {
        int(result.id): (list(result.vector.indices), list(result.vector.values)) for response in responses for result in response.results
    }
    measured("largest difference of a value", f"{assert_equal(found, expected['ModernBert']):.1e}")


def test_sentence_transformers_gives_the_same(st: ModuleType, server, masked_heads, measured):
    head = masked_heads["Bert"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = st.SparseEncoder(str(head.path), device="cpu", local_files_only=True)
        encoder.max_seq_length = MAX_TOKENS
        theirs = encoder.encode(TEXTS, batch_size=16, convert_to_sparse_tensor=False).numpy()
    with in_process(server) as run:
        found = run(lambda task: ask_task(task, head)(list(range(len(TEXTS)))))
    measured("largest difference of a value", f"{assert_equal(dict(enumerate(found)), theirs):.1e}")


def test_the_vectors_are_sparse_and_tell_texts_apart(expected):
    for vectors in expected.values():
        zeros = np.count_nonzero(vectors == 0, axis=1)
        assert 0 < zeros.mean() < vectors.shape[1] - 1
        assert vectors.std(axis=0).max() > 100 * TOLERANCE
