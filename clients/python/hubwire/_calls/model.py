"""LoadModel, and the models that answers carry."""

from __future__ import annotations

from collections.abc import Mapping

from hubwire import errors
from hubwire._arguments import check_choice, check_text
from hubwire._names import TaskName
from hubwire.v1 import model_pb2

TASKS: Mapping[TaskName, model_pb2.Task.ValueType] = {
    "embedding": model_pb2.TASK_EMBEDDING,
    "sparse_embedding": model_pb2.TASK_SPARSE_EMBEDDING,
    "text_classification": model_pb2.TASK_TEXT_CLASSIFICATION,
    "zero_shot_classification": model_pb2.TASK_ZERO_SHOT_CLASSIFICATION,
    "token_classification": model_pb2.TASK_TOKEN_CLASSIFICATION,
    "question_answering": model_pb2.TASK_QUESTION_ANSWERING,
    "fill_mask": model_pb2.TASK_FILL_MASK,
    "rerank": model_pb2.TASK_RERANK,
    "pipeline": model_pb2.TASK_PIPELINE,
}


def load_model(
    source: str, name: str = "", revision: str = "", *, task: TaskName | None = None, pipeline_task: str = ""
) -> model_pb2.LoadModelRequest:
    """The request of LoadModel."""
    return model_pb2.LoadModelRequest(
        source=check_text("source", source),
        name=check_text("name", name),
        revision=check_text("revision", revision),
        task=model_pb2.TASK_UNSPECIFIED if task is None else check_choice("task", task, TASKS),
        pipeline_task=check_text("pipeline_task", pipeline_task),
    )


def model(message: model_pb2.GetModelResponse | model_pb2.LoadModelResponse) -> model_pb2.Model:
    """The model of a response that must hold one."""
    if not message.HasField("model"):
        raise errors.contract_error("the server sent no model")
    return message.model
