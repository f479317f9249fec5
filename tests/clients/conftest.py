"""A fake server that answers every service of the client, and two doors to it: the sync client and the asyncio one."""
# ruff: noqa: N802  # the generated stubs name the methods of a service as its proto does: Embed, not embed

from __future__ import annotations

import asyncio
import io
import sys
import threading
import time
from collections import deque
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

import hubwire
from hubwire.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc, model_pb2, model_pb2_grpc
from tests.clients import fake_tasks

DIMENSIONS = 10
FIRST_MODEL = model_pb2.Model(
    name="small",
    source="org/small",
    state=model_pb2.MODEL_STATE_READY,
    task=model_pb2.TASK_EMBEDDING,
    max_tokens=8,
    backend="onnx",
    dtype="float32",
    candidates=[
        model_pb2.BackendCandidate(
            backend="torch", dtype="float32", cosine=1, short_nanos=10_400_000, mixed_nanos=81_000_000, note="packed"
        ),
        model_pb2.BackendCandidate(
            backend="onnx", dtype="float32", chosen=True, cosine=0.9999999, short_nanos=3_100_000, mixed_nanos=79_000_000
        ),
        model_pb2.BackendCandidate(backend="torch", dtype="float16", note="too slow"),
    ],
    embedding=model_pb2.EmbeddingDetails(dimensions=DIMENSIONS, pooling=[embedding_pb2.POOLING_MEAN, embedding_pb2.POOLING_MAX]),
)
SECOND_MODEL = model_pb2.Model(name="tiny", state=model_pb2.MODEL_STATE_LOADING)
SERVED = common_pb2.ServedModel(name="small", fingerprint="0123456789abcdef")


