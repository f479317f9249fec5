"""PipelineService, and the worker that pipelines have to themselves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hubwire.v1 import embedding_pb2, embedding_pb2_grpc, model_pb2, model_pb2_grpc, pipeline_pb2, pipeline_pb2_grpc
from hubwire_server.pipelines import PIPELINES
from tests.conftest import Server, serve
from tests.pipeline_models import MODELS, png
from tests.rpc.conftest import read_error

LONG = {"min_new_tokens": 500, "max_new_tokens": 500}
"""Has a tiny model generate for about a second."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the fake embedding model, into which a caller loads two pipelines."""
    folder = tmp_path_factory.mktemp("pipelines")
    with serve() as running:
        assert running.app.pipelines.worker.pid is None, "the worker of pipelines starts with the first of their models"
        for name in ("vit", "t5"):
            load(running, folder / name, name)
        yield running


def load(server: Server, folder: Path, name: str, **fields: Any) -> model_pb2.Model:
    """Saves a tiny model and has it loaded."""
    MODELS[name].save(folder)
    request = model_pb2.LoadModelRequest(source=str(folder), pipeline_task=MODELS[name].task, **fields)
    *_, last = model_pb2_grpc.ModelServiceStub(server.channel).LoadModel(request, timeout=100)
    return last.model


def run(server: Server, *inputs: dict[str, Any], timeout: float = 60, parameters: Any = None, **fields: Any):
    """A call that is under way."""
    request = pipeline_pb2.RunPipelineRequest(inputs=[pipeline_pb2.PipelineInput(**given) for given in inputs], **fields)
    request.parameters.update(parameters or {})
    return pipeline_pb2_grpc.PipelineServiceStub(server.channel).RunPipeline.future(request, timeout=timeout)


def embed(server: Server) -> None:
    """Embeds a text."""
    embedding_pb2_grpc.EmbeddingServiceStub(server.channel).Embed(embedding_pb2.EmbedRequest(texts=["w1"]), timeout=10)


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_pipelines_are_listed_with_the_services_that_serve_them_better(server):
    response = pipeline_pb2_grpc.PipelineServiceStub(server.channel).ListPipelines(pipeline_pb2.ListPipelinesRequest())
    listed = {task.name: task.service for task in response.tasks}
    assert list(listed) == sorted(listed)
    assert set(listed) >= set(PIPELINES)
    assert listed["ner"] == listed["token-classification"] == "hubwire.v1.TokenClassificationService"
    assert listed["image-classification"] == ""


def test_a_pipeline_model_is_described(server):
    described = model_pb2_grpc.ModelServiceStub(server.channel).GetModel(model_pb2.GetModelRequest(name="vit")).model
    assert described.task == model_pb2.TASK_PIPELINE
    assert described.pipeline.pipeline_task == "image-classification"
    assert described.architecture == "ViTForImageClassification"
    assert len(described.fingerprint) == 16


def test_outputs_come_in_the_order_of_the_inputs_with_times(server):
    inputs = [{"blob": {"data": png(seed)}} for seed in range(8)]
    together = run(server, *inputs, model="vit").result()
    alone = [run(server, one, model="vit").result().outputs[0] for one in inputs]
    assert list(together.outputs) == alone
    assert len({output.SerializeToString() for output in alone}) == len(alone)
    assert 0 < together.timings.compute_nanos <= together.timings.total_nanos


def test_the_first_pipeline_answers_where_no_model_is_named(server):
    response = run(server, {"blob": {"data": png()}}, task="image-classification").result()
    assert (response.model.name, response.task) == ("vit", "image-classification")


def test_one_input_that_is_refused_is_named_and_the_next_call_is_answered(server):
    with pytest.raises(grpc.RpcError) as caught:
        run(server, {"blob": {"data": png()}}, {"blob": {"data": b"no image"}}, model="vit").result()
    assert read_error(caught.value).field == "inputs[1]"
    assert read_error(caught.value).reason == "MEDIA_INVALID"
    run(server, {"blob": {"data": png()}}, model="vit").result()


def test_embeddings_are_served_while_a_pipeline_computes(server):
    call = run(server, {"text": "a long story"}, model="t5", parameters=LONG)
    until(lambda: server.app.pipelines.used_tokens > 0)
    for _ in range(5):
        embed(server)
    assert not call.done()
    call.result()


def test_the_inputs_of_a_cancelled_call_that_wait_are_dropped(server):
    start = time.monotonic()
    run(server, {"text": "story"}, model="t5", parameters=LONG).result()
    one_s = time.monotonic() - start
    texts = [{"text": f"story {index}"} for index in range(50)]
    call = run(server, *texts, model="t5", parameters=LONG)
    until(lambda: 0 < server.app.pipelines.waiting_texts < 50)
    call.cancel()
    until(lambda: server.app.pipelines.waiting_texts == 0, seconds=1)
    # What runs is computed to its end, and no more: fifty would take fifty times as long as one.
    start = time.monotonic()
    run(server, {"blob": {"data": png()}}, model="vit").result()
    assert time.monotonic() - start < 10 * one_s


def test_a_deadline_ends_a_generation_that_runs(server):
    endless = {"min_new_tokens": 4_096, "max_new_tokens": 4_096}
    with pytest.raises(grpc.RpcError) as caught:
        run(server, {"text": "a story without an end"}, model="t5", parameters=endless, timeout=1).result()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: server.app.pipelines.used_tokens == 0, seconds=5)
    run(server, {"blob": {"data": png()}}, model="vit").result()


def test_a_pipeline_worker_that_is_killed_leaves_embeddings_serving_and_comes_back(server):
    worker = server.app.pipelines.worker
    killed = worker.pid
    restarts = worker.restarts
    call = run(server, {"text": "a long story"}, model="t5", parameters=LONG)
    until(lambda: server.app.pipelines.used_tokens > 0)
    os.kill(killed, signal.SIGKILL)
    while worker.restarts == restarts or not worker.is_ready(server.app.registry.get("t5").key):
        embed(server)
        time.sleep(0.02)
    assert worker.pid != killed
    assert server.app.dispatcher.worker.restarts == 0
    # The call that was under way is computed again.
    assert call.result().outputs[0].value.list_value.values[0].struct_value.fields["summary_text"].string_value
    run(server, {"blob": {"data": png()}}, model="vit").result()


def test_arrays_are_sent_as_little_endian_bytes(server, tmp_path):
    load(server, tmp_path / "features", "features")
    output = run(server, {"blob": {"data": png()}}, model="features").result().outputs[0]
    assert output.value.string_value == "blob:0"
    (blob,) = output.blobs
    assert (blob.media_type, blob.dtype, list(blob.shape)) == ("application/octet-stream", "float32", [1, 17, 16])
    assert np.isfinite(np.frombuffer(blob.data, "<f4")).all()
    model_pb2_grpc.ModelServiceStub(server.channel).UnloadModel(model_pb2.UnloadModelRequest(name="features"), timeout=60)
    with pytest.raises(grpc.RpcError) as caught:
        run(server, {"blob": {"data": png()}}, model="features").result()
    assert read_error(caught.value).reason == "MODEL_NOT_FOUND"
