"""run_pipeline through both clients to a server whose pipeline worker computes: an image model in, its labels out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers

import hubwire
from tests.clients.conftest import AioDoor
from tests.conftest import serve
from tests.pipeline_models import MODELS, picture, png

SEEDS = range(4)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT with seeded weights."""
    path = tmp_path_factory.mktemp("pipelines") / "vit"
    MODELS["vit"].save(path)
    return path


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The address of a server into which a client loads the model."""
    with serve() as server, hubwire.Client(server.address) as client:
        model = client.load_model(str(folder), "vit", pipeline_task="image-classification", timeout_s=100)
        assert (model.name, model.pipeline.pipeline_task) == ("vit", "image-classification")
        yield server.address


@pytest.fixture(params=["sync", "aio"])
def client(request: pytest.FixtureRequest, address: str) -> Iterator[Any]:
    """Both clients, with the same methods."""
    opened = hubwire.Client(address) if request.param == "sync" else AioDoor(address)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[Any]:
    """What the pipeline of transformers says of each picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = transformers.pipeline("image-classification", str(folder), device="cpu")
        return [pipeline(picture(seed)) for seed in SEEDS]


def test_the_bytes_of_images_come_back_as_labels(client, expected):
    found = client.run_pipeline([png(seed) for seed in SEEDS], model="vit", task="image-classification")
    assert len({str(one) for one in expected}) == len(SEEDS), "the model says the same of every picture: the test could not fail"
    for ours, theirs in zip(found, expected, strict=True):
        assert [one["label"] for one in ours] == [one["label"] for one in theirs]
        assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in theirs], abs=TOLERANCE)


def test_an_image_may_be_a_blob_and_parameters_are_those_of_the_pipeline(client, expected):
    ((best,),) = client.run_pipeline([hubwire.Blob(png(1), "image/png")], parameters={"top_k": 1})
    assert best["label"] == expected[1][0]["label"]
    assert best["score"] == pytest.approx(expected[1][0]["score"], abs=TOLERANCE)


def test_bytes_that_are_no_image_are_refused_and_the_next_call_is_answered(client):
    with pytest.raises(hubwire.InvalidArgumentError) as caught:
        client.run_pipeline([png(0), b"no image"], model="vit")
    assert (caught.value.reason, caught.value.field) == ("MEDIA_INVALID", "inputs[1]")
    assert len(client.run_pipeline([png(0)], model="vit")) == 1


def test_a_pipeline_that_the_model_does_not_run_is_refused(client):
    with pytest.raises(hubwire.HubwireError) as caught:
        client.run_pipeline([png(0)], model="vit", task="summarization")
    assert "image-classification" in str(caught.value)
