"""RunPipeline and ListPipelines.

Inputs and outputs are JSON as google.protobuf.Struct has it; bytes and arrays travel beside it, and a text "blob:0" stands in their place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from google.protobuf import struct_pb2

from hubwire import errors
from hubwire._arguments import check_iterable, check_text
from hubwire._calls.question import Question, check_number
from hubwire._types import Blob, PipelineTask
from hubwire.v1 import pipeline_pb2

RunPipelineQuestion: TypeAlias = Question[pipeline_pb2.RunPipelineRequest, pipeline_pb2.RunPipelineResponse, list[Any]]
ListPipelinesQuestion: TypeAlias = Question[pipeline_pb2.ListPipelinesRequest, pipeline_pb2.ListPipelinesResponse, list[PipelineTask]]

_REFERENCE = re.compile(r"blob:(0|[1-9][0-9]{0,8})")


def run_pipeline(
    inputs: Iterable[str | bytes | Blob | Mapping[str, Any]],
    *,
    model: str = "",
    task: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> RunPipelineQuestion:
    """RunPipeline: what the pipeline returned for each input."""
    request = pipeline_pb2.RunPipelineRequest(model=check_text("model", model), task=check_text("task", task))
    for index, one in enumerate(check_iterable("inputs", inputs, async_hint="", of="inputs")):
        _fill_input(request.inputs.add(), f"inputs[{index}]", one)
    if parameters is not None:
        request.parameters.CopyFrom(_struct("parameters", parameters, None))
    return Question(request, partial(_outputs, count=len(request.inputs)))


def list_pipelines() -> ListPipelinesQuestion:
    """ListPipelines: every task."""
    return Question(pipeline_pb2.ListPipelinesRequest(), _tasks)


def output(message: pipeline_pb2.PipelineOutput) -> Any:
    """What a pipeline returned for one input, with arrays, images and masks where they were."""
    return _python(message.value, [_blob(blob) for blob in message.blobs])


def _fill_input(message: pipeline_pb2.PipelineInput, name: str, value: object) -> None:
    if isinstance(value, str):
        message.text = check_text(name, value)
    elif isinstance(value, bytes | bytearray | memoryview | Blob):
        message.blob.CopyFrom(_blob_message(name, value))
    elif isinstance(value, Mapping):
        message.fields.CopyFrom(_struct(name, value, message.blobs))
    else:
        raise TypeError(f"{name} must be a str, bytes, a Blob or a dict, not {type(value).__name__}")


def _blob_message(name: str, value: bytes | bytearray | memoryview | Blob) -> pipeline_pb2.Blob:
    if isinstance(value, Blob):
        return pipeline_pb2.Blob(data=value.data, media_type=check_text(f"{name}.media_type", value.media_type))
    return pipeline_pb2.Blob(data=bytes(value))


def _struct(name: str, value: Mapping[Any, Any], blobs: Any) -> struct_pb2.Struct:
    """A dictionary, its bytes put into `blobs`, which is None where it may hold none."""
    struct = struct_pb2.Struct()
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict, not {type(value).__name__}")
    for key, part in value.items():
        struct.fields[check_text(f"a key of {name}", key)].CopyFrom(_value(f"{name}[{key!r}]", part, blobs))
    return struct


def _value(name: str, value: object, blobs: Any) -> struct_pb2.Value:
    """JSON, as protobuf has it."""
    if isinstance(value, np.generic):
        value = value.item()
    match value:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=value)
        case int() | float():
            return struct_pb2.Value(number_value=_number(name, value))
        case str():
            return struct_pb2.Value(string_value=check_text(name, value))
        case bytes() | bytearray() | memoryview() | Blob() if blobs is not None:
            blobs.append(_blob_message(name, value))
            return struct_pb2.Value(string_value=f"blob:{len(blobs) - 1}")
        case Mapping():
            return struct_pb2.Value(struct_value=_struct(name, value, blobs))
        case list() | tuple():
            parts = [_value(f"{name}[{index}]", part, blobs) for index, part in enumerate(value)]
            return struct_pb2.Value(list_value=struct_pb2.ListValue(values=parts))
        case _:
            raise TypeError(f"{name} must be what JSON can hold{'' if blobs is None else ', or bytes'}, not {type(value).__name__}")


def _number(name: str, value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    # A Struct holds doubles: a larger int would arrive as another one.
    if not math.isfinite(number) or (isinstance(value, int) and int(number) != value):
        raise ValueError(f"{name} cannot be sent: a JSON number holds no {value}")
    return number


def _outputs(response: pipeline_pb2.RunPipelineResponse, *, count: int) -> list[Any]:
    check_number(response.outputs, count)
    return [output(one) for one in response.outputs]


def _tasks(response: pipeline_pb2.ListPipelinesResponse) -> list[PipelineTask]:
    return [PipelineTask(name=one.name, service=one.service) for one in response.tasks]


def _blob(message: pipeline_pb2.Blob) -> Blob | npt.NDArray[Any]:
    """An array that owns its memory where the bytes are one, else the bytes."""
    if not message.dtype:
        return Blob(message.data, message.media_type)
    try:
        dtype = np.dtype(message.dtype).newbyteorder("<")
        if dtype.hasobject or dtype.itemsize == 0:
            raise ValueError(f"{message.dtype} has no bytes")
        return np.frombuffer(bytearray(message.data), dtype).reshape(tuple(message.shape))
    except (TypeError, ValueError) as error:
        described = f"{len(message.data)} bytes as an array of {message.dtype} and shape {list(message.shape)}"
        raise errors.contract_error(f"the server sent {described}: {error}") from error


def _python(value: struct_pb2.Value, blobs: Sequence[Any]) -> Any:
    """JSON as Python has it. Whole numbers are int: a Struct does not tell 1 from 1.0."""
    match value.WhichOneof("kind"):
        case "bool_value":
            return value.bool_value
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return _resolve(value.string_value, blobs)
        case "struct_value":
            return {key: _python(part, blobs) for key, part in value.struct_value.fields.items()}
        case "list_value":
            return [_python(part, blobs) for part in value.list_value.values]
        case _:
            return None


def _resolve(text: str, blobs: Sequence[Any]) -> Any:
    found = _REFERENCE.fullmatch(text)
    index = int(found[1]) if found else len(blobs)
    return blobs[index] if index < len(blobs) else text
