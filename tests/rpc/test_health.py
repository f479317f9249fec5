"""Health and reflection: the standard services, and that they tell the truth."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from hubwire.v1 import embedding_pb2
from hubwire_server.settings import Settings
from tests.conftest import serve

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
EMBEDDING = "hubwire.v1.EmbeddingService"
MODEL = "hubwire.v1.ModelService"
PROTOS = Path(__file__).parents[2] / "proto/hubwire/v1"
DEFINED = {name for file in PROTOS.glob("*.proto") for name in re.findall(r"^service (\w+) \{", file.read_text(), re.MULTILINE)}
"""The services that the protos define."""


def check(channel, service=""):
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status


@pytest.mark.parametrize("service", ["", EMBEDDING, MODEL])
def test_a_server_whose_model_is_ready_serves(server, service):
    assert check(server.channel, service) == SERVING


def test_every_status_comes_in_one_list(server):
    answer = health_pb2_grpc.HealthStub(server.channel).List(health_pb2.HealthListRequest(), timeout=5)
    statuses = {name: status.status for name, status in answer.statuses.items()}
    serving = {name for name, status in statuses.items() if status == SERVING}
    # "" serves although most services have no model: the one that has one serves.
    assert serving == {"", EMBEDDING, MODEL, "hubwire.v1.TokenizationService"}
    assert {name for name in statuses if name} == {f"hubwire.v1.{name}" for name in DEFINED}


def test_an_unknown_service_is_not_found(server):
    with pytest.raises(grpc.RpcError) as caught:
        check(server.channel, "nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_while_the_model_loads_its_service_does_not_serve_and_a_watcher_hears_the_change():
    with serve(description={"load_seconds": 1.0}, ready=False) as server:
        assert {service: check(server.channel, service) for service in ("", EMBEDDING, MODEL)} == {
            "": NOT_SERVING,
            EMBEDDING: NOT_SERVING,
            MODEL: SERVING,
        }
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(service=EMBEDDING), timeout=30)
        assert [next(watch).status, next(watch).status] == [NOT_SERVING, SERVING]
        watch.cancel()
        assert check(server.channel) == SERVING


def test_a_model_that_cannot_be_loaded_never_serves():
    with serve(description={"refuse": "MODEL_NOT_SUPPORTED"}) as server:
        assert check(server.channel) == NOT_SERVING


def test_while_the_worker_is_replaced_nothing_serves_and_then_it_does_again():
    with serve() as server:
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watch).status == SERVING
        with pytest.raises(grpc.RpcError):
            server.channel.unary_unary("/hubwire.v1.EmbeddingService/Embed")(
                embedding_pb2.EmbedRequest(texts=["crash"]).SerializeToString()
            )
        assert next(watch).status == NOT_SERVING
        assert next(watch).status == SERVING
        watch.cancel()


def test_a_server_that_stops_says_so_before_it_goes():
    with serve(settings=Settings(shutdown_grace_s=10)) as server:
        call = server.channel.unary_unary("/hubwire.v1.EmbeddingService/Embed").future(
            embedding_pb2.EmbedRequest(texts=["slow"] * 3).SerializeToString()
        )
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watch).status == SERVING
        while server.app.dispatcher.used_tokens == 0:
            time.sleep(0.001)
        stopping = threading.Thread(target=lambda: server.on_loop(server.app.stop))
        stopping.start()
        assert next(watch).status == NOT_SERVING
        assert len(embedding_pb2.EmbedResponse.FromString(call.result(timeout=30)).vectors) == 3
        stopping.join(timeout=30)


def test_reflection_knows_the_reasons_of_errors(server):
    method = server.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = method(iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol="hubwire.v1.ErrorReason")]))
    files = [descriptor_pb2.FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto]
    assert "ErrorReason" in [enum.name for file in files for enum in file.enum_type]


def test_a_server_listens_on_a_socket_file(tmp_path):
    with serve(settings=Settings(address=f"unix:{tmp_path}/socket", shutdown_grace_s=0.2)) as server:
        assert check(server.channel) == SERVING


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_describes_every_service_and_itself(server, version):
    method = server.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    (listed,) = method(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = {service.name for service in listed.list_services_response.service}
    # Every service that the protos define is served.
    assert names == {
        *(f"hubwire.v1.{name}" for name in DEFINED),
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    for name in names:
        (answer,) = method(iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)]))
        files = [descriptor_pb2.FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto]
        services = {f"{file.package}.{service.name}" for file in files for service in file.service}
        assert name in services
