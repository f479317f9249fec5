"""What PipelineService refuses, on a tiny model that the first case loads."""

from __future__ import annotations

import json
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import grpc

from hubwire.v1 import model_pb2, model_pb2_grpc, pipeline_pb2, pipeline_pb2_grpc
from hubwire_server.errors import Reason
from tests.conftest import Server
from tests.pipeline_models import MODELS, png
from tests.rpc.error_cases import Call, Case

MODEL = "tiny-vit"
PICTURE = {"blob": {"data": png()}}
SECRET = Path(__file__).resolve()
"""A file that the server could read, and that no caller may."""


def serve_tiny(server: Server) -> None:
    """Loads the model, unless it is there."""
    models = model_pb2_grpc.ModelServiceStub(server.channel)
    try:
        models.GetModel(model_pb2.GetModelRequest(name=MODEL), timeout=60)
    except grpc.RpcError:
        with tempfile.TemporaryDirectory() as folder:
            MODELS["vit"].save(Path(folder))
            request = model_pb2.LoadModelRequest(source=folder, name=MODEL, pipeline_task=MODELS["vit"].task)
            list(models.LoadModel(request, timeout=100))


def run(*inputs: dict[str, Any], parameters: Any = None, **fields: Any) -> Call:
    """Runs the pipeline."""
    request = pipeline_pb2.RunPipelineRequest(inputs=[pipeline_pb2.PipelineInput(**given) for given in inputs], **fields)
    request.parameters.update(parameters or {})

    def call(server: Server) -> object:
        serve_tiny(server)
        return pipeline_pb2_grpc.PipelineServiceStub(server.channel).RunPipeline(request, timeout=60)

    return call


def malformed(server: Server) -> object:
    return server.channel.unary_unary("/hubwire.v1.PipelineService/RunPipeline")(b"\x1a\x20abc", timeout=60)


def load(**fields: Any) -> Call:
    """Loads a folder that holds nothing but a configuration."""

    def call(server: Server) -> object:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps({"model_type": "vit"}))
            request = model_pb2.LoadModelRequest(source=folder, name="refused", **fields)
            return list(model_pb2_grpc.ModelServiceStub(server.channel).LoadModel(request, timeout=100))

    return call


def bomb() -> bytes:
    """A PNG of a few bytes that claims 40,000 x 40,000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def fields(value: Any, **more: Any) -> dict[str, Any]:
    """An input that is a dictionary."""
    given = pipeline_pb2.PipelineInput(**more)
    given.fields.update(value)
    return {"fields": given.fields, **more}


def refused(name: str, reason: Reason, call: Call, field: str = "inputs[0]", model: str = MODEL) -> Case:
    return Case(f"pipeline: {name}", reason, call, field, model=model)


CASES = [
    Case("pipeline: truncated bytes", Reason.MALFORMED_REQUEST, malformed),
    refused("no inputs", Reason.FIELD_REQUIRED, run(), "inputs", ""),
    refused("an input of nothing", Reason.FIELD_REQUIRED, run(PICTURE, {}), "inputs[1].input", ""),
    refused("an empty text", Reason.TEXT_EMPTY, run({"text": ""}), "inputs[0].text", ""),
    refused("too many inputs", Reason.TOO_MANY_TEXTS, run(*[PICTURE] * 2_049), "inputs", ""),
    refused("blobs without fields", Reason.PIPELINE_INPUT_INVALID, run({**PICTURE, "blobs": [{}]}), "inputs[0].blobs", ""),
    refused("a model of another task", Reason.MODEL_NOT_FOUND, run(PICTURE, model="fake"), "", "fake"),
    refused("a task that the model does not run", Reason.PIPELINE_NOT_SUPPORTED, run(PICTURE, task="depth-estimation"), "task"),
    refused("a task that transformers has no more", Reason.PIPELINE_NOT_SUPPORTED, run(PICTURE, task="question-answering"), "task", ""),
    refused("a task that never was", Reason.PIPELINE_NOT_SUPPORTED, run(PICTURE, task="mind-reading"), "task", ""),
    refused("bytes that are no image", Reason.MEDIA_INVALID, run(PICTURE, {"blob": {"data": b"GIF89a no image"}}), "inputs[1]"),
    refused("an image that is cut off", Reason.MEDIA_INVALID, run({"blob": {"data": png()[:200]}})),
    refused("an image of too many pixels", Reason.MEDIA_INVALID, run({"blob": {"data": bomb()}})),
    refused("bytes that are no sound", Reason.MEDIA_INVALID, run({"blob": {"data": b"RIFF no sound", "media_type": "audio/wav"}})),
    refused("an array without all its bytes", Reason.MEDIA_INVALID, run({"blob": {"data": b"123", "dtype": "float32", "shape": [1]}})),
    refused("a text for a path", Reason.PIPELINE_INPUT_INVALID, run({"text": str(SECRET)})),
    refused("a path in a field", Reason.PIPELINE_INPUT_INVALID, run(fields({"inputs": str(SECRET)}))),
    refused("an address in a field", Reason.PIPELINE_INPUT_INVALID, run(fields({"inputs": "http://127.0.0.1:9/image.png"}))),
    refused("a reference to no blob", Reason.PIPELINE_INPUT_INVALID, run(fields({"inputs": "blob:1"}, blobs=[{"data": png()}]))),
    refused("a dictionary for an image", Reason.PIPELINE_INPUT_INVALID, run(fields({"picture": "x"}))),
    refused("an unknown parameter", Reason.PIPELINE_INPUT_INVALID, run(PICTURE, parameters={"top_kk": 1})),
    refused("a parameter of another type", Reason.PIPELINE_INPUT_INVALID, run(PICTURE, parameters={"top_k": "many"})),
    refused("a parameter that is not for callers", Reason.PIPELINE_INPUT_INVALID, run(PICTURE, parameters={"num_workers": 4})),
    refused("too many bytes of parameters", Reason.PIPELINE_INPUT_INVALID, run(PICTURE, parameters={"a": "x" * 70_000}), "parameters", ""),
    refused(
        "too many bytes of parameters over all inputs",
        Reason.PIPELINE_INPUT_INVALID,
        run(*[{"text": "a"}] * 300, parameters={"a": "x" * 60_000}),
        "parameters",
        "",
    ),
    refused("loading for a pipeline that is no more", Reason.PIPELINE_NOT_SUPPORTED, load(pipeline_task="vqa"), "pipeline_task", ""),
    refused("loading without weights", Reason.MODEL_NOT_SUPPORTED, load(pipeline_task="image-classification"), "", "refused"),
]
