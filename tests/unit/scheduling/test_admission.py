"""Admission: the bound on accepted work."""

from __future__ import annotations

import pytest

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.scheduling.admission import DEFAULT_RETRY_AFTER_MS, MAX_RETRY_AFTER_MS, Admission


def refusal(admission: Admission, tokens: int) -> HubwireError:
    with pytest.raises(HubwireError) as caught:
        admission.check(tokens)
    return caught.value


def test_work_is_admitted_up_to_the_bound_and_refused_above_it_with_a_delay():
    admission = Admission(max_waiting_tokens=100)
    admission.take(60)
    admission.check(40)
    admission.take(40)
    error = refusal(admission, 1)
    assert error.reason is Reason.OVERLOADED
    assert error.retryable
    assert error.retry_after_ms == DEFAULT_RETRY_AFTER_MS
    assert error.metadata == {"limit_tokens": "100", "waiting_tokens": "100", "request_tokens": "1"}


def test_one_request_of_any_size_is_admitted_when_nothing_else_is():
    admission = Admission(max_waiting_tokens=100)
    admission.check(1_000)
    permit = admission.take(1_000)
    assert not admission.has_room(1)
    permit.release(1_000)
    assert admission.used_tokens == 0


def test_tokens_come_back_one_text_at_a_time_and_are_announced():
    admission = Admission(max_waiting_tokens=100)
    freed = []
    admission.on_release = lambda: freed.append(admission.used_tokens)
    permit = admission.take(100)
    permit.release(30)
    permit.release(70)
    assert freed == [70, 0]


def test_releasing_more_than_a_permit_holds_is_a_bug_that_is_seen():
    admission = Admission(max_waiting_tokens=100)
    permit = admission.take(10)
    with pytest.raises(AssertionError, match="bug"):
        permit.release(11)


@pytest.mark.parametrize(("speed", "expected_ms"), [(1_000, 1_000), (100_000, 50), (1, MAX_RETRY_AFTER_MS)])
def test_the_delay_follows_the_measured_throughput_within_bounds(speed, expected_ms):
    admission = Admission(max_waiting_tokens=1_000)
    admission.measure(speed, 1_000_000_000)
    admission.take(1_000)
    assert refusal(admission, 1_000).retry_after_ms == expected_ms
