"""What TokenClassificationService refuses."""

from __future__ import annotations

from hubwire.v1 import token_classification_pb2, token_classification_pb2_grpc
from hubwire_server.errors import Reason
from hubwire_server.models.description import Task
from tests.rpc.error_cases import Call, Case

SERVER = str(Task.TOKEN_CLASSIFICATION)
LONG = " ".join(["w1"] * 100)


def classify(*texts: str, split: tuple[list[str], ...] = (), model: str = "", **options) -> Call:
    request = token_classification_pb2.ClassifyTokensRequest(
        texts=texts,
        split_texts=[token_classification_pb2.Words(words=words) for words in split],
        model=model,
        options=token_classification_pb2.ClassifyTokensOptions(**options),
    )
    return lambda server: token_classification_pb2_grpc.TokenClassificationServiceStub(server.channel).ClassifyTokens(request, timeout=60)


def stream(*requests: token_classification_pb2.StreamClassifyTokensRequest) -> Call:
    def call(server) -> object:
        stub = token_classification_pb2_grpc.TokenClassificationServiceStub(server.channel)
        return list(stub.StreamClassifyTokens(iter(requests), timeout=60))

    return call


def stream_options(**options) -> token_classification_pb2.StreamClassifyTokensRequest:
    fields = {"options": token_classification_pb2.ClassifyTokensOptions(**options)}
    return token_classification_pb2.StreamClassifyTokensRequest(options=token_classification_pb2.StreamClassifyTokensOptions(**fields))


def malformed(server) -> object:
    return server.channel.unary_unary("/hubwire.v1.TokenClassificationService/ClassifyTokens")(b"\x12\x20abc", timeout=60)


ITEMS = token_classification_pb2.StreamClassifyTokensRequest(
    items=token_classification_pb2.StreamClassifyTokensItems(items=[token_classification_pb2.StreamClassifyTokensItem(id="1", text="w1")])
)
CASES = [
    Case("tokens: truncated bytes", Reason.MALFORMED_REQUEST, malformed, server=SERVER),
    Case("tokens: no texts", Reason.FIELD_REQUIRED, classify(), "texts", SERVER),
    Case("tokens: a text without words", Reason.FIELD_REQUIRED, classify(split=(["w1"], [])), "split_texts[1].words", SERVER),
    Case("tokens: an empty text", Reason.TEXT_EMPTY, classify("w1", ""), "texts[1]", SERVER),
    Case("tokens: an empty word", Reason.TEXT_EMPTY, classify(split=(["w1"], ["w1", ""])), "split_texts[1].words[1]", SERVER),
    Case("tokens: a text of 5 MB", Reason.TEXT_TOO_LARGE, classify("w " * 2_500_000), "texts[0]", SERVER),
    Case("tokens: words of 5 MB", Reason.TEXT_TOO_LARGE, classify(split=(["w1"], ["w"] * 2_500_000)), "split_texts[1]", SERVER),
    Case("tokens: a text over the limit", Reason.TEXT_TOO_LONG, classify("w1", LONG), "texts[1]", SERVER),
    Case("tokens: words over the limit", Reason.TEXT_TOO_LONG, classify(split=(LONG.split(),)), "split_texts[0]", SERVER),
    Case("tokens: too many texts", Reason.TOO_MANY_TEXTS, classify(*["w1"] * 2_049), "texts", SERVER),
    Case("tokens: too many split texts", Reason.TOO_MANY_TEXTS, classify(split=(["w1"],) * 2_049), "split_texts", SERVER),
    Case("tokens: texts and words", Reason.OPTION_NOT_SUPPORTED, classify("w1", split=(["w1"],)), "split_texts", SERVER),
    Case("tokens: unknown aggregation", Reason.ENUM_UNKNOWN, classify("w1", aggregation=9), "options.aggregation", SERVER),
    Case("tokens: unknown unit", Reason.ENUM_UNKNOWN, classify("w1", offset_unit=9), "options.offset_unit", SERVER),
    Case("tokens: unknown side", Reason.ENUM_UNKNOWN, classify("w1", truncation={"side": 7}), "options.truncation.side", SERVER),
    Case(
        "tokens: truncation above the model",
        Reason.VALUE_OUT_OF_RANGE,
        classify("w1", truncation={"max_tokens": 33}),
        "options.truncation.max_tokens",
        SERVER,
    ),
    Case(
        "tokens: windows above the model",
        Reason.VALUE_OUT_OF_RANGE,
        classify("w1", windows={"max_tokens": 33}),
        "options.windows.max_tokens",
        SERVER,
    ),
    Case(
        "tokens: windows that go nowhere",
        Reason.VALUE_OUT_OF_RANGE,
        classify("w1", windows={"stride": 30}),
        "options.windows.stride",
        SERVER,
    ),
    Case(
        "tokens: windows without aggregation",
        Reason.OPTION_NOT_SUPPORTED,
        classify("w1", aggregation=1, windows={}),
        "options.windows",
        SERVER,
    ),
    Case(
        "tokens: a label ignored twice",
        Reason.VALUE_REPEATED,
        classify("w1", ignored_labels={"labels": ["O", "POSITIVE", "O"]}),
        "options.ignored_labels.labels[2]",
        SERVER,
    ),
    Case("tokens: a text that gives NaN", Reason.OUTPUT_NOT_FINITE, classify("w1", "nan"), server=SERVER, model="fake"),
    Case("tokens: a text that kills the worker", Reason.WORKER_CRASHED, classify("w1", "crash"), server=SERVER, model="fake"),
    Case("tokens: a computation that fails", Reason.INTERNAL, classify("fail"), server=SERVER, model="fake"),
    Case("tokens: no model for it", Reason.MODEL_NOT_FOUND, classify("w1")),
    Case("tokens: an unknown model", Reason.MODEL_NOT_FOUND, classify("w1", model="none"), server=SERVER, model="none"),
    Case("tokens: a model of another task", Reason.MODEL_NOT_FOUND, classify("w1", model="fake"), model="fake"),
    Case("tokens: items before options", Reason.STREAM_OUT_OF_ORDER, stream(ITEMS), "options", SERVER),
    Case("tokens: options twice", Reason.STREAM_OUT_OF_ORDER, stream(stream_options(), ITEMS, stream_options()), "options", SERVER),
    Case(
        "tokens: unknown aggregation of a stream",
        Reason.ENUM_UNKNOWN,
        stream(stream_options(aggregation=9), ITEMS),
        "options.options.aggregation",
        SERVER,
    ),
    Case(
        "tokens: windows of a stream without aggregation",
        Reason.OPTION_NOT_SUPPORTED,
        stream(stream_options(aggregation=1, windows={}), ITEMS),
        "options.options.windows",
        SERVER,
    ),
]
