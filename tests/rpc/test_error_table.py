"""Every reason of errors.proto, as a caller sees it: code, reason, field, retry."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import grpc
import pytest

import hubwire
from hubwire.v1 import embedding_pb2 as embedding
from hubwire.v1 import embedding_pb2_grpc, model_pb2, model_pb2_grpc
from hubwire_server.errors import REASONS, HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.settings import Settings
from hubwire_server.status import to_status
from hubwire_server.tasks.embedding import EmbeddingTask, EmbedRequest
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, TextLimits, Texts
from tests.conftest import Server, serve
from tests.rpc.conftest import Details, read_error, read_status
from tests.rpc.error_cases import Call, Case


def embed(*texts: str, model: str = "", **options) -> Call:
    return lambda server: embedding_pb2_grpc.EmbeddingServiceStub(server.channel).Embed(
        embedding.EmbedRequest(texts=texts, model=model, options=embedding.EmbedOptions(**options)), timeout=60
    )


def embed_tokens(*texts: str, **fields) -> Call:
    return lambda server: embedding_pb2_grpc.EmbeddingServiceStub(server.channel).EmbedTokens(
        embedding.EmbedTokensRequest(texts=texts, options=embedding.EmbedTokensOptions(**fields)), timeout=60
    )


def raw(method: str, data: bytes) -> Call:
    return lambda server: server.channel.unary_unary(method)(data, timeout=60)


def stream(*requests: embedding.StreamEmbedRequest) -> Call:
    return lambda server: list(embedding_pb2_grpc.EmbeddingServiceStub(server.channel).StreamEmbed(iter(requests), timeout=60))


def get(name: str) -> Call:
    return lambda server: model_pb2_grpc.ModelServiceStub(server.channel).GetModel(model_pb2.GetModelRequest(name=name), timeout=60)


def load(**fields) -> Call:
    return lambda server: list(model_pb2_grpc.ModelServiceStub(server.channel).LoadModel(model_pb2.LoadModelRequest(**fields), timeout=60))


def load_refused(reason: Reason) -> Call:
    """Loads a folder whose fake model refuses for a reason."""

    def call(server: Server) -> object:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps({"refuse": reason}))
            return load(source=folder, name="n")(server)

    return call


def list_models(**fields) -> Call:
    return lambda server: model_pb2_grpc.ModelServiceStub(server.channel).ListModels(model_pb2.ListModelsRequest(**fields), timeout=60)


def unload(name: str) -> Call:
    return lambda server: model_pb2_grpc.ModelServiceStub(server.channel).UnloadModel(model_pb2.UnloadModelRequest(name=name), timeout=60)


def options(**fields) -> embedding.StreamEmbedRequest:
    return embedding.StreamEmbedRequest(options=embedding.StreamEmbedOptions(options=embedding.EmbedOptions(**fields)))


OPTIONS = embedding.StreamEmbedRequest(options=embedding.StreamEmbedOptions())
ITEMS = embedding.StreamEmbedRequest(items=embedding.StreamEmbedItems(items=[embedding.StreamEmbedItem(id="1", text="w1")]))
LONG = " ".join(["w1"] * 100)


def overload(server: Server) -> object:
    """A second call while the first one fills the queue."""
    stub = embedding_pb2_grpc.EmbeddingServiceStub(server.channel)
    first = stub.Embed.future(embedding.EmbedRequest(texts=["slow w1 w2"] * 8), timeout=60)
    try:
        while server.app.dispatcher.used_tokens == 0:
            assert not first.done()
        return stub.Embed(embedding.EmbedRequest(texts=["w1"] * 8), timeout=60)
    finally:
        first.result()


def shut_down(server: Server) -> object:
    """A call that the server accepted and could not finish within its grace."""
    stub = embedding_pb2_grpc.EmbeddingServiceStub(server.channel)
    call = stub.Embed.future(embedding.EmbedRequest(texts=["hang"]), timeout=60)
    while server.app.dispatcher.used_tokens == 0:
        assert not call.done()
    threading.Thread(target=lambda: server.on_loop(server.app.stop)).start()
    return call.result()


def expired(server: Server) -> object:
    """A text whose deadline passes while it waits. Through gRPC the client's own clock would end the call first: this goes in by the
    task."""

    async def run() -> object:
        texts = Texts(TextLimits(max_texts=9, max_text_bytes=99, max_request_bytes=999), threads=1)
        task = EmbeddingTask(TextTask(server.app.registry, server.app.dispatcher, texts))
        return await task.embed(EmbedRequest(texts=["w1"]), Caller(client="c", deadline_ns=1))

    return server.on_loop(run)


CASES = [
    Case("truncated bytes", Reason.MALFORMED_REQUEST, raw("/hubwire.v1.EmbeddingService/Embed", b"\x12\x20abc")),
    Case("bytes of another message", Reason.MALFORMED_REQUEST, raw("/hubwire.v1.EmbeddingService/EmbedTokens", b"\x12\x02\xff\xfe")),
    Case("truncated bytes for the model service", Reason.MALFORMED_REQUEST, raw("/hubwire.v1.ModelService/GetModel", b"\x0a\x05a")),
    Case("no texts", Reason.FIELD_REQUIRED, embed(), "texts"),
    Case("no texts for tokens", Reason.FIELD_REQUIRED, embed_tokens(), "texts"),
    Case("no name of a model", Reason.FIELD_REQUIRED, get(""), "name"),
    Case("no source of a model", Reason.FIELD_REQUIRED, load(), "source"),
    Case("a stream message without items", Reason.FIELD_REQUIRED, stream(OPTIONS, embedding.StreamEmbedRequest()), "items"),
    Case(
        "a stream message with no item",
        Reason.FIELD_REQUIRED,
        stream(OPTIONS, embedding.StreamEmbedRequest(items=embedding.StreamEmbedItems())),
        "items.items",
    ),
    Case("unknown pooling", Reason.ENUM_UNKNOWN, embed("w1", pooling=99), "options.pooling"),
    Case("unknown encoding", Reason.ENUM_UNKNOWN, embed("w1", encoding=-1), "options.encoding"),
    Case("unknown side", Reason.ENUM_UNKNOWN, embed("w1", truncation={"side": 7}), "options.truncation.side"),
    Case("unknown side for tokens", Reason.ENUM_UNKNOWN, embed_tokens("w1", truncation={"side": 7}), "options.truncation.side"),
    Case("unknown unit", Reason.ENUM_UNKNOWN, embed_tokens("w1", offset_unit=9), "options.offset_unit"),
    Case("unknown encoding of tokens", Reason.ENUM_UNKNOWN, embed_tokens("w1", encoding=9), "options.encoding"),
    Case("unknown task", Reason.ENUM_UNKNOWN, load(source="x", task=99), "task"),
    Case("too many dimensions", Reason.VALUE_OUT_OF_RANGE, embed("w1", dimensions=9), "options.dimensions"),
    Case(
        "truncation above the model", Reason.VALUE_OUT_OF_RANGE, embed("w1", truncation={"max_tokens": 33}), "options.truncation.max_tokens"
    ),
    Case("truncation to nothing", Reason.VALUE_OUT_OF_RANGE, embed("w1", truncation={"max_tokens": 2}), "options.truncation.max_tokens"),
    Case(
        "truncation of tokens",
        Reason.VALUE_OUT_OF_RANGE,
        embed_tokens("w1", truncation={"max_tokens": 99}),
        "options.truncation.max_tokens",
    ),
    Case("an empty text", Reason.TEXT_EMPTY, embed("w1", ""), "texts[1]"),
    Case("a text of 5 MB", Reason.TEXT_TOO_LARGE, embed("w " * 2_500_000), "texts[0]"),
    Case("a text of many bytes and fewer characters", Reason.TEXT_TOO_LARGE, embed("é" * 600_000), "texts[0]"),
    Case("a text over the limit", Reason.TEXT_TOO_LONG, embed("w1", LONG), "texts[1]"),
    Case("a text over the limit for tokens", Reason.TEXT_TOO_LONG, embed_tokens(LONG), "texts[0]"),
    Case("too many texts", Reason.TOO_MANY_TEXTS, embed(*["w1"] * 2_049), "texts"),
    Case("an unknown prompt", Reason.PROMPT_NOT_FOUND, embed("w1", prompt_name="none"), "options.prompt_name", model="fake"),
    Case("a pooling that does not fit", Reason.OPTION_NOT_SUPPORTED, embed("w1", pooling=3), "options.pooling", "fixed", "fake"),
    Case("a prompt that is too large", Reason.TEXT_TOO_LARGE, embed("w1", prompt="w " * 600_000), "options.prompt"),
    Case(
        "a prompt that is too large for so many texts",
        Reason.TEXT_TOO_LARGE,
        embed(*["w1"] * 2_000, prompt="w " * 10_000),
        "options.prompt",
    ),
    Case("too many dimensions for a stream", Reason.VALUE_OUT_OF_RANGE, stream(options(dimensions=9)), "options.options.dimensions"),
    Case("unknown pooling for a stream", Reason.ENUM_UNKNOWN, stream(options(pooling=9)), "options.options.pooling"),
    Case(
        "a truncation that does not fit for a stream",
        Reason.VALUE_OUT_OF_RANGE,
        stream(options(truncation={"max_tokens": 99_999}), ITEMS),
        "options.options.truncation.max_tokens",
    ),
    Case("no last part to name a model after", Reason.VALUE_OUT_OF_RANGE, load(source="/"), "name"),
    Case("a name that breaks lines", Reason.VALUE_OUT_OF_RANGE, load(source="x", name="a\nb"), "name"),
    Case("a name that no flag can hold", Reason.VALUE_OUT_OF_RANGE, load(source="x", name="a=b"), "name"),
    Case("a source that is none", Reason.VALUE_OUT_OF_RANGE, load(source="a b c"), "source"),
    Case("a revision of a folder", Reason.OPTION_NOT_SUPPORTED, load(source="./x", revision="main"), "revision"),
    Case("a path that is too long", Reason.MODEL_SOURCE_NOT_FOUND, load(source="/" + "x" * 5_000, name="n"), model="n"),
    Case("a page of fewer models than none", Reason.VALUE_OUT_OF_RANGE, list_models(page_size=-1), "page_size"),
    Case("items before options", Reason.STREAM_OUT_OF_ORDER, stream(ITEMS), "options"),
    Case("options twice", Reason.STREAM_OUT_OF_ORDER, stream(OPTIONS, ITEMS, OPTIONS), "options"),
    Case("an unknown method", Reason.METHOD_NOT_FOUND, raw("/hubwire.v1.EmbeddingService/Nothing", b"")),
    Case("an unknown service", Reason.METHOD_NOT_FOUND, raw("/nothing.v1.Nothing/Nothing", b"")),
    Case("an unknown model", Reason.MODEL_NOT_FOUND, embed("w1", model="none"), model="none"),
    Case("an unknown model to get", Reason.MODEL_NOT_FOUND, get("none"), model="none"),
    Case("an unknown model to unload", Reason.MODEL_NOT_FOUND, unload("none"), model="none"),
    Case("a model that loads", Reason.MODEL_NOT_READY, embed("w1"), server="loading", model="fake"),
    Case("a model that loads to unload", Reason.MODEL_NOT_READY, unload("fake"), server="loading", model="fake"),
    Case("a model whose loading ends the worker", Reason.MODEL_LOAD_FAILED, embed("w1"), server="crashing", model="fake"),
    Case("a name that is taken", Reason.MODEL_ALREADY_EXISTS, load(source="x", name="fake"), model="fake"),
    Case("a folder that is not there", Reason.MODEL_SOURCE_NOT_FOUND, load(source="./no/such/folder", name="n"), model="n"),
    Case("a package that is not there", Reason.MODEL_SOURCE_NOT_FOUND, load(source="package:no_such_package/f", name="n"), model="n"),
    Case("a model that is not allowed", Reason.MODEL_NOT_ALLOWED, load_refused(Reason.MODEL_NOT_ALLOWED), model="n"),
    Case("a model that is not supported", Reason.MODEL_NOT_SUPPORTED, load_refused(Reason.MODEL_NOT_SUPPORTED), model="n"),
    Case("a full queue", Reason.OVERLOADED, overload, server="small"),
    Case("a deadline that passes in the queue", Reason.DEADLINE_EXCEEDED, expired, model="fake"),
    Case("a text that kills the worker", Reason.WORKER_CRASHED, embed("w1", "crash"), "texts[1]", model="fake"),
    Case("a text that gives NaN", Reason.OUTPUT_NOT_FINITE, embed("w1", "nan"), "texts[1]", model="fake"),
    Case("a token that gives NaN", Reason.OUTPUT_NOT_FINITE, embed_tokens("w1", "nan"), "texts[1]", model="fake"),
    Case("a computation that fails", Reason.INTERNAL, embed("fail"), model="fake"),
    Case("a call that outlives the server", Reason.SHUTTING_DOWN, shut_down, server="stopping", model="fake"),
]

SERVERS = {
    "plain": {},
    "fixed": {"description": {"pooling_fixed": True}},
    "loading": {"description": {"load_seconds": 60}, "ready": False},
    "crashing": {"description": {"crash_at_load": True}},
    "small": {"settings": Settings(max_waiting_tokens=50, shutdown_grace_s=0.2)},
    "stopping": {},
    **{str(task): {"task": task} for task in Task if task is not Task.PIPELINE},
}
TABLE = [
    *CASES,
    *(case for module in sorted(Path(__file__).parent.glob("cases_*.py")) for case in import_module(f"tests.rpc.{module.stem}").CASES),
]
"""The cases of this file, and those of each service's own."""


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], Server]]:
    """Each kind of server, started when a case first asks for it."""
    started: dict[str, tuple[object, Server]] = {}

    def get(kind: str) -> Server:
        if kind not in started:
            context = serve(**SERVERS[kind])
            started[kind] = (context, context.__enter__())
        return started[kind][1]

    yield get
    for kind, (context, _) in started.items():
        if kind != "stopping":
            context.__exit__(None, None, None)


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_bad_input_is_answered_with_code_reason_and_field(case: Case, servers):
    server = servers(case.server)
    details = error_of(case, server)
    assert details.reason == case.reason
    assert details.code == REASONS[case.reason].code
    assert details.message
    assert details.field == (case.field if details.code == "INVALID_ARGUMENT" else "")
    assert (details.retry_ms is not None) == REASONS[case.reason].retryable
    assert details.retry_ms is None or details.retry_ms > 0
    assert details.model == case.model


