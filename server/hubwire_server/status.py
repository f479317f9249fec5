"""Errors as google.rpc.Status, the form in which they travel: in the trailers of a call, and inside messages of a stream.

This is the one place where an error becomes what a caller sees. HubwireError: its code, its message, its details. Anything else, and every
INTERNAL: a fixed text; the log has the rest under the id that the caller gets.
"""

from __future__ import annotations

import logging
import secrets
from urllib.parse import quote

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from hubwire_server.errors import HubwireError, Reason

log = logging.getLogger("hubwire.errors")

DOMAIN = "hubwire"
MAX_TEXT_BYTES = 1_000
"""Bytes of a message as gRPC writes it. Errors quote what callers sent, and gRPC replaces a status whose trailers pass 8 KiB."""
MAX_DETAIL_BYTES = 250
"""The same of a name, or of a value in the metadata."""


def visible(error: BaseException, where: str) -> HubwireError:
    """The error as a caller may see it. where says in the log which call or text it ended."""
    if isinstance(error, HubwireError) and error.reason is not Reason.INTERNAL:
        return error
    error_id = secrets.token_hex(4)
    log.error("%s failed (error %s): %s", where, error_id, error, exc_info=error)
    model = error.model if isinstance(error, HubwireError) else ""
    return HubwireError(Reason.INTERNAL, "the server failed; its log has the details", metadata={"error_id": error_id}, model=model)


def to_status(error: HubwireError) -> status_pb2.Status:
    """The status of an error, with the details that errors.proto promises."""
    message = _clip(error.message, MAX_TEXT_BYTES)
    metadata = {key: _clip(value, MAX_DETAIL_BYTES) for key, value in error.metadata.items()}
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if error.code == "INVALID_ARGUMENT" and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=_clip(error.field, MAX_DETAIL_BYTES), reason=error.reason)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retryable:
        delay = Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.model:
        name = _clip(error.model, MAX_DETAIL_BYTES)
        status.details.add().Pack(error_details_pb2.ResourceInfo(resource_type="model", resource_name=name))
    return status


def _clip(text: str, limit: int) -> str:
    """The text, cut where its percent-encoded form, in which messages travel, would pass the limit."""
    if len(text) * 12 <= limit or len(quote(text)) <= limit:
        return text
    kept = text[:limit]
    while len(quote(kept)) > limit:
        kept = kept[: len(kept) * 9 // 10]
    return kept + "…"
