"""Where the time of a worker goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Spent:
    """The time that a model has spent since it was loaded, in nanoseconds. The worker reads it before and after a batch."""

    forward_ns: int = 0
    pool_ns: int = 0
    """What follows the forward: pooling, and the model's modules after it."""
