"""When calls are repeated: the decision with a clock of its own, then both clients against a server that refuses."""

from __future__ import annotations

import math
import socket
import threading
import time

import grpc
import pytest
from google.rpc import code_pb2

import hubwire
from hubwire import errors
from hubwire._retry import Attempts, RetryPolicy, is_retryable


def attempts(*, timeout_s=None, max_attempts=5, idempotent=True, dice=0.0):
    now = [100.0]
    made = Attempts(
        policy=RetryPolicy(max_attempts=max_attempts), timeout_s=timeout_s, idempotent=idempotent, clock=lambda: now[0], dice=lambda: dice
    )
    return made, now


def unavailable(retry_after_s=None):
    return hubwire.UnavailableError("no", code=grpc.StatusCode.UNAVAILABLE, details=errors.ErrorDetails(retry_after_s=retry_after_s))


@pytest.mark.parametrize(
    ("code", "reason", "retry_after_s", "idempotent", "expected"),
    [
        pytest.param("UNAVAILABLE", "", None, True, True, id="no connection"),
        pytest.param("UNAVAILABLE", "", None, False, False, id="no connection, and the call must not run twice"),
        pytest.param("UNAVAILABLE", "MODEL_NOT_READY", 1.0, False, True, id="the server invites to another call"),
        pytest.param("RESOURCE_EXHAUSTED", "OVERLOADED", 0.1, True, True, id="overload with a delay"),
        pytest.param("RESOURCE_EXHAUSTED", "", None, True, False, id="a limit without a delay"),
        pytest.param("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE", 0.1, True, False, id="a large message, whatever the server says"),
        pytest.param("INVALID_ARGUMENT", "TEXT_TOO_LONG", 0.1, True, False, id="a wrong argument, whatever the server says"),
        pytest.param("ABORTED", "", 0.1, True, True, id="any other code with a delay"),
        pytest.param("INTERNAL", "INTERNAL", None, True, False, id="a defect"),
        pytest.param("DEADLINE_EXCEEDED", "", None, True, False, id="a deadline"),
    ],
)
def test_what_is_retryable(status, code, reason, retry_after_s, idempotent, expected):
    error = errors.from_status(status(code_pb2.Code.Value(code), "text", reason, retry_after_s=retry_after_s))
    assert is_retryable(error, idempotent=idempotent) is expected


def test_backoff_doubles_up_to_its_limit():
    made, _ = attempts(max_attempts=9)
    assert [made.delay_s(unavailable()) for _ in range(7)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


def test_the_last_attempt_is_the_last():
    made, _ = attempts(max_attempts=2)
    assert made.delay_s(unavailable()) is not None
    assert made.delay_s(unavailable()) is None


def test_a_named_delay_is_honoured_and_only_lengthened():
    assert attempts(dice=0.0)[0].delay_s(unavailable(3.0)) == 3.0
    assert attempts(dice=1.0)[0].delay_s(unavailable(3.0)) == pytest.approx(3.75)
    assert attempts(dice=1.0)[0].delay_s(unavailable()) == pytest.approx(0.15)


def test_no_wait_reaches_into_the_deadline():
    made, now = attempts(timeout_s=1.0)
    assert made.remaining_s() == pytest.approx(1.0)
    now[0] += 0.7
    assert made.remaining_s() == pytest.approx(0.3)
    assert made.delay_s(unavailable(0.4)) is None


def test_without_a_timeout_there_is_no_deadline():
    made, now = attempts()
    now[0] += 1e9
    assert made.remaining_s() is None
    assert made.delay_s(unavailable(3.0)) == 3.0


@pytest.mark.parametrize("max_attempts", [0, -1])
def test_less_than_one_attempt_is_refused(fake, max_attempts):
    with pytest.raises(ValueError, match="max_attempts must be 1 or more"):
        hubwire.Client(fake.address, max_attempts=max_attempts)
    with pytest.raises(TypeError, match="max_attempts must be an int"):
        hubwire.Client(fake.address, max_attempts=str(max_attempts))


def test_a_call_waits_as_long_as_the_server_says(client, fake, status):
    fake.failures.extend([status(code_pb2.RESOURCE_EXHAUSTED, "full", "OVERLOADED", retry_after_s=0.3)] * 2)
    assert client.embed(["a"]).shape == (1, 10)
    assert len(fake.requests) == 3
    for earlier, later in zip(fake.times, fake.times[1:], strict=False):
        assert 0.3 <= later - earlier < 0.9


def test_attempts_are_bounded(connect, fake, status):
    fake.failures.extend([status(code_pb2.UNAVAILABLE, "loading", "MODEL_NOT_READY", retry_after_s=0.01)] * 9)
    with pytest.raises(hubwire.UnavailableError) as caught:
        connect(max_attempts=3).list_models()
    assert len(fake.requests) == 3
    assert (caught.value.reason, caught.value.retry_after_s) == ("MODEL_NOT_READY", 0.01)


def test_a_delay_beyond_the_deadline_is_not_waited_for(client, fake, status):
    fake.failures.append(status(code_pb2.RESOURCE_EXHAUSTED, "full", "OVERLOADED", retry_after_s=30))
    began = time.monotonic()
    with pytest.raises(hubwire.OverloadedError):
        client.embed(["a"], timeout_s=1)
    assert time.monotonic() - began < 0.9


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "RESOURCE_EXHAUSTED"])
def test_other_errors_are_not_repeated(client, fake, status, code):
    fake.failures.append(status(code_pb2.Code.Value(code), "no"))
    with pytest.raises(hubwire.HubwireError):
        client.embed(["a"])
    assert len(fake.requests) == 1


