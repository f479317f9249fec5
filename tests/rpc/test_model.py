"""ModelService over gRPC: what is served, and how that is changed."""

from __future__ import annotations

import json
import threading
import time

import grpc
import pytest

from hubwire.v1 import embedding_pb2, embedding_pb2_grpc, model_pb2, model_pb2_grpc
from hubwire_server.settings import Settings
from tests.conftest import serve
from tests.rpc.conftest import read_error, read_status


@pytest.fixture
def folder(tmp_path):
    """A folder that the fake worker loads."""
    (tmp_path / "config.json").write_text(json.dumps({"dimensions": 8, "load_seconds": 0.2}))
    return tmp_path


def load(models, source, name):
    return models.LoadModel(model_pb2.LoadModelRequest(source=str(source), name=name), timeout=30)


def embed(server, model, text="w1"):
    stub = embedding_pb2_grpc.EmbeddingServiceStub(server.channel)
    return stub.Embed(embedding_pb2.EmbedRequest(texts=[text], model=model), timeout=30)


def test_a_model_is_described(models):
    model = models.GetModel(model_pb2.GetModelRequest(name="fake"), timeout=10).model
    assert model.state == model_pb2.MODEL_STATE_READY
    assert model.task == model_pb2.TASK_EMBEDDING
    assert model.default_for_task
    assert (model.max_tokens, model.backend, model.device) == (32, "fake", "cpu")
    assert (model.embedding.dimensions, list(model.embedding.pooling)) == (8, [embedding_pb2.POOLING_MEAN])
    assert dict(model.embedding.prompts) == {"query": "w1 w2 "}
    assert not model.HasField("error")


def test_a_model_is_loaded_served_listed_and_unloaded(server, models, folder):
    steps = list(load(models, folder, "second"))
    assert [step.state for step in steps][-2:] == [model_pb2.MODEL_STATE_LOADING, model_pb2.MODEL_STATE_READY]
    assert steps[-1].model.name == "second"
    assert not steps[-1].model.default_for_task
    assert embed(server, "second").model.name == "second"
    assert embed(server, "").model.name == "fake"
    assert [model.name for model in models.ListModels(model_pb2.ListModelsRequest(), timeout=10).models] == ["fake", "second"]
    models.UnloadModel(model_pb2.UnloadModelRequest(name="second"), timeout=10)
    with pytest.raises(grpc.RpcError) as caught:
        embed(server, "second")
    assert read_error(caught.value).reason == "MODEL_NOT_FOUND"


def test_a_model_is_named_after_the_last_part_of_its_source(models, folder):
    steps = list(load(models, folder, ""))
    assert steps[-1].model.name == folder.name
    models.UnloadModel(model_pb2.UnloadModelRequest(name=folder.name), timeout=10)


def test_a_caller_that_goes_away_does_not_stop_the_load(models, folder):
    call = load(models, folder, "left")
    next(call)
    call.cancel()
    deadline = time.monotonic() + 20
    while models.GetModel(model_pb2.GetModelRequest(name="left"), timeout=10).model.state != model_pb2.MODEL_STATE_READY:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    models.UnloadModel(model_pb2.UnloadModelRequest(name="left"), timeout=10)


def test_models_come_page_by_page(models, folder):
    for name in ("b", "c"):
        list(load(models, folder, name))
    pages, token = [], ""
    while True:
        page = models.ListModels(model_pb2.ListModelsRequest(page_size=2, page_token=token), timeout=10)
        pages.append([model.name for model in page.models])
        token = page.next_page_token
        if not token:
            break
    assert pages == [["b", "c"], ["fake"]]
    for name in ("b", "c"):
        models.UnloadModel(model_pb2.UnloadModelRequest(name=name), timeout=10)


