"""The unit of scheduling: one text."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hubwire_server.errors import HubwireError
from hubwire_server.scheduling.admission import Permit


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What texts must have in common to be computed together."""

    model: str
    operation: str
    """What the worker does with them: the name of one of workers/operations.py."""
    option: str = ""
    """What the operation needs to know and is the same for all of them, such as the pooling mode that a request chose."""
    padded: bool = False
    """Whether the backend pads, so that texts of very different lengths must not share a batch."""


@dataclass(frozen=True, slots=True)
class TokenArrays:
    """The work of one text: ids and type_ids of shape (tokens,), and what else the operation needs to know of this text, shape (k,); None
    where that is nothing."""

    ids: NDArray[np.int32]
    type_ids: NDArray[np.int32]
    extra: NDArray[Any] | None = None


Output = tuple[NDArray[Any], ...]
"""What the worker computed for one text. What the arrays are, the operation says."""


class ItemState(Enum):
    """Where a text stands."""

    WAITING = auto()
    RUNNING = auto()
    DONE = auto()
    """Answered, failed, expired or cancelled: nothing more happens to it."""


class Sink(Protocol):
    """Takes the outcome of texts, exactly one each."""

    def deliver(self, item: Item, output: Output, timing: ItemTiming) -> None:
        """The text's own part of each array of the output of its batch. They are views: whoever keeps them keeps the whole batch."""
        ...

    def fail(self, item: Item, error: HubwireError) -> None:
        """The text's own error."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class BatchTiming:
    """Where the time of a batch went, in nanoseconds. The texts of a batch share it, and two batches are never the same one."""

    compute_ns: int
    """All that the worker did; forward_ns and pool_ns are parts of it."""
    forward_ns: int
    pool_ns: int
    transfer_ns: int
    """On the way to the worker and back."""


@dataclass(frozen=True, slots=True)
class ItemTiming:
    """How long a text waited for the device to take its batch, in nanoseconds, and where the time of that batch went."""

    queue_ns: int
    batch: BatchTiming


@dataclass(eq=False, slots=True)
class Item:
    """One text on its way to the device.

    client is whom fairness counts it for; deadline_ns is on the scheduler's clock; work is what the worker needs, which the scheduler does
    not read. permit is set by Executor.submit.
    The fields below are the scheduler's.
    """

    key: BatchKey
    tokens: int
    client: str
    deadline_ns: int | None
    sink: Sink
    index: int
    """The text's place in its request, for the sink."""
    work: TokenArrays
    permit: Permit | None = field(default=None, init=False)
    sequence: int = field(default=0, init=False)
    enqueued_ns: int = field(default=0, init=False)
    state: ItemState = field(default=ItemState.WAITING, init=False)
    crashes: int = field(default=0, init=False)
    """How many times a worker died while it computed this text."""
