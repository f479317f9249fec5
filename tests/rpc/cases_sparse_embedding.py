"""Bad input for the sparse methods of EmbeddingService."""

from __future__ import annotations

from hubwire.v1 import embedding_pb2, embedding_pb2_grpc
from hubwire_server.errors import Reason
from hubwire_server.models.description import Task
from tests.rpc.error_cases import Call, Case

SERVER = str(Task.SPARSE_EMBEDDING)
LONG = " ".join(["w1"] * 40)
OPTIONS = embedding_pb2.StreamEmbedSparseRequest(options=embedding_pb2.StreamEmbedSparseOptions())
ITEMS = embedding_pb2.StreamEmbedSparseRequest(
    items=embedding_pb2.StreamEmbedItems(items=[embedding_pb2.StreamEmbedItem(id="1", text="w1")])
)


def embed(*texts: str, model: str = "", **options) -> Call:
    return lambda server: embedding_pb2_grpc.EmbeddingServiceStub(server.channel).EmbedSparse(
        embedding_pb2.EmbedSparseRequest(texts=texts, model=model, options=embedding_pb2.EmbedSparseOptions(**options)), timeout=60
    )


def stream(*requests: embedding_pb2.StreamEmbedSparseRequest) -> Call:
    return lambda server: list(embedding_pb2_grpc.EmbeddingServiceStub(server.channel).StreamEmbedSparse(iter(requests), timeout=60))


def options(**fields) -> embedding_pb2.StreamEmbedSparseRequest:
    return embedding_pb2.StreamEmbedSparseRequest(
        options=embedding_pb2.StreamEmbedSparseOptions(options=embedding_pb2.EmbedSparseOptions(**fields))
    )


def raw(server):
    return server.channel.unary_unary("/hubwire.v1.EmbeddingService/EmbedSparse")(b"\x12\x20abc", timeout=60)


CASES = [
    Case("truncated bytes for sparse vectors", Reason.MALFORMED_REQUEST, raw, server=SERVER),
    Case("no texts for sparse vectors", Reason.FIELD_REQUIRED, embed(), "texts", SERVER),
    Case("an empty text for sparse vectors", Reason.TEXT_EMPTY, embed("w1", ""), "texts[1]", SERVER),
    Case("a text over the limit for sparse vectors", Reason.TEXT_TOO_LONG, embed("w1", LONG), "texts[1]", SERVER),
    Case("an unknown side for sparse vectors", Reason.ENUM_UNKNOWN, embed("w1", truncation={"side": 7}), "options.truncation.side", SERVER),
    Case(
        "a truncation above the model for sparse vectors",
        Reason.VALUE_OUT_OF_RANGE,
        embed("w1", truncation={"max_tokens": 33}),
        "options.truncation.max_tokens",
        SERVER,
    ),
    Case(
        "a truncation above the model for a stream of sparse vectors",
        Reason.VALUE_OUT_OF_RANGE,
        stream(options(truncation={"max_tokens": 33}), ITEMS),
        "options.options.truncation.max_tokens",
        SERVER,
    ),
    Case("sparse vectors of an embedding model", Reason.MODEL_NOT_FOUND, embed("w1"), "model"),
    Case("sparse vectors of an embedding model by name", Reason.MODEL_NOT_FOUND, embed("w1", model="fake"), "model", model="fake"),
    Case("a stream of sparse vectors of an embedding model", Reason.MODEL_NOT_FOUND, stream(OPTIONS, ITEMS), "options.model"),
    Case("sparse items before options", Reason.STREAM_OUT_OF_ORDER, stream(ITEMS), "options", SERVER),
    Case("sparse options twice", Reason.STREAM_OUT_OF_ORDER, stream(OPTIONS, ITEMS, OPTIONS), "options", SERVER),
    Case(
        "a stream message without sparse items",
        Reason.FIELD_REQUIRED,
        stream(OPTIONS, embedding_pb2.StreamEmbedSparseRequest()),
        "items",
        SERVER,
    ),
    Case("a sparse vector of NaN", Reason.OUTPUT_NOT_FINITE, embed("w1", "nan w2"), "texts[1]", SERVER, "fake"),
    Case("a text for a sparse vector that kills the worker", Reason.WORKER_CRASHED, embed("w1", "crash"), "texts[1]", SERVER, "fake"),
]