def make_status(
    code: int, message: str, reason: str = "", *, field: str = "", retry_after_s: float | None = None, model: str = "", **metadata: str
):
    """A google.rpc.Status with the details that errors.proto promises."""
    details: list[Any] = []
    if reason:
        details.append(error_details_pb2.ErrorInfo(reason=reason, domain="hubwire", metadata=metadata))
    if field:
        details.append(error_details_pb2.BadRequest(field_violations=[{"field": field, "description": message}]))
    if retry_after_s is not None:
        delay = duration_pb2.Duration(seconds=int(retry_after_s), nanos=round(retry_after_s % 1 * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if model:
        details.append(error_details_pb2.ResourceInfo(resource_type="model", resource_name=model))
    result = status_pb2.Status(code=code, message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        result.details.append(packed)
    return result


def abort(context: grpc.ServicerContext, error: status_pb2.Status) -> None:
    """End a call with a status and its details."""
    code = next(one for one in grpc.StatusCode if one.value[0] == error.code)
    context.set_trailing_metadata((("grpc-status-details-bin", error.SerializeToString()),))
    context.abort(code, error.message)


def make_numbers(text: str, dimensions: int = DIMENSIONS) -> np.ndarray:
    """The vector that the fake server gives to a text: (dimensions,) float32, of both signs."""
    seed = sum(text.encode()) + len(text)
    return np.sin(np.arange(1, dimensions + 1, dtype=np.float32) * seed).astype(np.float32)


def encode(values: np.ndarray, encoding: int) -> common_pb2.Vector:
    """A vector, or a matrix row after row, as the contract lays it out."""
    if encoding == common_pb2.VECTOR_ENCODING_FLOAT32_BYTES:
        return common_pb2.Vector(data=values.astype("<f4").tobytes())
    if encoding == common_pb2.VECTOR_ENCODING_FLOAT16_BYTES:
        return common_pb2.Vector(data=values.astype("<f2").tobytes())
    if encoding == common_pb2.VECTOR_ENCODING_INT8_BYTES:
        scale = float(np.abs(values).max()) / 127
        return common_pb2.Vector(data=np.rint(values / scale).astype("i1").tobytes(), scale=scale)
    if encoding == common_pb2.VECTOR_ENCODING_BINARY_BYTES:
        return common_pb2.Vector(data=np.packbits(values > 0, axis=-1).tobytes())
    return common_pb2.Vector(values=values.ravel().tolist())


@dataclass
class FakeServer:
    """What tests set and read. Handlers run on threads of their own."""

    address: str = ""
    requests: list[Any] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    failures: deque[status_pb2.Status] = field(default_factory=deque)
    """The next calls end with these, one each."""
    delay_s: float = 0.0
    """What every call and every message of a stream takes."""
    stream_failure: status_pb2.Status | None = None
    """What a stream ends with after its first message of items."""
    gate: threading.Event = field(default_factory=threading.Event)
    """A stream reads items only while this is set. It is, at first."""
    item_failure: status_pb2.Status | None = None
    """How every item of a stream is answered, where it is set."""
    silent: bool = False
    """A stream ends without answering."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set once a stream was cancelled."""
    unloaded: list[str] = field(default_factory=list)
    models: list[model_pb2.Model] = field(default_factory=lambda: [FIRST_MODEL, SECOND_MODEL])
    """What is listed."""
    page_size: int = 1000
    """The most models on a page."""
    endless: bool = False
    """Every page of models leads to itself."""

    def begin(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.times.append(time.monotonic())
        self.metadata = {item.key: item.value for item in context.invocation_metadata()}
        if self.failures:
            abort(context, self.failures.popleft())
        time.sleep(self.delay_s)

    def stream(self, request_iterator: Any, context: grpc.ServicerContext):
        """The items of each message of a stream, after its options."""
        self.begin(next(request_iterator), context)
        for message in request_iterator:
            self.requests.append(message)
            yield message.items.items


class Embedding(embedding_pb2_grpc.EmbeddingServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def Embed(self, request, context):
        self.fake.begin(request, context)
        width = request.options.dimensions or DIMENSIONS
        vectors = [encode(make_numbers(text, width), request.options.encoding) for text in request.texts]
        usage = common_pb2.Usage(input_tokens=3 * len(vectors))
        return embedding_pb2.EmbedResponse(vectors=vectors, dimensions=width, model=SERVED, usage=usage)

    def EmbedTokens(self, request, context):
        self.fake.begin(request, context)
        response = embedding_pb2.EmbedTokensResponse(dimensions=DIMENSIONS, model=SERVED)
        for text in request.texts:
            rows = np.stack([make_numbers(part) for part in ("[CLS]", *text)])
            spans = [common_pb2.Span(), *(common_pb2.Span(start=at, end=at + 1) for at in range(len(text)))]
            ids, mask = range(len(rows)), [True, *[False] * len(text)]
            response.embeddings.add(vectors=encode(rows, request.options.encoding), token_ids=ids, spans=spans, special_tokens_mask=mask)
        return response

    def StreamEmbed(self, request_iterator, context):
        opening = next(request_iterator)
        self.fake.begin(opening, context)
        context.add_callback(lambda: self.fake.cancelled.set() if not finished else None)
        finished: list[bool] = []
        while self.fake.gate.wait(30) and (message := next(request_iterator, None)) is not None:
            self.fake.requests.append(message)
            time.sleep(self.fake.delay_s)
            if self.fake.silent:
                continue
            results = [self._result(item, opening.options.options) for item in message.items.items]
            yield embedding_pb2.StreamEmbedResponse(
                results=results, dimensions=opening.options.options.dimensions or DIMENSIONS, model=SERVED
            )
            if self.fake.stream_failure is not None:
                abort(context, self.fake.stream_failure)
        finished.append(True)

    def EmbedSparse(self, request, context):
        self.fake.begin(request, context)
        vectors = [fake_tasks.sparse(text, with_tokens=request.options.return_tokens) for text in request.texts]
        return embedding_pb2.EmbedSparseResponse(vectors=vectors, dimensions=0x110000)

    def StreamEmbedSparse(self, request_iterator, context):
        for items in self.fake.stream(request_iterator, context):
            response = embedding_pb2.StreamEmbedSparseResponse(dimensions=0x110000)
            for item in items:
                result = response.results.add(id=item.id)
                if item.text:
                    result.vector.CopyFrom(fake_tasks.sparse(item.text, with_tokens=False))
                else:
                    result.error.CopyFrom(fake_tasks.empty_text())
            yield response

    def _result(self, item, options):
        if self.fake.item_failure is not None:
            return embedding_pb2.StreamEmbedResult(id=item.id, error=self.fake.item_failure)
        if not item.text:
            return embedding_pb2.StreamEmbedResult(
                id=item.id, error=make_status(code_pb2.INVALID_ARGUMENT, "text has no characters", "TEXT_EMPTY", field="text")
            )
        return embedding_pb2.StreamEmbedResult(
            id=item.id, vector=encode(make_numbers(item.text, options.dimensions or DIMENSIONS), options.encoding)
        )


class Models(model_pb2_grpc.ModelServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def ListModels(self, request, context):
        self.fake.begin(request, context)
        begin = int(request.page_token or 0)
        end = begin + min(self.fake.page_size, request.page_size)
        token = "7" if self.fake.endless else str(end) if end < len(self.fake.models) else ""
        return model_pb2.ListModelsResponse(models=self.fake.models[begin:end], next_page_token=token)

    def GetModel(self, request, context):
        self.fake.begin(request, context)
        if request.name != "small":
            abort(context, make_status(code_pb2.NOT_FOUND, f"no model {request.name!r}", "MODEL_NOT_FOUND", model=request.name))
        return model_pb2.GetModelResponse(model=FIRST_MODEL)

    def LoadModel(self, request, context):
        self.fake.begin(request, context)
        yield model_pb2.LoadModelResponse(state=model_pb2.MODEL_STATE_DOWNLOADING, message="fetching", done_bytes=1, total_bytes=2)
        if request.source == "org/broken":
            abort(context, make_status(code_pb2.FAILED_PRECONDITION, "no weights", "MODEL_LOAD_FAILED", model="broken"))
        if request.source != "org/forgotten":
            name, ready = request.name or request.source.rpartition("/")[2], model_pb2.MODEL_STATE_READY
            yield model_pb2.LoadModelResponse(state=ready, model=model_pb2.Model(name=name, revision=request.revision, state=ready))

    def UnloadModel(self, request, context):
        self.fake.begin(request, context)
        self.fake.unloaded.append(request.name)
        return model_pb2.UnloadModelResponse()


class Health(health_pb2_grpc.HealthServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def Check(self, request, context):
        self.fake.begin(request, context)
        if request.service == "unknown":
            context.abort(grpc.StatusCode.NOT_FOUND, "")  # grpc_health sends no words either
        serving = request.service != "resting"
        return health_pb2.HealthCheckResponse(
            status=health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        )


def start(fake: FakeServer, address: str = "127.0.0.1:0") -> grpc.Server:
    """Serve. The fake learns its address."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0)])
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(Embedding(fake), server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(Models(fake), server)
    fake_tasks.add_services(fake, server)
    health_pb2_grpc.add_HealthServicer_to_server(Health(fake), server)
    fake.address = f"127.0.0.1:{server.add_insecure_port(address)}"
    server.start()
    return server


@pytest.fixture
def fake():
    """A running server."""
    fake = FakeServer()
    fake.gate.set()
    server = start(fake)
    yield fake
    fake.gate.set()
    server.stop(None).wait()


@pytest.fixture
def serve():
    """A function that starts one more server, at a given address."""
    servers: list[grpc.Server] = []

    def serve_at(address: str) -> None:
        fake = FakeServer()
        fake.gate.set()
        servers.append(start(fake, address))

    yield serve_at
    for server in servers:
        server.stop(None).wait()


class AioDoor:
    """The asyncio client with the methods of the sync one, on a loop of its own, so that one test drives both."""

    def __init__(self, address: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._open(address, options))

    async def _open(self, address: str, options: dict[str, Any]) -> hubwire.aio.Client:
        return hubwire.aio.Client(address, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return self._drain(result) if hasattr(result, "__anext__") else self._runner.run(self._wait(result))

        return call

    async def _wait(self, result: Any) -> Any:
        return await result

    def _drain(self, results: Any) -> Any:
        try:
            while True:
                try:
                    result = self._runner.run(self._wait(anext(results)))
                except StopAsyncIteration:
                    return
                yield result
        finally:
            self._runner.run(self._wait(results.aclose()))

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(params=["sync", "aio"])
def connect(request, fake):
    """A function that opens a client of the fake server, for each of both doors."""
    opened: list[Any] = []

    def open_client(address: str = "", **options: Any) -> Any:
        kind = hubwire.Client if request.param == "sync" else AioDoor
        opened.append(kind(address or fake.address, **options))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()


@pytest.fixture
def client(connect):
    return connect()


@pytest.fixture
def status():
    """Makes a google.rpc.Status with details."""
    return make_status


@pytest.fixture
def numbers():
    """Gives the vector of a text."""
    return make_numbers


@pytest.fixture
def address(fake, monkeypatch):
    """Names the fake server to the command line."""
    monkeypatch.setenv("HUBWIRE_ADDRESS", fake.address)
    monkeypatch.setenv("GRPC_VERBOSITY", "NONE")  # as the command sets it where it is not set: so that it is undone


@pytest.fixture
def stdin(monkeypatch):
    """A function that puts text on stdin."""

    def put(text):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    return put
