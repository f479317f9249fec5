"""Models and health through both clients."""

from __future__ import annotations

import math

import pytest

import hubwire
from hubwire.v1 import model_pb2


def test_models_are_listed_in_the_order_of_the_server(client):
    models = client.list_models()
    assert [model.name for model in models] == ["small", "tiny"]
    assert all(isinstance(model, model_pb2.Model) for model in models)


def test_one_model_is_described(client):
    model = client.get_model("small")
    assert (model.max_tokens, model.embedding.dimensions) == (8, 10)


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(hubwire.NotFoundError) as caught:
        client.get_model("nope")
    assert (caught.value.reason, caught.value.resource_type, caught.value.resource_name) == ("MODEL_NOT_FOUND", "model", "nope")


@pytest.mark.parametrize("page_size", [1, 2, 3, 5, 1000])
def test_every_page_of_models_is_read(client, fake, page_size):
    fake.page_size = page_size
    fake.models = [model_pb2.Model(name=f"model-{number}") for number in range(5)]
    assert client.list_models() == fake.models
    assert len(fake.requests) == -(-5 // page_size)
    assert {request.page_size for request in fake.requests} == {1000}


def test_a_page_that_leads_to_itself_breaks_the_contract(client, fake):
    fake.endless = True
    with pytest.raises(hubwire.InternalError, match="the same page"):
        client.list_models()


def test_the_timeout_is_for_all_pages_together(client, fake):
    fake.page_size, fake.delay_s = 1, 0.2
    fake.models = [model_pb2.Model(name=f"model-{number}") for number in range(9)]
    with pytest.raises(hubwire.DeadlineExceededError):
        client.list_models(timeout_s=0.5)
    assert 2 <= len(fake.requests) <= 4
    fake.delay_s = 0.0
    assert len(client.list_models(timeout_s=math.inf)) == 9


def test_loading_returns_the_model(client, fake):
    model = client.load_model("org/model", name="mine", revision="v2")
    assert isinstance(model, model_pb2.Model)
    assert (model.name, model.revision, model.state) == ("mine", "v2", model_pb2.MODEL_STATE_READY)
    assert fake.requests == [model_pb2.LoadModelRequest(source="org/model", name="mine", revision="v2")]


def test_loading_is_a_statement(fake):
    with hubwire.Client(fake.address) as client:
        client.load_model("org/model")
    assert len(fake.requests) == 1


def test_loading_reports_its_progress(client):
    steps = []
    model = client.load_model("org/model", "mine", on_progress=steps.append)
    first, last = steps
    assert (first.state, first.done_bytes, first.total_bytes) == (model_pb2.MODEL_STATE_DOWNLOADING, 1, 2)
    assert not first.HasField("model")
    assert last.model == model


def test_a_load_that_fails_raises_after_its_progress(client):
    steps = []
    with pytest.raises(hubwire.FailedPreconditionError, match="no weights"):
        client.load_model("org/broken", on_progress=steps.append)
    assert [step.message for step in steps] == ["fetching"]


def test_a_load_that_ends_without_a_model_breaks_the_contract(client):
    with pytest.raises(hubwire.InternalError, match="no model"):
        client.load_model("org/forgotten")


def test_what_the_callback_raises_ends_the_call(client):
    def report(_):
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        client.load_model("org/model", on_progress=report)
    assert client.health() == "SERVING"


async def _report_async(_): ...


@pytest.mark.parametrize("callback", [_report_async, "print", 3], ids=["a coroutine function", "a name", "a number"])
def test_a_callback_that_cannot_be_called_is_refused(client, fake, callback):
    with pytest.raises(TypeError, match="on_progress must be a plain function"):
        client.load_model("org/model", on_progress=callback)
    assert not fake.requests


def test_a_model_is_unloaded(client, fake):
    assert client.unload_model("small") is None
    assert fake.unloaded == ["small"]


@pytest.mark.parametrize(("service", "status"), [("", "SERVING"), ("hubwire.v1.EmbeddingService", "SERVING"), ("resting", "NOT_SERVING")])
def test_health_is_the_name_of_the_status(client, service, status):
    assert client.health(service) == status


def test_the_health_of_an_unknown_service_is_not_found(client):
    with pytest.raises(hubwire.NotFoundError, match=r"^the server knows no service unknown \[NOT_FOUND\]$"):
        client.health("unknown")
