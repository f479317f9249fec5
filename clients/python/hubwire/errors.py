"""What a call can raise, in one tree.

    HubwireError                    code, reason, message, field, metadata, retry_after_s; as such for every code without a class below
    ├── InvalidArgumentError        INVALID_ARGUMENT: the request is wrong, `field` says where; the same call never succeeds
    ├── NotFoundError               NOT_FOUND: no such model, source or health service
    ├── AlreadyExistsError          ALREADY_EXISTS: a model of that name is served
    ├── FailedPreconditionError     FAILED_PRECONDITION: the model could not be loaded, or cannot be served
    ├── PermissionDeniedError       PERMISSION_DENIED: the operator of the server does not allow this
    ├── UnauthenticatedError        UNAUTHENTICATED: the call carries no valid credentials
    ├── ResourceExhaustedError      RESOURCE_EXHAUSTED, and neither of the two below
    │   ├── OverloadedError         the queue is full; `retry_after_s` says when to call again
    │   └── MessageTooLargeError    a message is above a size limit; send less at once, or stream
    ├── UnavailableError            UNAVAILABLE: no connection, or the server or the model is not ready
    ├── DeadlineExceededError       DEADLINE_EXCEEDED: `timeout_s` passed first
    ├── CallCancelledError          CANCELLED: the client was closed during the call
    ├── UnimplementedError          UNIMPLEMENTED: the server has no such method
    └── InternalError               INTERNAL: a defect of the server, or an answer that breaks the contract

Wrong Python arguments (a str in place of a list, an unknown pooling) are TypeError and ValueError, raised before anything is sent.

gRPC errors become these at two places, both here: from_rpc_error for calls, from_status for single items of a stream. The reasons are
listed, with what to do about each, in proto/hubwire/v1/errors.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"
_MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"


class FieldViolation(NamedTuple):
    """One wrong field of a request."""

    field: str
    """Its path, relative to the request message: "texts[3]", "options.dimensions"."""
    description: str
    """What is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetails:
    """What google.rpc.Status.details says, in Python's terms. Every field is empty where the server said nothing."""

    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    field_violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None
    resource_type: str = ""
    resource_name: str = ""


class HubwireError(Exception):
    """A call, or one item of a stream, failed.

    Attributes:
        code: the gRPC status code.
        reason: the name of a hubwire.v1.ErrorReason without its prefix ("TEXT_TOO_LONG"); "" if the server gave none.
        message: what happened, for people.
        metadata: the numbers of the case as text ("limit_tokens", "token_count", ...).
        field_violations: every wrong field of the request.
        field: the path of the first wrong field ("texts[3]"); "" if no field is to blame.
        retry_after_s: seconds to wait before the next call; None where the server named none, which for most errors means that a retry is
            pointless.
        resource_type, resource_name: what the error is about ("model" and its name); "" where it is about nothing of that kind.
    """

    def __init__(self, message: str, *, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN, details: ErrorDetails | None = None) -> None:
        super().__init__(message)
        self._details = details or ErrorDetails()
        self.code = code
        self.message = message
        self.reason = self._details.reason
        self.metadata: dict[str, str] = dict(self._details.metadata)
        self.field_violations = self._details.field_violations
        self.field = self.field_violations[0].field if self.field_violations else ""
        self.retry_after_s = self._details.retry_after_s
        self.resource_type = self._details.resource_type
        self.resource_name = self._details.resource_name

    def __str__(self) -> str:
        # Many messages say where themselves, and "the text" is where the field of an item of a stream is: text.
        where = f", at {self.field}" if self.field and self.field not in self.message else ""
        return f"{self.message}{where} [{self.reason or self.code.name}]"

    def __reduce__(self) -> tuple[Any, ...]:
        # Results of a stream travel between processes in data pipelines; the default would lose the keyword arguments.
        return _restore, (type(self), self.message, self.code, self._details)


def _restore(kind: type[HubwireError], message: str, code: grpc.StatusCode, details: ErrorDetails) -> HubwireError:
    return kind(message, code=code, details=details)


class InvalidArgumentError(HubwireError):
    """The request is wrong; `field` says where."""


class NotFoundError(HubwireError):
    """There is no such model, source or health service."""


class AlreadyExistsError(HubwireError):
    """A model of that name is served already."""


class FailedPreconditionError(HubwireError):
    """The model could not be loaded, or cannot be served."""


class PermissionDeniedError(HubwireError):
    """The operator of the server does not allow this."""


class UnauthenticatedError(HubwireError):
    """The call carries no valid credentials."""


class ResourceExhaustedError(HubwireError):
    """A limit was reached: a queue (OverloadedError), a message size (MessageTooLargeError) or one that the server did not explain."""


class OverloadedError(ResourceExhaustedError):
    """The queue of the server is full; wait for `retry_after_s`."""


class MessageTooLargeError(ResourceExhaustedError):
    """A message is above the size limit of its receiver. Send less at once, or stream."""


