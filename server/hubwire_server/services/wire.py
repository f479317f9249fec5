"""What every service does at its edge: bytes to requests, context to caller, results to the messages that all answers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import grpc.aio
from google.protobuf.message import DecodeError, Message

from hubwire.v1 import common_pb2
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.registry import ReadyModel
from hubwire_server.scheduling.clock import MONOTONIC
from hubwire_server.tasks.answer import Timings, Usage
from hubwire_server.tasks.embedding import VectorEncoding
from hubwire_server.tasks.texts import Caller, Truncation, Windows

if TYPE_CHECKING:
    from hubwire_server._native import OffsetUnit

Context = grpc.aio.ServicerContext[Any, Any]
M = TypeVar("M", bound=Message)
V = TypeVar("V")

MAX_DEADLINE_S = 86_400.0
"""gRPC reports a call without a deadline as one that is centuries away."""

ENCODINGS: Mapping[int, VectorEncoding] = {
    common_pb2.VECTOR_ENCODING_UNSPECIFIED: "float",
    common_pb2.VECTOR_ENCODING_FLOAT: "float",
    common_pb2.VECTOR_ENCODING_FLOAT32_BYTES: "float32_bytes",
    common_pb2.VECTOR_ENCODING_FLOAT16_BYTES: "float16_bytes",
    common_pb2.VECTOR_ENCODING_INT8_BYTES: "int8_bytes",
    common_pb2.VECTOR_ENCODING_BINARY_BYTES: "binary_bytes",
}
OFFSET_UNITS: Mapping[int, OffsetUnit] = {
    common_pb2.OFFSET_UNIT_UNSPECIFIED: "code_point",
    common_pb2.OFFSET_UNIT_CODE_POINT: "code_point",
    common_pb2.OFFSET_UNIT_UTF8_BYTE: "utf8_byte",
    common_pb2.OFFSET_UNIT_UTF16_UNIT: "utf16_unit",
}
TRUNCATION_SIDES: Mapping[int, str] = {
    common_pb2.TRUNCATION_SIDE_UNSPECIFIED: "right",
    common_pb2.TRUNCATION_SIDE_RIGHT: "right",
    common_pb2.TRUNCATION_SIDE_LEFT: "left",
}


def parse(message_type: type[M], data: bytes) -> M:
    """The request in some bytes. Raises HubwireError with the reason MALFORMED_REQUEST."""
    try:
        return message_type.FromString(data)
    except DecodeError as error:
        name = message_type.DESCRIPTOR.full_name
        raise HubwireError(Reason.MALFORMED_REQUEST, f"the bytes are not a {name}", metadata={"message": name}) from error


def enum_value(table: Mapping[int, V], number: int, field: str) -> V:
    """What an enum number means. Raises HubwireError with the reason ENUM_UNKNOWN."""
    if number not in table:
        raise HubwireError(Reason.ENUM_UNKNOWN, f"{number} is no value of this enum", field=field, metadata={"value": str(number)})
    return table[number]


def caller(context: Context) -> Caller:
    """Who calls, and until when."""
    remaining = context.time_remaining()
    deadline_ns = MONOTONIC() + int(remaining * 1e9) if remaining is not None and remaining < MAX_DEADLINE_S else None
    return Caller(client=context.peer(), deadline_ns=deadline_ns)


def truncation(options: Any, path: str) -> Truncation | None:
    """The permission to cut texts that options give; None where they give none. path is where the options are in the request."""
    if not options.HasField("truncation"):
        return None
    message, field = options.truncation, f"{path}.truncation"
    side = enum_value(TRUNCATION_SIDES, message.side, f"{field}.side")
    return Truncation(side="left" if side == "left" else "right", max_tokens=message.max_tokens)


def windows(message: common_pb2.Windows) -> Windows:
    """How a request has long texts read in parts."""
    return Windows(stride=message.stride if message.HasField("stride") else None, max_tokens=message.max_tokens)


def answer_rest(answer: Callable[..., Message], *, model: ReadyModel, usage: Usage, timings: Timings, dimensions: int = 0) -> bytes:
    """All fields of an answer but what it is about, as bytes that belong before or after those. answer is its type of message; dimensions
    are for answers that have them."""
    fixed = _fixed_rest(answer, dimensions, model.name, model.description.fingerprint)
    return fixed + answer(usage=usage_message(usage), timings=timings_message(timings)).SerializeToString()


@lru_cache(maxsize=256)
def _fixed_rest(answer: Callable[..., Message], dimensions: int, name: str, fingerprint: str) -> bytes:
    """What every answer of a model says again."""
    model = common_pb2.ServedModel(name=name, fingerprint=fingerprint)
    return (answer(dimensions=dimensions, model=model) if dimensions else answer(model=model)).SerializeToString()


def served_model(model: ReadyModel) -> common_pb2.ServedModel:
    """See hubwire.v1.ServedModel."""
    return common_pb2.ServedModel(name=model.name, fingerprint=model.description.fingerprint)


def usage_message(usage: Usage) -> common_pb2.Usage:
    """See hubwire.v1.Usage."""
    return common_pb2.Usage(input_tokens=usage.input_tokens, truncated_texts=usage.truncated_texts)


def timings_message(timings: Timings) -> common_pb2.Timings:
    """See hubwire.v1.Timings."""
    return common_pb2.Timings(
        decode_nanos=timings.decode_ns,
        tokenize_nanos=timings.tokenize_ns,
        queue_nanos=timings.queue_ns,
        transfer_nanos=timings.transfer_ns,
        compute_nanos=timings.compute_ns,
        forward_nanos=timings.forward_ns,
        pool_nanos=timings.pool_ns,
        encode_nanos=timings.encode_ns,
        total_nanos=timings.total_ns,
    )
