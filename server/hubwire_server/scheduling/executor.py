"""What a task needs of whatever runs its texts. The dispatcher of workers/ implements it; nothing here knows how."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from hubwire_server.scheduling.admission import Permit
from hubwire_server.scheduling.item import Item


class Executor(Protocol):
    """Runs texts on a device."""

    @property
    def stream_tokens(self) -> int:
        """How many tokens a stream should ask for at once, so that it never waits for the queue to be empty."""
        ...

    def check(self, tokens: int) -> None:
        """Raises HubwireError where `admit` would: before work is done for nothing."""
        ...

    def admit(self, tokens: int) -> Permit:
        """Raises HubwireError: OVERLOADED where the queue is full, SHUTTING_DOWN where the server is about to end."""
        ...

    async def admit_when_possible(self, tokens: int) -> Permit:
        """Waits for room: for streams, whose callers are held back by flow control instead of being refused. Raises SHUTTING_DOWN."""
        ...

    def submit(self, items: Sequence[Item], permit: Permit) -> None:
        """Queues admitted texts of one key. Each sink hears of each of its texts exactly once, unless it is cancelled; at once where the
        model is gone."""
        ...

    def cancel(self, items: Iterable[Item]) -> None:
        """Nobody waits for these texts any more: their sinks are not called again."""
        ...
