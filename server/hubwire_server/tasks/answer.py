"""What every answer carries besides its content: the model, the usage and the timings."""

from __future__ import annotations

from dataclasses import dataclass, field

from hubwire_server.scheduling.item import ItemTiming


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a request consumed: tokens read after truncation, and texts that were cut."""

    input_tokens: int
    truncated_texts: int


@dataclass(slots=True)
class Timings:
    """Where the time went, in nanoseconds: see hubwire.v1.Timings."""

    tokenize_ns: int = 0
    queue_ns: int = 0
    total_ns: int = 0
    _computed: dict[int, int] = field(default_factory=dict)

    def add(self, timing: ItemTiming) -> None:
        """Counts one text. Texts that shared a batch count its time once."""
        self.queue_ns = max(self.queue_ns, timing.queue_ns)
        self._computed[timing.batch] = timing.compute_ns

    @property
    def compute_ns(self) -> int:
        """The device's time for the batches that held the texts."""
        return sum(self._computed.values())
