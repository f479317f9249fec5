"""Errors as google.rpc.Status, the form in which they travel: in the trailers of a call, and inside messages of a stream."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from hubwire_server.errors import HubwireError

DOMAIN = "hubwire"


def to_status(error: HubwireError) -> status_pb2.Status:
    """The status of an error, with the details that errors.proto promises."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=error.message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))
    if error.code == "INVALID_ARGUMENT" and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message, reason=error.reason)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retryable:
        delay = Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.model:
        status.details.add().Pack(error_details_pb2.ResourceInfo(resource_type="model", resource_name=error.model))
    return status
