"""hubwire.v1.PipelineService."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.protobuf import struct_pb2

from hubwire.v1 import pipeline_pb2
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.pipelines import Blob, PipelineInput, PipelineOutput
from hubwire_server.services import wire
from hubwire_server.tasks.pipeline import PipelineTask, RunPipelineRequest, check_parameters_size

NAME = "hubwire.v1.PipelineService"
MAX_DEPTH = 64
"""How deep values may lie inside each other. protobuf itself refuses more than about a hundred levels of messages."""
MAX_EXACT = 2.0**53
"""Whole numbers up to here are exact as float64, which is what a Struct holds."""
INLINE_DECODE_BYTES = 65_536
"""Requests with more bytes than this are read in a thread: a Struct takes about 40 ms a MiB."""
INLINE_ENCODE_BLOBS = 1_048_576
"""Answers with more bytes than this are encoded in a thread: copying them takes about 1 ms."""
INLINE_ENCODE_VALUES = 1_000
"""The same for the number of values, each of which takes about 1 us."""


class PipelineService:
    """Serves the pipeline task."""

    def __init__(self, task: PipelineTask) -> None:
        self._task = task

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods of the service, for bytes."""
        methods: dict[str, Any] = {
            "RunPipeline": grpc.unary_unary_rpc_method_handler(self.run_pipeline),
            "ListPipelines": grpc.unary_unary_rpc_method_handler(self.list_pipelines),
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    async def run_pipeline(self, data: bytes, context: wire.Context) -> bytes:
        """PipelineService.RunPipeline."""
        arrived_ns = time.perf_counter_ns()
        message = wire.parse(pipeline_pb2.RunPipelineRequest, data)
        if len(data) > INLINE_DECODE_BYTES:
            request = await asyncio.to_thread(_request, message, arrived_ns)
        else:
            request = _request(message, arrived_ns)
        result = await self._task.run(request, wire.caller(context))
        computed_ns = time.perf_counter_ns()
        response = pipeline_pb2.RunPipelineResponse(task=result.task, model=wire.served_model(result.model))
        if _is_large(result.outputs):
            outputs = await asyncio.to_thread(_encode, result.outputs)
        else:
            outputs = _encode(result.outputs)
        result.timings.finish(arrived_ns, computed_ns)
        response.timings.CopyFrom(wire.timings_message(result.timings))
        return outputs + response.SerializeToString()

    async def list_pipelines(self, data: bytes, context: wire.Context) -> bytes:
        """PipelineService.ListPipelines."""
        wire.parse(pipeline_pb2.ListPipelinesRequest, data)
        tasks = [pipeline_pb2.PipelineTask(name=name, service=service) for name, service in self._task.pipelines()]
        return pipeline_pb2.ListPipelinesResponse(tasks=tasks).SerializeToString()


def _request(message: pipeline_pb2.RunPipelineRequest, arrived_ns: int) -> RunPipelineRequest:
    """A request of the task. Raises HubwireError (PIPELINE_INPUT_INVALID)."""
    check_parameters_size(message.parameters.ByteSize())
    return RunPipelineRequest(
        inputs=[_input(given, f"inputs[{index}]") for index, given in enumerate(message.inputs)],
        model=message.model,
        task=message.task,
        parameters=_dictionary(message.parameters, "parameters"),
        arrived_ns=arrived_ns,
    )


def _input(message: pipeline_pb2.PipelineInput, field: str) -> PipelineInput:
    """An input of a request. One without any part is left for the task to refuse."""
    blobs = tuple(map(_blob, message.blobs))
    match message.WhichOneof("input"):
        case "text":
            return PipelineInput(text=message.text, blobs=blobs)
        case "blob":
            return PipelineInput(blob=_blob(message.blob), blobs=blobs)
        case "fields":
            return PipelineInput(fields=_dictionary(message.fields, f"{field}.fields"), blobs=blobs)
        case _:
            return PipelineInput(blobs=blobs)


def _blob(message: pipeline_pb2.Blob) -> Blob:
    return Blob(data=message.data, media_type=message.media_type, dtype=message.dtype, shape=tuple(message.shape))


def _dictionary(message: struct_pb2.Struct, field: str) -> dict[str, Any]:
    """A Struct as Python has it. Raises HubwireError (PIPELINE_INPUT_INVALID)."""
    return {name: _from_value(value, f"{field}.{name}", 1) for name, value in message.fields.items()}


def _from_value(message: struct_pb2.Value, field: str, depth: int) -> Any:
    """A Value as Python has it; whole numbers become int, since a Struct has none and pipelines count with them."""
    if depth > MAX_DEPTH:
        raise HubwireError(Reason.PIPELINE_INPUT_INVALID, f"values lie deeper inside each other than {MAX_DEPTH} levels", field=field[:128])
    match message.WhichOneof("kind"):
        case "number_value":
            number = message.number_value
            return int(number) if number.is_integer() and abs(number) <= MAX_EXACT else number
        case "string_value":
            return message.string_value
        case "bool_value":
            return message.bool_value
        case "struct_value":
            return {name: _from_value(value, f"{field}.{name}", depth + 1) for name, value in message.struct_value.fields.items()}
        case "list_value":
            return [_from_value(value, field, depth + 1) for value in message.list_value.values]
        case _:
            return None


def _encode(outputs: Sequence[PipelineOutput]) -> bytes:
    """The field outputs of an answer, as bytes that belong before or after the others."""
    messages = [
        pipeline_pb2.PipelineOutput(
            value=_to_value(output.value),
            blobs=[
                pipeline_pb2.Blob(data=blob.data, media_type=blob.media_type, dtype=blob.dtype, shape=blob.shape) for blob in output.blobs
            ],
        )
        for output in outputs
    ]
    return pipeline_pb2.RunPipelineResponse(outputs=messages).SerializeToString()


def _to_value(value: Any) -> struct_pb2.Value:
    match value:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=value)
        case int() | float():
            return struct_pb2.Value(number_value=value)
        case str():
            return struct_pb2.Value(string_value=value)
        case Mapping():
            fields = {name: _to_value(inner) for name, inner in value.items()}
            return struct_pb2.Value(struct_value=struct_pb2.Struct(fields=fields))
        case list():
            return struct_pb2.Value(list_value=struct_pb2.ListValue(values=list(map(_to_value, value))))
        case _:
            raise AssertionError(f"an answer holds a {type(value).__name__}. This is a bug.")


def _is_large(outputs: Sequence[PipelineOutput]) -> bool:
    """Whether encoding takes longer than the event loop should be held up for."""
    if sum(len(blob.data) for output in outputs for blob in output.blobs) > INLINE_ENCODE_BLOBS:
        return True
    waiting: list[Any] = [output.value for output in outputs]
    for value in waiting:  # it grows while it is gone through
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        if len(waiting) > INLINE_ENCODE_VALUES:
            return True
    return False
