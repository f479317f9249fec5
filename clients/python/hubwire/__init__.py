"""The Python client of Hubwire, a gRPC server for Hugging Face models.

    import hubwire

    with hubwire.Client("127.0.0.1:50051") as client:
        vectors = client.embed(["a text", "another"])

Client is synchronous, aio.Client is its twin for asyncio. Calls raise the errors of hubwire.errors, which draws their tree. The messages of
the wire are in hubwire.v1.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from hubwire._version import __version__

if TYPE_CHECKING:
    from hubwire import aio, errors, v1
    from hubwire._client import Client
    from hubwire._names import (
        AggregationName,
        EncodingName,
        FunctionName,
        PoolingName,
        ScoringName,
        TaskName,
        TruncationSideName,
    )
    from hubwire._types import (
        Answer,
        Blob,
        Classification,
        Entity,
        MaskPrediction,
        PipelineTask,
        QuestionAnswers,
        RankedDocument,
        SparseVector,
        TokenEmbeddings,
        TokenizedText,
    )
    from hubwire.errors import (
        AlreadyExistsError,
        CallCancelledError,
        DeadlineExceededError,
        FailedPreconditionError,
        FieldViolation,
        HubwireError,
        InternalError,
        InvalidArgumentError,
        MessageTooLargeError,
        NotFoundError,
        OverloadedError,
        PermissionDeniedError,
        ResourceExhaustedError,
        UnauthenticatedError,
        UnavailableError,
        UnimplementedError,
    )

__all__ = [
    "AggregationName",
    "AlreadyExistsError",
    "Answer",
    "Blob",
    "CallCancelledError",
    "Classification",
    "Client",
    "DeadlineExceededError",
    "EncodingName",
    "Entity",
    "FailedPreconditionError",
    "FieldViolation",
    "FunctionName",
    "HubwireError",
    "InternalError",
    "InvalidArgumentError",
    "MaskPrediction",
    "MessageTooLargeError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "PipelineTask",
    "PoolingName",
    "QuestionAnswers",
    "RankedDocument",
    "ResourceExhaustedError",
    "ScoringName",
    "SparseVector",
    "TaskName",
    "TokenEmbeddings",
    "TokenizedText",
    "TruncationSideName",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "__version__",
    "aio",
    "errors",
    "v1",
]

_HOMES = {
    "AggregationName": "hubwire._names",
    "Answer": "hubwire._types",
    "Blob": "hubwire._types",
    "Classification": "hubwire._types",
    "Client": "hubwire._client",
    "EncodingName": "hubwire._names",
    "Entity": "hubwire._types",
    "FunctionName": "hubwire._names",
    "MaskPrediction": "hubwire._types",
    "PipelineTask": "hubwire._types",
    "PoolingName": "hubwire._names",
    "QuestionAnswers": "hubwire._types",
    "RankedDocument": "hubwire._types",
    "ScoringName": "hubwire._names",
    "SparseVector": "hubwire._types",
    "TaskName": "hubwire._names",
    "TokenEmbeddings": "hubwire._types",
    "TokenizedText": "hubwire._types",
    "TruncationSideName": "hubwire._names",
}

# What hubwire.v1 holds once it is used, as in hubwire.v1.model_pb2.Model: its own __init__ imports nothing.
_MESSAGES = (
    "common_pb2",
    "embedding_pb2",
    "errors_pb2",
    "fill_mask_pb2",
    "model_pb2",
    "pipeline_pb2",
    "question_answering_pb2",
    "rerank_pb2",
    "text_classification_pb2",
    "token_classification_pb2",
    "tokenization_pb2",
)


def __getattr__(name: str) -> object:
    """Import a name when it is first used: grpc and numpy take 0.3 s, for which `hubwire --help` need not wait."""
    if name in ("aio", "errors"):
        return importlib.import_module(f"hubwire.{name}")
    if name == "v1":
        for messages in _MESSAGES:
            importlib.import_module(f"hubwire.v1.{messages}")
        return importlib.import_module("hubwire.v1")
    if name not in __all__:
        raise AttributeError(f"module 'hubwire' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "hubwire.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
