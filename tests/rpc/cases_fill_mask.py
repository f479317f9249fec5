"""Bad input for FillMaskService."""

from __future__ import annotations

from hubwire.v1 import fill_mask_pb2, fill_mask_pb2_grpc
from hubwire_server.errors import Reason
from hubwire_server.models.description import Task
from tests.rpc.error_cases import Call, Case

SERVER = str(Task.FILL_MASK)
LONG = " ".join(["w1"] * 40)


def fill(*texts: str, model: str = "", **options) -> Call:
    return lambda server: fill_mask_pb2_grpc.FillMaskServiceStub(server.channel).FillMask(
        fill_mask_pb2.FillMaskRequest(texts=texts, model=model, options=fill_mask_pb2.FillMaskOptions(**options)), timeout=60
    )


def raw(server):
    return server.channel.unary_unary("/hubwire.v1.FillMaskService/FillMask")(b"\x12\x20abc", timeout=60)


MASKED = "w1 [MASK] w2"

CASES = [
    Case("truncated bytes for masks", Reason.MALFORMED_REQUEST, raw, server=SERVER),
    Case("no texts with masks", Reason.FIELD_REQUIRED, fill(), "texts", SERVER),
    Case("an empty text for masks", Reason.TEXT_EMPTY, fill(MASKED, ""), "texts[1]", SERVER),
    Case("a text without a mask", Reason.MASK_NOT_FOUND, fill(MASKED, "w1 w2", "w3"), "texts[1]", SERVER),
    Case("another model's mask", Reason.MASK_NOT_FOUND, fill("w1 <mask>"), "texts[0]", SERVER),
    Case(
        "a mask that truncation removed",
        Reason.MASK_NOT_FOUND,
        fill(MASKED, f"{LONG} [MASK]", truncation={"max_tokens": 10}),
        "texts[1]",
        SERVER,
    ),
    Case("a text with a mask over the limit", Reason.TEXT_TOO_LONG, fill(f"[MASK] {LONG}"), "texts[0]", SERVER),
    Case("more tokens than the server returns", Reason.VALUE_OUT_OF_RANGE, fill(MASKED, top_k=1_001), "options.top_k", SERVER),
    Case(
        "an answer that would be too large",
        Reason.TOO_MANY_TEXTS,
        fill(*["[MASK] " * 30] * 200, top_k=1_000),
        "texts",
        SERVER,
    ),
    Case(
        "a truncation above the model for masks",
        Reason.VALUE_OUT_OF_RANGE,
        fill(MASKED, truncation={"max_tokens": 33}),
        "options.truncation.max_tokens",
        SERVER,
    ),
    Case("an unknown unit for masks", Reason.ENUM_UNKNOWN, fill(MASKED, offset_unit=9), "options.offset_unit", SERVER),
    Case(
        "a target that is unknown", Reason.TARGET_NOT_FOUND, fill(MASKED, targets=["w1", "nowhere"]), "options.targets[1]", SERVER, "fake"
    ),
    Case("a target of 2 kB", Reason.TEXT_TOO_LARGE, fill(MASKED, targets=["w1", "w" * 2_000]), "options.targets[1]", SERVER),
    Case("a target of two tokens", Reason.TARGET_NOT_FOUND, fill(MASKED, targets=["w1 w2"]), "options.targets[0]", SERVER, "fake"),
    Case("a target that is named twice", Reason.VALUE_REPEATED, fill(MASKED, targets=["w1", "w2", "w1"]), "options.targets[2]", SERVER),
    Case("an empty target", Reason.TEXT_EMPTY, fill(MASKED, targets=["w1", ""]), "options.targets[1]", SERVER),
    Case("too many targets", Reason.TOO_MANY_TEXTS, fill(MASKED, targets=[str(i) for i in range(2_049)]), "options.targets", SERVER),
    Case("masks for an embedding model", Reason.MODEL_NOT_FOUND, fill(MASKED), "model"),
    Case("masks for an embedding model by name", Reason.MODEL_NOT_FOUND, fill(MASKED, model="fake"), "model", model="fake"),
    Case("a text with a mask that gives NaN", Reason.OUTPUT_NOT_FINITE, fill(MASKED, "nan [MASK]"), "texts[1]", SERVER, "fake"),
    Case("a text with a mask that kills the worker", Reason.WORKER_CRASHED, fill(MASKED, "crash [MASK]"), "texts[1]", SERVER, "fake"),
]
