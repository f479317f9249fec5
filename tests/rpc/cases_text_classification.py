"""What TextClassificationService refuses."""

from __future__ import annotations

from hubwire.v1 import text_classification_pb2 as pb
from hubwire.v1 import text_classification_pb2_grpc as pb_grpc
from hubwire_server.errors import Reason
from hubwire_server.models.description import Task
from tests.rpc.error_cases import Call, Case

HEAD = str(Task.TEXT_CLASSIFICATION)
NLI = str(Task.ZERO_SHOT_CLASSIFICATION)
LONG = " ".join(["w1"] * 100)


def classify(*texts: str, pairs: tuple[str, ...] = (), model: str = "", **options) -> Call:
    request = pb.ClassifyTextRequest(texts=texts, text_pairs=pairs, model=model, options=pb.ClassifyTextOptions(**options))
    return lambda server: pb_grpc.TextClassificationServiceStub(server.channel).ClassifyText(request, timeout=60)


def zero_shot(*texts: str, labels: tuple[str, ...] = ("w1", "w2"), model: str = "", **options) -> Call:
    request = pb.ClassifyZeroShotRequest(
        texts=texts, candidate_labels=labels, model=model, options=pb.ClassifyZeroShotOptions(hypothesis_template="{}", **options)
    )
    return lambda server: pb_grpc.TextClassificationServiceStub(server.channel).ClassifyZeroShot(request, timeout=60)


def template(text: str, count: int = 1) -> Call:
    request = pb.ClassifyZeroShotRequest(
        texts=["w1"] * count, candidate_labels=["w1", "w2"], options=pb.ClassifyZeroShotOptions(hypothesis_template=text)
    )
    return lambda server: pb_grpc.TextClassificationServiceStub(server.channel).ClassifyZeroShot(request, timeout=60)


def stream(*requests: pb.StreamClassifyTextRequest) -> Call:
    return lambda server: list(pb_grpc.TextClassificationServiceStub(server.channel).StreamClassifyText(iter(requests), timeout=60))


def options(**fields) -> pb.StreamClassifyTextRequest:
    return pb.StreamClassifyTextRequest(options=pb.StreamClassifyTextOptions(options=pb.ClassifyTextOptions(**fields)))


def raw(method: str, data: bytes) -> Call:
    return lambda server: server.channel.unary_unary(f"/hubwire.v1.TextClassificationService/{method}")(data, timeout=60)


ITEMS = pb.StreamClassifyTextRequest(items=pb.StreamClassifyTextItems(items=[pb.StreamClassifyTextItem(id="1", text="w1")]))
NO_ITEMS = pb.StreamClassifyTextRequest(items=pb.StreamClassifyTextItems())
TRUNCATION = "options.truncation"