class UnavailableError(HubwireError):
    """There is no connection, or the server or the model is not ready."""


class DeadlineExceededError(HubwireError):
    """The timeout passed before the answer came."""


class CallCancelledError(HubwireError):
    """The call was cancelled, as by closing the client."""


class UnimplementedError(HubwireError):
    """The server has no such method."""


class InternalError(HubwireError):
    """The server has a defect, or its answer breaks the contract."""


_CLASSES: Mapping[grpc.StatusCode, type[HubwireError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CallCancelledError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.INTERNAL: InternalError,
}
# For servers and proxies that send a code alone.
_MESSAGES: Mapping[grpc.StatusCode, str] = {
    grpc.StatusCode.CANCELLED: "the call was cancelled",
    grpc.StatusCode.UNKNOWN: "the call failed, and the server does not say why",
    grpc.StatusCode.INVALID_ARGUMENT: "the server refuses the request as wrong, and does not say why",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the timeout passed before the answer came",
    grpc.StatusCode.NOT_FOUND: "the server has nothing of that name",
    grpc.StatusCode.ALREADY_EXISTS: "the server has something of that name already",
    grpc.StatusCode.PERMISSION_DENIED: "the server does not allow this",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "a limit of the server is reached",
    grpc.StatusCode.FAILED_PRECONDITION: "the server is in no state to do this",
    grpc.StatusCode.ABORTED: "the server gave the call up",
    grpc.StatusCode.OUT_OF_RANGE: "a value of the request is out of range",
    grpc.StatusCode.UNIMPLEMENTED: "the server has no such method",
    grpc.StatusCode.INTERNAL: "the server has a defect, and does not say which",
    grpc.StatusCode.UNAVAILABLE: "the server cannot be reached, or is not ready",
    grpc.StatusCode.DATA_LOSS: "the server lost data",
    grpc.StatusCode.UNAUTHENTICATED: "the call carries no valid credentials",
}
_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def from_rpc_error(error: grpc.RpcError) -> HubwireError:
    """Translate what grpc or grpc.aio raised. The caller raises the result `from error`."""
    code = error.code() if hasattr(error, "code") else None
    message = (error.details() if hasattr(error, "details") else str(error)) or ""
    trailing = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    status = _status(trailing or ())
    if status is not None:
        message = status.message or message
    return _build(code, message, _parse(status.details if status is not None else ()))


def from_status(status: status_pb2.Status) -> HubwireError:
    """Translate the status of one item of a stream. The result is handed to the caller, not raised."""
    return _build(_CODES.get(status.code), status.message, _parse(status.details))


def unknown_service(service: str, error: NotFoundError) -> NotFoundError:
    """What the health service means by NOT_FOUND, for which it sends no words."""
    message = f"the server knows no service {service}" if service else "the server says nothing about its health as a whole"
    return NotFoundError(message, code=error.code)


def contract_error(message: str) -> InternalError:
    """An answer that the contract does not allow, found by the client."""
    return InternalError(message, code=grpc.StatusCode.INTERNAL)


def _build(code: grpc.StatusCode | None, message: str, details: ErrorDetails) -> HubwireError:
    """Choose the class. A code that gRPC does not know, and OK in the place of an error, count as UNKNOWN."""
    if code is None or code is grpc.StatusCode.OK:
        code = grpc.StatusCode.UNKNOWN
    kind = _CLASSES.get(code, HubwireError)
    if kind is ResourceExhaustedError:
        # The gRPC library refuses large messages on its own, on either side, and says so in its text alone.
        if not details.reason and "larger than max" in message:
            details = ErrorDetails(reason=_MESSAGE_TOO_LARGE)
        if details.reason == _MESSAGE_TOO_LARGE:
            kind = MessageTooLargeError
        elif details.retry_after_s is not None or details.reason == "OVERLOADED":
            kind = OverloadedError
    return kind(message or _MESSAGES[code], code=code, details=details)


def _status(trailing: Iterable[Any]) -> status_pb2.Status | None:
    """The google.rpc.Status in trailing metadata (pairs of key and value). None where there is none that can be read."""
    for key, value in trailing:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _parse(details: Iterable[Any]) -> ErrorDetails:
    """Read the details (google.protobuf.Any) that this client knows, and pass over the others and over those that cannot be read."""
    info, bad, retry, resource = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
        error_details_pb2.ResourceInfo(),
    )
    found_retry = False
    for detail in details:
        try:
            found_retry = detail.Unpack(retry) or found_retry
            detail.Unpack(info) or detail.Unpack(bad) or detail.Unpack(resource)
        except DecodeError:
            continue
    return ErrorDetails(
        reason=info.reason,
        metadata=dict(info.metadata),
        field_violations=tuple(FieldViolation(one.field, one.description) for one in bad.field_violations),
        retry_after_s=retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9 if found_retry else None,
        resource_type=resource.resource_type,
        resource_name=resource.resource_name,
    )
