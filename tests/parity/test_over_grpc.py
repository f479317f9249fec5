"""The whole way: texts go in through the client, and the vectors that come back equal those of sentence-transformers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import hubwire
import hubwire.aio
from hubwire_server.settings import ModelArgument, Settings
from tests.conftest import Server, serve
from tests.parity.compare import assert_equal
from tests.parity.texts import make_texts
from tests.unit.backends.tiny_models import MINILM

TEXTS = make_texts(500)


@pytest.fixture(scope="module", params=["onnx", "torch"])
def minilm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the embedded model in a real worker, in float32 on each backend."""
    settings = Settings(
        models=(ModelArgument(str(MINILM), "minilm"),),
        backend=request.param,
        dtype="float32",
        cache_dir=tmp_path_factory.mktemp("cache"),
        shutdown_grace_s=1,
    )
    with serve(settings=settings) as server:
        yield server


@pytest.fixture(scope="module")
def reference(theirs: Callable[..., Any]) -> Any:
    return theirs(MINILM)


@pytest.fixture(scope="module")
def expected(reference: Any) -> np.ndarray:
    return reference.encode(TEXTS, batch_size=32)


@pytest.fixture(scope="module")
def expected_tokens(reference: Any) -> list[np.ndarray]:
    """The token vectors of each text."""
    return [row.double().numpy() for row in reference.encode(TEXTS, output_value="token_embeddings", convert_to_numpy=False)]


def test_the_backend_is_the_one_that_was_asked_for(minilm, request):
    with hubwire.Client(minilm.address) as client:
        (model,) = client.list_models()
    assert (model.backend, model.dtype) == (request.node.callspec.params["minilm"], "float32")
    assert [(candidate.backend, candidate.chosen) for candidate in model.candidates if candidate.chosen] == [(model.backend, True)]
    assert all(candidate.cosine > 1 - 1e-9 and candidate.short_nanos and candidate.mixed_nanos for candidate in model.candidates)


def test_500_texts_in_one_call(minilm, expected, measured):
    with hubwire.Client(minilm.address) as client:
        lowest = assert_equal(client.embed(TEXTS, truncate=True), expected)
    measured("lowest cosine to sentence-transformers", f"1 - {1 - lowest:.1e}")


def test_each_of_500_texts_alone(minilm, expected, measured):
    with hubwire.Client(minilm.address) as client:
        alone = np.concatenate([client.embed([text], truncate=True) for text in TEXTS])
    measured("lowest cosine to sentence-transformers", f"1 - {1 - assert_equal(alone, expected):.1e}")


def test_500_texts_from_callers_that_share_batches(minilm, expected, measured):
    """Requests of random sizes at the same time, so that every text meets strangers."""

    async def run() -> np.ndarray:
        rng = random.Random(5)
        order = rng.sample(range(len(TEXTS)), len(TEXTS))
        vectors = np.empty_like(expected)
        async with hubwire.aio.Client(minilm.address) as client:

            async def call(indices: list[int]) -> None:
                vectors[indices] = await client.embed([TEXTS[index] for index in indices], truncate=True)

            calls = []
            while order:
                size = rng.randint(1, 9)
                calls.append(call(order[:size]))
                order = order[size:]
            await asyncio.gather(*calls)
        return vectors

    measured("lowest cosine to sentence-transformers", f"1 - {1 - assert_equal(asyncio.run(run()), expected):.1e}")


def test_500_texts_in_a_stream(minilm, expected, measured):
    with hubwire.Client(minilm.address) as client:
        answers = dict(client.stream_embed(TEXTS, truncate=True))
    streamed = np.stack([answers[index] for index in range(len(TEXTS))])
    measured("lowest cosine to sentence-transformers", f"1 - {1 - assert_equal(streamed, expected):.1e}")


@pytest.mark.parametrize("pooling", ["cls", "max", "last_token", "mean"])
def test_poolings_against_float64(minilm, expected_tokens, pooling, measured):
    pool = {"cls": lambda t: t[0], "last_token": lambda t: t[-1], "max": lambda t: t.max(0), "mean": lambda t: t.mean(0)}[pooling]
    with hubwire.Client(minilm.address) as client:
        ours = client.embed(TEXTS, truncate=True, pooling=pooling, normalize=False)
    measured("lowest cosine to float64", f"1 - {1 - assert_equal(ours, np.stack([pool(t) for t in expected_tokens])):.1e}")


def test_token_vectors_are_those_of_sentence_transformers(minilm, expected_tokens):
    texts = TEXTS[:40]
    with hubwire.Client(minilm.address) as client:
        for ours, theirs in zip(client.embed_tokens(texts, truncate="right"), expected_tokens[:40], strict=True):
            assert_equal(ours.vectors, theirs)


def test_a_folder_with_dense_and_a_prompt(minilm, st: ModuleType, theirs: Callable[..., Any], tmp_path: Path, measured):
    modules = st.sentence_transformer.modules
    base = theirs(MINILM)
    dense = modules.Dense(384, 64)
    model = st.SentenceTransformer(
        modules=[base[0], modules.Pooling(384, pooling_mode="mean", include_prompt=False), dense, modules.Normalize()],
        prompts={"query": "search query: ", "document": ""},
        default_prompt_name="query",
        device="cpu",
    )
    model.save(str(tmp_path / "model"))
    with hubwire.Client(minilm.address) as client:
        loaded = client.load_model(str(tmp_path / "model"), name="dense")
        assert dict(loaded.embedding.prompts)["query"] == "search query: "
        for asked, prompt_name in (({}, "query"), ({"prompt_name": "document"}, "document")):
            ours = client.embed(TEXTS[:100], model="dense", truncate=True, **asked)
            lowest = assert_equal(ours, model.encode(TEXTS[:100], prompt_name=prompt_name))
            measured(f"lowest cosine to sentence-transformers, prompt {prompt_name}", f"1 - {1 - lowest:.1e}")
        client.unload_model("dense")