def error_of(case: Case, server: Server) -> Details:
    with pytest.raises((grpc.RpcError, HubwireError)) as caught:
        case.call(server)
    if isinstance(caught.value, HubwireError):
        return read_status(to_status(caught.value))
    return read_error(caught.value)


def test_the_table_covers_every_reason():
    assert {case.reason for case in TABLE} | {Reason.MESSAGE_TOO_LARGE} == set(Reason)


def test_a_message_of_100_mb_is_refused_by_grpc_itself_and_the_client_names_the_reason(server):
    request = embedding.EmbedRequest(texts=["x" * 1_000_000] * 100)
    with pytest.raises(grpc.RpcError) as caught:
        embedding_pb2_grpc.EmbeddingServiceStub(server.channel).Embed(request, timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with hubwire.Client(server.address) as client, pytest.raises(hubwire.HubwireError) as seen:
        client.embed(list(request.texts))
    assert seen.value.reason == Reason.MESSAGE_TOO_LARGE
    assert seen.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("character", ["x", "é", "日", "😀", "\n"])
def test_what_an_error_quotes_never_changes_its_code(servers, character):
    """gRPC replaces a status whose trailers are too long, at random: so each is asked for many times."""
    server = servers("plain")
    for _ in range(20):
        for case, code in ((get(character * 3_000), "NOT_FOUND"), (embed("w1", prompt_name=character * 3_000), "INVALID_ARGUMENT")):
            details = error_of(Case("", Reason.INTERNAL, case), server)
            assert details.code == code
            assert details.reason


def test_after_all_of_that_the_server_serves(servers):
    server = servers("plain")
    assert len(embed("w1", "w2")(server).vectors) == 2
    assert server.app.dispatcher.used_tokens == 0
    assert server.app.dispatcher.waiting_texts == 0
