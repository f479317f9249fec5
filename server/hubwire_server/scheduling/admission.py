"""Admission: the bound on work that was accepted and not yet answered, counted in tokens.

What is admitted holds a Permit, and nothing can be queued without one. A permit is given back token by token as texts are answered or
dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hubwire_server.errors import HubwireError, Reason

DEFAULT_RETRY_AFTER_MS = 1_000
"""What an overloaded caller is told to wait before any throughput was measured."""
MAX_RETRY_AFTER_MS = 30_000
_SMOOTHING = 0.2
"""Weight of the newest measurement in the moving average of the throughput."""


@dataclass(eq=False, slots=True)
class Permit:
    """The right to have `tokens` tokens in the queue or on the device."""

    admission: Admission
    tokens: int

    def release(self, tokens: int) -> None:
        """Gives back part of it."""
        self.admission.release(self, tokens)


class Admission:
    """Counts the tokens of everything that was accepted and is not answered yet. limit_tokens bounds them.

    One request is admitted whenever nothing else is, however large it is: it could never be admitted otherwise.
    """

    def __init__(self, *, max_waiting_tokens: int) -> None:
        self.limit_tokens = max_waiting_tokens
        self._used = 0
        self._tokens_per_second = 0.0
        self.on_release: Callable[[], None] = lambda: None
        """Called whenever tokens are given back, so that a stream that waits for room can try again."""

    @property
    def used_tokens(self) -> int:
        """The tokens that are admitted now."""
        return self._used

    def has_room(self, tokens: int) -> bool:
        """Whether a permit over so many tokens may be taken."""
        return self._used == 0 or self._used + tokens <= self.limit_tokens

    def check(self, tokens: int) -> None:
        """Raises HubwireError with the reason OVERLOADED where the queue is full; its retry_after_ms is when there should be room again."""
        if not self.has_room(tokens):
            raise HubwireError(
                Reason.OVERLOADED,
                f"the queue holds {self._used} of {self.limit_tokens} tokens; this request has {tokens}",
                metadata={"limit_tokens": str(self.limit_tokens), "waiting_tokens": str(self._used), "request_tokens": str(tokens)},
                retry_after_ms=self._retry_after_ms(tokens),
            )

    def take(self, tokens: int) -> Permit:
        """A permit, after has_room or check."""
        self._used += tokens
        return Permit(self, tokens)

    def release(self, permit: Permit, tokens: int) -> None:
        """Gives back part of a permit."""
        if not 0 <= tokens <= permit.tokens:
            raise AssertionError(f"{tokens} tokens released of a permit over {permit.tokens}. This is a bug.")
        permit.tokens -= tokens
        self._used -= tokens
        self.on_release()

    def measure(self, tokens: int, busy_ns: int) -> None:
        """Records that the device computed `tokens` tokens in `busy_ns` nanoseconds."""
        if busy_ns <= 0:
            return
        speed = tokens * 1e9 / busy_ns
        self._tokens_per_second = speed if self._tokens_per_second == 0 else (1 - _SMOOTHING) * self._tokens_per_second + _SMOOTHING * speed

    def _retry_after_ms(self, tokens: int) -> int:
        if self._tokens_per_second == 0:
            return DEFAULT_RETRY_AFTER_MS
        excess = self._used + tokens - self.limit_tokens
        return max(50, min(MAX_RETRY_AFTER_MS, int(1_000 * excess / self._tokens_per_second)))
