"""What every answer carries besides its content: the model, the usage and the timings."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from hubwire_server.scheduling.item import BatchTiming, ItemTiming


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a request consumed: tokens read after truncation, and texts that were cut."""

    input_tokens: int
    truncated_texts: int


@dataclass(slots=True)
class Timings:
    """Where the time went, in nanoseconds: see hubwire.v1.Timings."""

    decode_ns: int = 0
    tokenize_ns: int = 0
    queue_ns: int = 0
    transfer_ns: int = 0
    compute_ns: int = 0
    forward_ns: int = 0
    pool_ns: int = 0
    encode_ns: int = 0
    total_ns: int = 0
    _batches: set[BatchTiming] = field(default_factory=set)

    def add(self, timing: ItemTiming) -> None:
        """Counts one text. Texts that shared a batch count its time once."""
        if timing.queue_ns > self.queue_ns:
            self.queue_ns = timing.queue_ns
        batch = timing.batch
        if batch not in self._batches:
            self._batches.add(batch)
            self.transfer_ns += batch.transfer_ns
            self.compute_ns += batch.compute_ns
            self.forward_ns += batch.forward_ns
            self.pool_ns += batch.pool_ns

    def finish(self, arrived_ns: int, computed_ns: int) -> None:
        """Ends the clock, when the vectors are bytes. The arguments are when the request arrived and when its vectors were there, on the
        clock of time.perf_counter_ns."""
        now = time.perf_counter_ns()
        self.encode_ns = now - computed_ns
        self.total_ns = now - arrived_ns