CASES = [
    Case("classify: truncated bytes", Reason.MALFORMED_REQUEST, raw("ClassifyText", b"\x12\x20abc"), server=HEAD),
    Case("zero-shot: truncated bytes", Reason.MALFORMED_REQUEST, raw("ClassifyZeroShot", b"\x12\x20abc"), server=HEAD),
    Case("classify: no texts", Reason.FIELD_REQUIRED, classify(), "texts", HEAD),
    Case("classify: an empty text", Reason.TEXT_EMPTY, classify("w1", ""), "texts[1]", HEAD),
    Case("classify: an empty second text", Reason.TEXT_EMPTY, classify("w1", "w2", pairs=("w3", "")), "text_pairs[1]", HEAD),
    Case("classify: fewer second texts", Reason.COUNT_MISMATCH, classify("w1", "w2", pairs=("w3",)), "text_pairs", HEAD),
    Case("classify: more second texts", Reason.COUNT_MISMATCH, classify("w1", pairs=("w3", "w4")), "text_pairs", HEAD),
    Case("classify: a text of 5 MB", Reason.TEXT_TOO_LARGE, classify("w " * 2_500_000), "texts[0]", HEAD),
    Case("classify: a second text of 5 MB", Reason.TEXT_TOO_LARGE, classify("w1", pairs=("w " * 2_500_000,)), "text_pairs[0]", HEAD),
    Case("classify: a text over the limit", Reason.TEXT_TOO_LONG, classify("w1", LONG), "texts[1]", HEAD),
    Case("classify: a pair over the limit", Reason.TEXT_TOO_LONG, classify("w1", "w1", pairs=("w1", LONG)), "texts[1]", HEAD),
    Case("classify: too many texts", Reason.TOO_MANY_TEXTS, classify(*["w1"] * 2_049), "texts", HEAD),
    Case("classify: an unknown function", Reason.ENUM_UNKNOWN, classify("w1", function=9), "options.function", HEAD),
    Case("classify: an unknown side", Reason.ENUM_UNKNOWN, classify("w1", truncation={"side": 7}), f"{TRUNCATION}.side", HEAD),
    Case(
        "classify: truncation above the model",
        Reason.VALUE_OUT_OF_RANGE,
        classify("w1", truncation={"max_tokens": 33}),
        f"{TRUNCATION}.max_tokens",
        HEAD,
    ),
    Case(
        "classify: truncation that leaves a pair nothing",
        Reason.VALUE_OUT_OF_RANGE,
        classify("w1", pairs=("w2",), truncation={"max_tokens": 4}),
        f"{TRUNCATION}.max_tokens",
        HEAD,
    ),
    Case("classify: an unknown label", Reason.LABEL_NOT_FOUND, classify("w1", labels=["POSITIVE", "x"]), "options.labels[1]", HEAD, "fake"),
    Case("classify: a label twice", Reason.VALUE_REPEATED, classify("w1", labels=["POSITIVE"] * 2), "options.labels[1]", HEAD),
    Case("classify: an unknown model", Reason.MODEL_NOT_FOUND, classify("w1", model="none"), server=HEAD, model="none"),
    Case("classify: no model for it", Reason.MODEL_NOT_FOUND, classify("w1")),
    Case("classify: a model of another task", Reason.MODEL_NOT_FOUND, classify("w1", model="fake"), model="fake"),
    Case("classify: a text that gives NaN", Reason.OUTPUT_NOT_FINITE, classify("w1", "nan"), server=HEAD, model="fake"),
    Case("classify: a text that kills the worker", Reason.WORKER_CRASHED, classify("w1", "crash"), server=HEAD, model="fake"),
    Case("classify: items before options", Reason.STREAM_OUT_OF_ORDER, stream(ITEMS), "options", HEAD),
    Case("classify: options twice", Reason.STREAM_OUT_OF_ORDER, stream(options(), ITEMS, options()), "options", HEAD),
    Case(
        "classify: a stream message without items",
        Reason.FIELD_REQUIRED,
        stream(options(), pb.StreamClassifyTextRequest()),
        "items",
        HEAD,
    ),
    Case("classify: a stream message with no item", Reason.FIELD_REQUIRED, stream(options(), NO_ITEMS), "items.items", HEAD),
    Case("classify: an unknown function for a stream", Reason.ENUM_UNKNOWN, stream(options(function=9)), "options.options.function", HEAD),
    Case(
        "classify: an unknown label for a stream",
        Reason.LABEL_NOT_FOUND,
        stream(options(labels=["x"])),
        "options.options.labels[0]",
        HEAD,
        "fake",
    ),
    Case(
        "classify: truncation that leaves a pair of a stream nothing",
        Reason.VALUE_OUT_OF_RANGE,
        stream(options(truncation={"max_tokens": 4})),
        "options.options.truncation.max_tokens",
        HEAD,
    ),
    Case("zero-shot: no texts", Reason.FIELD_REQUIRED, zero_shot(), "texts", NLI),
    Case("zero-shot: a label of 2 kB", Reason.TEXT_TOO_LARGE, zero_shot("w1", labels=("w1", "w" * 2_000)), "candidate_labels[1]", NLI),
    Case("zero-shot: no labels", Reason.FIELD_REQUIRED, zero_shot("w1", labels=()), "candidate_labels", NLI),
    Case("zero-shot: an empty text", Reason.TEXT_EMPTY, zero_shot("w1", ""), "texts[1]", NLI),
    Case("zero-shot: an empty label", Reason.TEXT_EMPTY, zero_shot("w1", labels=("w1", "")), "candidate_labels[1]", NLI),
    Case("zero-shot: a label twice", Reason.VALUE_REPEATED, zero_shot("w1", labels=("w1", "w2", "w1")), "candidate_labels[2]", NLI),
    Case(
        "zero-shot: texts times labels too many",
        Reason.TOO_MANY_TEXTS,
        zero_shot(*["w1"] * 100, labels=tuple(f"w{index}" for index in range(21))),
        "texts",
        NLI,
    ),
    Case("zero-shot: a template without a place", Reason.VALUE_OUT_OF_RANGE, template("w1"), "options.hypothesis_template", NLI),
    Case("zero-shot: a template with two places", Reason.VALUE_OUT_OF_RANGE, template("{} {}"), "options.hypothesis_template", NLI),
    Case(
        "zero-shot: a template of 2 MB", Reason.TEXT_TOO_LARGE, template("{}" + "w " * 1_000_000, 100), "options.hypothesis_template", NLI
    ),
    Case(
        "zero-shot: texts that are large for so many labels",
        Reason.TEXT_TOO_LARGE,
        zero_shot("w " * 500_000, labels=tuple(f"w{index}" for index in range(40))),
        "texts",
        NLI,
    ),
    Case("zero-shot: a text over the limit", Reason.TEXT_TOO_LONG, zero_shot("w1", "w2", LONG, "w3"), "texts[2]", NLI),
    Case(
        "zero-shot: a label over the limit",
        Reason.TEXT_TOO_LONG,
        zero_shot("w1", labels=("w1", LONG), truncation={}),
        "candidate_labels[1]",
        NLI,
    ),
    Case(
        "zero-shot: a label that leaves a text no room",
        Reason.TEXT_TOO_LONG,
        zero_shot("w1", labels=("w1 w1", "w1 w1 w1"), truncation={"max_tokens": 6}),
        "candidate_labels[1]",
        NLI,
    ),
    Case(
        "zero-shot: truncation above the model",
        Reason.VALUE_OUT_OF_RANGE,
        zero_shot("w1", truncation={"max_tokens": 33}),
        f"{TRUNCATION}.max_tokens",
        NLI,
    ),
    Case("zero-shot: an unknown side", Reason.ENUM_UNKNOWN, zero_shot("w1", truncation={"side": 9}), f"{TRUNCATION}.side", NLI),
    Case("zero-shot: a text that gives NaN", Reason.OUTPUT_NOT_FINITE, zero_shot("w1", "nan"), server=NLI, model="fake"),
    Case("zero-shot: a head without entailment", Reason.OPTION_NOT_SUPPORTED, zero_shot("w1", model="fake"), "model", HEAD, "fake"),
    Case("zero-shot: no model for it", Reason.MODEL_NOT_FOUND, zero_shot("w1"), server=HEAD),
    Case("zero-shot: an unknown model", Reason.MODEL_NOT_FOUND, zero_shot("w1", model="none"), server=NLI, model="none"),
    Case("zero-shot: a model of another task", Reason.MODEL_NOT_FOUND, zero_shot("w1", model="fake"), model="fake"),
]
