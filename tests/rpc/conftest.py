"""What the tests of the wire share: stubs, and the details of a status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from hubwire.v1 import embedding_pb2_grpc, model_pb2_grpc

_DETAILS = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo, error_details_pb2.ResourceInfo)


@dataclass(frozen=True)
class Details:
    """What a status says."""

    code: str
    message: str
    reason: str = ""
    field: str = ""
    retry_ms: int | None = None
    model: str = ""
    metadata: dict[str, str] | None = None


def read_status(status: status_pb2.Status) -> Details:
    """The details of a google.rpc.Status."""
    found: dict[type, Any] = {}
    for packed in status.details:
        for kind in _DETAILS:
            message = kind()
            if packed.Unpack(message):
                found[kind] = message
    info, bad, retry, resource = (found.get(kind) for kind in _DETAILS)
    return Details(
        code=next(code.name for code in grpc.StatusCode if code.value[0] == status.code),
        message=status.message,
        reason=info.reason if info else "",
        field=bad.field_violations[0].field if bad else "",
        retry_ms=retry.retry_delay.ToMilliseconds() if retry else None,
        model=resource.resource_name if resource else "",
        metadata=dict(info.metadata) if info else None,
    )


def read_error(error: grpc.RpcError) -> Details:
    """The details of a failed call."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            assert status.code == error.code().value[0]
            assert status.message == error.details()
            return read_status(status)
    return Details(code=error.code().name, message=error.details())


@pytest.fixture
def embedding(server):
    """The embedding service."""
    return embedding_pb2_grpc.EmbeddingServiceStub(server.channel)


@pytest.fixture
def models(server):
    """The model service."""
    return model_pb2_grpc.ModelServiceStub(server.channel)