def test_unloading_is_not_repeated_unless_invited(client, fake, status):
    fake.failures.append(status(code_pb2.UNAVAILABLE, "gone"))
    with pytest.raises(hubwire.UnavailableError):
        client.unload_model("small")
    fake.failures.append(status(code_pb2.UNAVAILABLE, "busy", "SHUTTING_DOWN", retry_after_s=0.01))
    client.unload_model("small")
    assert fake.unloaded == ["small"]


def test_health_is_asked_once(client, fake, status):
    fake.failures.append(status(code_pb2.UNAVAILABLE, "draining", "SHUTTING_DOWN", retry_after_s=0.01))
    with pytest.raises(hubwire.UnavailableError):
        client.health()
    assert len(fake.requests) == 1


def test_streams_are_not_repeated(client, fake, status):
    fake.failures.append(status(code_pb2.UNAVAILABLE, "loading", "MODEL_NOT_READY", retry_after_s=0.01))
    with pytest.raises(hubwire.UnavailableError):
        list(client.stream_embed(["a"]))
    fake.failures.append(status(code_pb2.UNAVAILABLE, "loading", "MODEL_NOT_READY", retry_after_s=0.01))
    with pytest.raises(hubwire.UnavailableError):
        client.load_model("org/model")
    assert len(fake.requests) == 2


@pytest.mark.parametrize("timeouts", [({"timeout_s": 0.2}, {}), ({}, {"timeout_s": 0.2})], ids=["of the client", "of the call"])
def test_a_deadline_ends_a_call(connect, fake, timeouts):
    of_client, of_call = timeouts
    fake.delay_s = 1.0
    began = time.monotonic()
    with pytest.raises(hubwire.DeadlineExceededError):
        connect(**of_client).embed(["a"], **of_call)
    assert 0.15 < time.monotonic() - began < 0.9


def test_the_timeout_of_the_client_spares_streams_and_yields_to_the_call(connect, fake):
    fake.delay_s = 0.3
    client = connect(timeout_s=0.1)
    assert len(list(client.stream_embed(["a"]))) == 1
    assert client.embed(["a"], timeout_s=math.inf).shape == (1, 10)
    with pytest.raises(hubwire.DeadlineExceededError):
        list(client.stream_embed(["a"], timeout_s=0.1))


def test_calls_wait_for_a_server_that_is_starting(connect, fake, serve):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    client = connect(address)
    timer = threading.Timer(0.7, serve, [address])
    timer.start()
    assert client.embed(["a"]).shape == (1, 10)
    timer.join()


def test_no_server_at_all_is_unavailable(connect):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(hubwire.UnavailableError):
            connect(f"127.0.0.1:{probe.getsockname()[1]}", max_attempts=1).embed(["a"])
