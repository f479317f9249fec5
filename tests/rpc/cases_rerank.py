"""What RerankService refuses."""

from __future__ import annotations

from hubwire.v1 import rerank_pb2, rerank_pb2_grpc
from hubwire_server.errors import Reason
from hubwire_server.models.description import Task
from tests.rpc.error_cases import Call, Case

SERVER = str(Task.RERANK)
LONG = " ".join(["w1"] * 100)


def rerank(*documents: str, query: str = "w1", model: str = "", **options) -> Call:
    request = rerank_pb2.RerankRequest(query=query, documents=documents, model=model, options=rerank_pb2.RerankOptions(**options))
    return lambda server: rerank_pb2_grpc.RerankServiceStub(server.channel).Rerank(request, timeout=60)


def malformed(server) -> object:
    return server.channel.unary_unary("/hubwire.v1.RerankService/Rerank")(b"\x1a\x20abc", timeout=60)


CASES = [
    Case("rerank: truncated bytes", Reason.MALFORMED_REQUEST, malformed, server=SERVER),
    Case("rerank: zero documents", Reason.FIELD_REQUIRED, rerank(), "documents", SERVER),
    Case("rerank: no query", Reason.FIELD_REQUIRED, rerank("w1", query=""), "query", SERVER),
    Case("rerank: an empty document", Reason.TEXT_EMPTY, rerank("w1", ""), "documents[1]", SERVER),
    Case("rerank: a document of 5 MB", Reason.TEXT_TOO_LARGE, rerank("w " * 2_500_000), "documents[0]", SERVER),
    Case("rerank: a query of 5 MB", Reason.TEXT_TOO_LARGE, rerank("w1", query="w " * 2_500_000), "query", SERVER),
    Case("rerank: a query that is large for so many", Reason.TEXT_TOO_LARGE, rerank(*["w1"] * 50, query="w " * 500_000), "query", SERVER),
    Case("rerank: a document over the limit", Reason.TEXT_TOO_LONG, rerank("w1", LONG), "documents[1]", SERVER),
    Case("rerank: a query over the limit", Reason.TEXT_TOO_LONG, rerank("w1", query=LONG), "documents[0]", SERVER),
    Case("rerank: too many documents", Reason.TOO_MANY_TEXTS, rerank(*["w1"] * 2_049), "documents", SERVER),
    Case("rerank: unknown scoring", Reason.ENUM_UNKNOWN, rerank("w1", scoring=9), "options.scoring", SERVER),
    Case("rerank: an unknown side", Reason.ENUM_UNKNOWN, rerank("w1", truncation={"side": 7}), "options.truncation.side", SERVER),
    Case(
        "rerank: truncation that leaves nothing",
        Reason.VALUE_OUT_OF_RANGE,
        rerank("w1", truncation={"max_tokens": 4}),
        "options.truncation.max_tokens",
        SERVER,
    ),
    Case("rerank: a document that gives NaN", Reason.OUTPUT_NOT_FINITE, rerank("w1", "nan"), server=SERVER, model="fake"),
    Case("rerank: a document that kills the worker", Reason.WORKER_CRASHED, rerank("w1", "crash"), server=SERVER, model="fake"),
    Case(
        "rerank: a head of three labels",
        Reason.OPTION_NOT_SUPPORTED,
        rerank("w1", model="fake"),
        "model",
        str(Task.ZERO_SHOT_CLASSIFICATION),
        "fake",
    ),
    Case("rerank: no model for it", Reason.MODEL_NOT_FOUND, rerank("w1")),
    Case("rerank: an unknown model", Reason.MODEL_NOT_FOUND, rerank("w1", model="none"), server=SERVER, model="none"),
    Case("rerank: a model of another task", Reason.MODEL_NOT_FOUND, rerank("w1", model="fake"), model="fake"),
]
