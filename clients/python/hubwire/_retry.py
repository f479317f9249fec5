"""When a failed call is made again, and when it is given up. Pure: the clock and the dice are handed in, the clients sleep."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from hubwire._arguments import check_count
from hubwire.errors import HubwireError, InvalidArgumentError, MessageTooLargeError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how patiently a call is repeated."""

    max_attempts: int
    """Calls in all, the first one included."""
    initial_backoff_s: float = 0.2
    """The wait after the first UNAVAILABLE that names no delay; it doubles with each one after it. Five attempts wait for 3 s at most in
    all: a server that is just starting listens after about one second."""
    max_backoff_s: float = 5.0
    """The longest such wait."""
    jitter: float = 0.25
    """The share by which waits are spread, so that the clients that one overload refused do not come back together. It lengthens a delay
    that the server named and shortens one of ours."""

    def __post_init__(self) -> None:
        check_count("max_attempts", self.max_attempts)


def is_retryable(error: HubwireError, *, idempotent: bool) -> bool:
    """Say whether the same call may succeed later.

    A delay named by the server is an invitation. UNAVAILABLE without one may have reached the server before the connection broke, so only
    calls that may safely run twice are repeated.
    """
    if isinstance(error, InvalidArgumentError | MessageTooLargeError):
        return False
    return error.retry_after_s is not None or (idempotent and error.code is grpc.StatusCode.UNAVAILABLE)


@dataclass(slots=True, kw_only=True)
class Attempts:
    """The attempts of one call, under one deadline for all of them."""

    policy: RetryPolicy
    timeout_s: float | None
    """Seconds for all attempts and waits together; None for no limit."""
    idempotent: bool = True
    clock: Callable[[], float] = time.monotonic
    dice: Callable[[], float] = random.random
    _made: int = field(init=False, default=0)
    _deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self._deadline = math.inf if self.timeout_s is None else self.clock() + self.timeout_s

    def remaining_s(self) -> float | None:
        """The timeout of the next attempt, in the form that grpc takes: None for no limit."""
        return None if self._deadline == math.inf else max(0.0, self._deadline - self.clock())

    def delay_s(self, error: HubwireError) -> float | None:
        """Count a failed attempt: the seconds to wait before the next one, or None where the error goes to the caller."""
        self._made += 1
        if self._made >= self.policy.max_attempts or not is_retryable(error, idempotent=self.idempotent):
            return None
        delay = self._wait_s(error.retry_after_s)
        # Sleeping into the deadline would replace an error that says why by one that says only "too late".
        return delay if self.clock() + delay < self._deadline else None

    def _wait_s(self, named_s: float | None) -> float:
        spread = self.policy.jitter * self.dice()
        if named_s is not None:
            return max(0.0, named_s) * (1 + spread)
        backoff = self.policy.initial_backoff_s * 2.0 ** (self._made - 1)
        return min(backoff, self.policy.max_backoff_s) * (1 - spread)
