"""Models and health through both clients."""

from __future__ import annotations

import pytest

import hubwire
from hubwire.v1 import model_pb2


def test_models_are_listed_in_the_order_of_the_server(client):
    models = client.list_models()
    assert [model.name for model in models] == ["small", "tiny"]
    assert all(isinstance(model, model_pb2.Model) for model in models)


def test_one_model_is_described(client):
    assert client.get_model("small").max_tokens == 8


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(hubwire.NotFoundError) as caught:
        client.get_model("nope")
    assert (caught.value.reason, caught.value.resource_type, caught.value.resource_name) == ("MODEL_NOT_FOUND", "model", "nope")


def test_loading_ends_with_the_model(client, fake):
    first, last = client.load_model("org/model", "mine", "v2")
    assert (first.state, first.done_bytes, first.total_bytes) == (model_pb2.MODEL_STATE_DOWNLOADING, 1, 2)
    assert not first.HasField("model")
    assert (last.model.name, last.model.revision) == ("mine", "v2")
    assert fake.requests == [model_pb2.LoadModelRequest(source="org/model", name="mine", revision="v2")]


def test_a_load_that_fails_raises_after_its_progress(client):
    progress = client.load_model("org/broken")
    assert next(progress).message == "fetching"
    with pytest.raises(hubwire.FailedPreconditionError, match="no weights"):
        next(progress)


def test_a_load_that_ends_without_a_model_breaks_the_contract(client):
    with pytest.raises(hubwire.InternalError, match="no model"):
        list(client.load_model("org/forgotten"))


def test_following_a_load_may_stop_early(client):
    progress = client.load_model("org/model")
    next(progress)
    progress.close()
    assert client.health() == "SERVING"


def test_a_model_is_unloaded(client, fake):
    assert client.unload_model("small") is None
    assert fake.unloaded == ["small"]


@pytest.mark.parametrize(("service", "status"), [("", "SERVING"), ("hubwire.v1.EmbeddingService", "SERVING"), ("resting", "NOT_SERVING")])
def test_health_is_the_name_of_the_status(client, service, status):
    assert client.health(service) == status


def test_the_health_of_an_unknown_service_is_not_found(client):
    with pytest.raises(hubwire.NotFoundError):
        client.health("unknown")