def test_a_configured_model_that_failed_says_why_and_stays_the_default(folder):
    with serve(description={"refuse": "MODEL_NOT_SUPPORTED"}) as server:
        get = server.channel.unary_unary("/hubwire.v1.ModelService/GetModel")
        model = model_pb2.GetModelResponse.FromString(get(model_pb2.GetModelRequest(name="fake").SerializeToString())).model
        assert model.state == model_pb2.MODEL_STATE_FAILED
        assert model.default_for_task
        assert read_status(model.error).reason == "MODEL_NOT_SUPPORTED"
        list(
            server.channel.unary_stream("/hubwire.v1.ModelService/LoadModel")(
                model_pb2.LoadModelRequest(source=str(folder), name="b").SerializeToString()
            )
        )
        assert embed(server, "b").model.name == "b"
        with pytest.raises(grpc.RpcError) as caught:
            embed(server, "")
        assert read_error(caught.value).reason == "MODEL_LOAD_FAILED"


def test_a_model_that_a_caller_could_not_load_is_forgotten_and_its_name_is_free(server, models, folder, tmp_path_factory):
    broken = tmp_path_factory.mktemp("broken")
    (broken / "config.json").write_text(json.dumps({"refuse": "MODEL_NOT_SUPPORTED"}))
    with pytest.raises(grpc.RpcError) as caught:
        list(load(models, broken, "again"))
    assert read_error(caught.value).reason == "MODEL_NOT_SUPPORTED"
    assert [model.name for model in models.ListModels(model_pb2.ListModelsRequest(), timeout=10).models] == ["fake"]
    with pytest.raises(grpc.RpcError) as caught:
        embed(server, "again")
    assert read_error(caught.value).reason == "MODEL_NOT_FOUND"
    assert list(load(models, folder, "again"))[-1].state == model_pb2.MODEL_STATE_READY
    models.UnloadModel(model_pb2.UnloadModelRequest(name="again"), timeout=10)


def test_unloading_answers_what_was_accepted_and_refuses_what_comes_after(models, folder, server):
    list(load(models, folder, "drained"))
    stub = embedding_pb2_grpc.EmbeddingServiceStub(server.channel)
    accepted = [stub.Embed.future(embedding_pb2.EmbedRequest(texts=["slow w1"], model="drained"), timeout=30) for _ in range(5)]
    while server.app.dispatcher.used_tokens < 5 * 4:
        time.sleep(0.001)
    unload = threading.Thread(target=lambda: models.UnloadModel(model_pb2.UnloadModelRequest(name="drained"), timeout=30))
    unload.start()
    while models.GetModel(model_pb2.GetModelRequest(name="drained"), timeout=10).model.state != model_pb2.MODEL_STATE_UNLOADING:
        time.sleep(0.001)
    with pytest.raises(grpc.RpcError) as caught:
        embed(server, "drained")
    assert read_error(caught.value).reason == "MODEL_NOT_FOUND"
    assert all(len(call.result().vectors) == 1 for call in accepted)
    unload.join(timeout=30)
    assert "drained" not in [model.name for model in models.ListModels(model_pb2.ListModelsRequest(), timeout=10).models]


def test_after_the_default_model_is_unloaded_the_next_one_answers(folder):
    with serve() as server:
        models = server.channel.unary_unary("/hubwire.v1.ModelService/UnloadModel")
        loads = server.channel.unary_stream("/hubwire.v1.ModelService/LoadModel")
        list(loads(model_pb2.LoadModelRequest(source=str(folder), name="next").SerializeToString()))
        models(model_pb2.UnloadModelRequest(name="fake").SerializeToString())
        assert embed(server, "").model.name == "next"


def test_what_the_operator_allows_is_bound_to_the_source_and_not_to_a_name(tmp_path):
    """A caller may give any folder any name, also one that is trusted."""
    trusted, other = tmp_path / "trusted", tmp_path / "other"
    for path in (trusted, other):
        path.mkdir()
        (path / "config.json").write_text(json.dumps({"pickled": True}))
    with serve(settings=Settings(allow_pickle=frozenset({str(trusted)}), shutdown_grace_s=0.2)) as server:
        models = model_pb2_grpc.ModelServiceStub(server.channel)
        assert list(load(models, trusted, "a"))[-1].state == model_pb2.MODEL_STATE_READY
        models.UnloadModel(model_pb2.UnloadModelRequest(name="a"), timeout=10)
        for name in ("a", "trusted", str(trusted).replace("/", "_").strip("_")):
            with pytest.raises(grpc.RpcError) as caught:
                list(load(models, other, name))
            assert read_error(caught.value).reason == "MODEL_NOT_ALLOWED"
