"""The list of reasons: the same in the proto, in the server and in the table of codes."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from hubwire.v1 import errors_pb2
from hubwire_server.errors import REASONS, HubwireError, Reason
from hubwire_server.status import to_status

PROTO = Path(__file__).parents[2] / "proto/hubwire/v1/errors.proto"


def test_the_proto_and_the_server_list_the_same_reasons():
    names = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()}  # noqa: SIM118 (an enum wrapper is no dict)
    assert names - {"UNSPECIFIED"} == {str(reason) for reason in Reason}
    assert set(REASONS) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_the_proto_documents_the_code_and_whether_to_retry(reason):
    (documented,) = re.findall(rf"// ERROR_REASON_{reason}: (\w+), (not retryable|retryable)\.", PROTO.read_text())
    assert documented == (REASONS[reason].code, "retryable" if REASONS[reason].retryable else "not retryable")
    assert REASONS[reason].code in grpc.StatusCode.__members__


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_its_details_on_the_wire(reason):
    error = HubwireError(reason, "text", field="texts[3]", metadata={"n": "1"}, retry_after_ms=1_500, model="m")
    status = to_status(error)
    assert status.code == grpc.StatusCode[error.code].value[0]
    details = {any_.TypeName().rsplit(".", 1)[-1]: any_ for any_ in status.details}
    info = error_details_pb2.ErrorInfo()
    assert details["ErrorInfo"].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (reason, "hubwire", {"n": "1"})
    assert ("BadRequest" in details) == (error.code == "INVALID_ARGUMENT")
    assert ("RetryInfo" in details) == error.retryable
    if error.retryable:
        retry = error_details_pb2.RetryInfo()
        assert details["RetryInfo"].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == 1_500
    assert "ResourceInfo" in details
