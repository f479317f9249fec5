"""hubwire.v1.ModelService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import grpc

from hubwire.v1 import embedding_pb2, model_pb2
from hubwire_server.errors import out_of_range
from hubwire_server.models.description import BackendCandidate, ModelDescription, Task
from hubwire_server.models.registry import Model
from hubwire_server.services import wire
from hubwire_server.services.embedding import POOLINGS
from hubwire_server.status import to_status, visible
from hubwire_server.tasks.model import LoadRequest, ModelTask

NAME = "hubwire.v1.ModelService"

POOLING_NUMBERS = {mode: number for number, mode in POOLINGS.items()}
TASKS: Mapping[int, Task | None] = {
    number: None if number == model_pb2.TASK_UNSPECIFIED else Task(name.removeprefix("TASK_").lower())
    for name, number in model_pb2.Task.items()
}
TASK_NUMBERS = {task: number for number, task in TASKS.items()}

DEFAULT_PAGE = 100
MAX_PAGE = 1_000


class ModelService:
    """Serves the model task."""

    def __init__(self, task: ModelTask) -> None:
        self._task = task

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods of the service, for bytes."""
        methods: dict[str, Any] = {
            "ListModels": grpc.unary_unary_rpc_method_handler(self.list_models),
            "GetModel": grpc.unary_unary_rpc_method_handler(self.get_model),
            "LoadModel": grpc.unary_stream_rpc_method_handler(self.load_model),
            "UnloadModel": grpc.unary_unary_rpc_method_handler(self.unload_model),
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    async def list_models(self, data: bytes, context: wire.Context) -> bytes:
        """ModelService.ListModels."""
        message = wire.parse(model_pb2.ListModelsRequest, data)
        if message.page_size < 0:
            raise out_of_range(f"page_size is {message.page_size}", "page_size", 0, MAX_PAGE)
        # The token is the name after which the page begins, so that pages hold although models come and go.
        models = [model for model in self._task.models() if model.name > message.page_token]
        size = min(message.page_size or DEFAULT_PAGE, MAX_PAGE)
        response = model_pb2.ListModelsResponse(
            models=[self._message(model) for model in models[:size]], next_page_token=models[size - 1].name if len(models) > size else ""
        )
        return response.SerializeToString()

    async def get_model(self, data: bytes, context: wire.Context) -> bytes:
        """ModelService.GetModel."""
        message = wire.parse(model_pb2.GetModelRequest, data)
        return model_pb2.GetModelResponse(model=self._message(self._task.get(message.name))).SerializeToString()

    async def load_model(self, data: bytes, context: wire.Context) -> AsyncIterator[bytes]:
        """ModelService.LoadModel."""
        message = wire.parse(model_pb2.LoadModelRequest, data)
        request = LoadRequest(
            source=message.source,
            name=message.name,
            revision=message.revision,
            task=wire.enum_value(TASKS, message.task, "task"),
            pipeline_task=message.pipeline_task,
        )
        async for step in self._task.load(request):
            response = model_pb2.LoadModelResponse(
                state=model_pb2.ModelState.Value(f"MODEL_STATE_{step.state}"),
                message=step.message,
                done_bytes=step.done_bytes,
                total_bytes=step.total_bytes,
                model=self._message(step.model) if step.model is not None else None,
            )
            yield response.SerializeToString()

    async def unload_model(self, data: bytes, context: wire.Context) -> bytes:
        """ModelService.UnloadModel."""
        message = wire.parse(model_pb2.UnloadModelRequest, data)
        await self._task.unload(message.name)
        return model_pb2.UnloadModelResponse().SerializeToString()

    def _message(self, model: Model) -> model_pb2.Model:
        message = model_pb2.Model(
            name=model.name,
            source=model.source,
            revision=model.revision,
            task=_task(model.task),
            default_for_task=self._task.is_default(model),
            state=model_pb2.ModelState.Value(f"MODEL_STATE_{model.state}"),
        )
        if model.error is not None:
            message.error.CopyFrom(to_status(visible(model.error, f"loading {model.name}")))
        if (described := model.description) is not None:
            message.fingerprint = described.fingerprint
            message.architecture = described.architecture
            message.backend = described.backend
            message.device = described.device
            message.dtype = described.dtype
            message.packed = described.packed
            message.packed_note = described.packed_note
            message.max_tokens = described.max_tokens
            message.tasks.extend(map(_task, described.tasks))
            message.candidates.extend(_candidate(candidate) for candidate in described.candidates)
            _add_details(message, described)
        return message


def _task(task: Task | None) -> model_pb2.Task.ValueType:
    return cast("model_pb2.Task.ValueType", TASK_NUMBERS[task])


def _add_details(message: model_pb2.Model, described: ModelDescription) -> None:
    """What only models of this task have."""
    if (embedding := described.embedding) is not None:
        message.embedding.dimensions = embedding.dimensions
        message.embedding.pooling.extend(cast("embedding_pb2.Pooling.ValueType", POOLING_NUMBERS[mode]) for mode in embedding.pooling)
        message.embedding.normalize = embedding.normalize
        message.embedding.prompts.update(embedding.prompts)
        message.embedding.default_prompt_name = embedding.default_prompt_name
    elif (classification := described.classification) is not None:
        message.classification.labels.extend(classification.labels)
        message.classification.problem_type = classification.problem_type
    elif (masked := described.masked_language_model) is not None:
        message.masked_language_model.mask_token = masked.mask_token
        message.masked_language_model.vocabulary_size = masked.vocabulary_size
    elif (pipeline := described.pipeline) is not None:
        message.pipeline.pipeline_task = pipeline.pipeline_task


def _candidate(candidate: BackendCandidate) -> model_pb2.BackendCandidate:
    return model_pb2.BackendCandidate(
        backend=candidate.backend,
        dtype=candidate.dtype,
        chosen=candidate.chosen,
        cosine=candidate.cosine,
        short_nanos=candidate.short_ns,
        mixed_nanos=candidate.mixed_ns,
        note=candidate.note,
    )
