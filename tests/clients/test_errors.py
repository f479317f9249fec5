"""Errors of calls and of items: every code, every detail."""

from __future__ import annotations

import pickle
import threading

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, status_pb2

import hubwire
from hubwire import errors
from hubwire.v1 import errors_pb2

CLASSES = {
    grpc.StatusCode.OK: hubwire.HubwireError,
    grpc.StatusCode.CANCELLED: hubwire.CallCancelledError,
    grpc.StatusCode.UNKNOWN: hubwire.HubwireError,
    grpc.StatusCode.INVALID_ARGUMENT: hubwire.InvalidArgumentError,
    grpc.StatusCode.DEADLINE_EXCEEDED: hubwire.DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: hubwire.NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: hubwire.AlreadyExistsError,
    grpc.StatusCode.PERMISSION_DENIED: hubwire.PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: hubwire.ResourceExhaustedError,
    grpc.StatusCode.FAILED_PRECONDITION: hubwire.FailedPreconditionError,
    grpc.StatusCode.ABORTED: hubwire.HubwireError,
    grpc.StatusCode.OUT_OF_RANGE: hubwire.HubwireError,
    grpc.StatusCode.UNIMPLEMENTED: hubwire.UnimplementedError,
    grpc.StatusCode.INTERNAL: hubwire.InternalError,
    grpc.StatusCode.UNAVAILABLE: hubwire.UnavailableError,
    grpc.StatusCode.DATA_LOSS: hubwire.HubwireError,
    grpc.StatusCode.UNAUTHENTICATED: hubwire.UnauthenticatedError,
}


def rpc_error(code, text="", details=None):
    metadata = grpc.aio.Metadata() if details is None else grpc.aio.Metadata(("grpc-status-details-bin", details))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, text)


def test_the_table_holds_every_code():
    assert set(CLASSES) == set(grpc.StatusCode)


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_every_code_has_its_class_in_calls_and_in_items(code):
    expected = grpc.StatusCode.UNKNOWN if code is grpc.StatusCode.OK else code
    for error in (
        errors.from_rpc_error(rpc_error(code, "text")),
        errors.from_status(status_pb2.Status(code=code.value[0], message="text")),
    ):
        assert type(error) is CLASSES[code]
        assert error.code is expected
        assert error.message == "text"
        assert str(error) == f"text [{expected.name}]"
        assert (error.reason, error.field, error.metadata, error.retry_after_s) == ("", "", {}, None)


def test_every_class_is_exported_and_drawn():
    classes = {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, hubwire.HubwireError)}
    assert classes == {name for name in hubwire.__all__ if name.endswith("Error")}
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in classes)


def test_a_code_that_grpc_does_not_know_is_unknown():
    error = errors.from_status(status_pb2.Status(code=99, message="new"))
    assert (type(error), error.code) == (hubwire.HubwireError, grpc.StatusCode.UNKNOWN)


def test_an_rpc_error_that_is_no_call_is_unknown():
    error = errors.from_rpc_error(grpc.RpcError("something"))
    assert (error.code, error.message) == (grpc.StatusCode.UNKNOWN, "something")


def test_details_are_read(client, fake, status):
    fake.failures.append(
        status(
            code_pb2.INVALID_ARGUMENT,
            "texts[1] has 9 tokens",
            "TEXT_TOO_LONG",
            field="texts[1]",
            model="small",
            limit_tokens="8",
            token_count="9",
        )
    )
    with pytest.raises(hubwire.InvalidArgumentError) as caught:
        client.embed(["a", "b"])
    error = caught.value
    assert error.reason == "TEXT_TOO_LONG"
    assert "ERROR_REASON_" + error.reason in set(errors_pb2.ErrorReason.keys())
    assert error.message == "texts[1] has 9 tokens"
    assert error.field == "texts[1]"
    assert error.field_violations == (hubwire.FieldViolation("texts[1]", "texts[1] has 9 tokens"),)
    assert error.metadata == {"limit_tokens": "8", "token_count": "9"}
    assert (error.resource_type, error.resource_name) == ("model", "small")
    assert error.retry_after_s is None
    assert str(error) == "texts[1] has 9 tokens [TEXT_TOO_LONG]"
    assert isinstance(error.__cause__, grpc.RpcError)


@pytest.mark.parametrize(
    ("reason", "retry_after_s", "kind"),
    [
        pytest.param("OVERLOADED", 0.25, hubwire.OverloadedError, id="a full queue"),
        pytest.param("", 0.25, hubwire.OverloadedError, id="a delay without a reason"),
        pytest.param("MESSAGE_TOO_LARGE", None, hubwire.MessageTooLargeError, id="a large message"),
        pytest.param("SOMETHING", None, hubwire.ResourceExhaustedError, id="another limit"),
    ],
)
def test_resource_exhausted_is_told_apart(status, reason, retry_after_s, kind):
    error = errors.from_status(status(code_pb2.RESOURCE_EXHAUSTED, "no", reason, retry_after_s=retry_after_s))
    assert type(error) is kind
    assert error.retry_after_s == retry_after_s


def test_a_message_that_grpc_refuses_is_message_too_large(client):
    with pytest.raises(hubwire.MessageTooLargeError, match="larger than max") as caught:
        client.embed(["a" * 5_000_000])
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


def test_details_that_cannot_be_read_leave_code_and_text():
    error = errors.from_rpc_error(rpc_error(grpc.StatusCode.NOT_FOUND, "text", b"\xff\xff"))
    assert (type(error), error.message, error.reason) == (hubwire.NotFoundError, "text", "")


def test_one_detail_that_cannot_be_read_leaves_the_others(status):
    broken = status(code_pb2.NOT_FOUND, "text", "MODEL_NOT_FOUND", model="small")
    broken.details.insert(0, any_pb2.Any(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\xff"))
    broken.details.insert(0, any_pb2.Any(type_url="type.googleapis.com/some.Unknown", value=b"\xff"))
    error = errors.from_status(broken)
    assert (error.reason, error.resource_name) == ("MODEL_NOT_FOUND", "small")


def test_errors_survive_a_process_boundary(status):
    error = errors.from_status(status(code_pb2.RESOURCE_EXHAUSTED, "no", "OVERLOADED", retry_after_s=2.5, waiting="3"))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is hubwire.OverloadedError
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_an_error_with_no_message_still_says_something(code):
    for error in (errors.from_rpc_error(rpc_error(code)), errors.from_status(status_pb2.Status(code=code.value[0]))):
        assert len(error.message.split()) >= 4
        assert str(error) == f"{error.message} [{error.code.name}]"


@pytest.mark.parametrize(
    ("message", "field", "line"),
    [
        pytest.param("the text is empty", "texts[1]", "the text is empty, at texts[1] [TEXT_EMPTY]", id="the field is named"),
        pytest.param("texts[1] is empty", "texts[1]", "texts[1] is empty [TEXT_EMPTY]", id="not twice"),
        pytest.param("the text is empty", "text", "the text is empty [TEXT_EMPTY]", id="the text of an item is the text"),
        pytest.param("the text is empty", "", "the text is empty [TEXT_EMPTY]", id="no field"),
    ],
)
def test_an_error_says_where(status, message, field, line):
    error = errors.from_status(status(code_pb2.INVALID_ARGUMENT, message, "TEXT_EMPTY", field=field))
    assert (str(error), error.message, error.field) == (line, message, field)


def test_a_call_under_way_when_the_client_closes_is_cancelled(fake):
    fake.gate.clear()
    client = hubwire.Client(fake.address)
    results = client.stream_embed(iter(["a"]))
    threading.Timer(0.1, client.close).start()
    with pytest.raises(hubwire.CallCancelledError):
        next(results)
