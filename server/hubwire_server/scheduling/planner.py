"""The batch planner: a pure state machine.

A batch is formed from what waits at the moment that the device can take one; there is no waiting window. The choice, in this order:
1. A batch that died with its worker is retried before anything else, alone.
2. The client with the least service goes first (fairness.py); within a client the earliest deadline, then the oldest text.
3. Texts with the same BatchKey are added in that same order until the token budget is full.
4. A backend that pads gets the run of similar lengths around the first text whose padding stays within MAX_PADDING. For that up to
MAX_LOOK texts are looked at in the same order, whatever their tokens: the more there are to choose from, the less is padded. The rest
waits on.
Cancelled and expired texts are dropped on the way and never reach the device.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hubwire_server.scheduling.clock import Clock
from hubwire_server.scheduling.fairness import FairShares
from hubwire_server.scheduling.item import BatchKey, Item, ItemState

MAX_PADDING = 0.2
"""The largest part of a padded batch that may be padding."""
MAX_LOOK = 256
"""The most texts that are looked at to find those of similar length, and so the most that a padded batch holds, whatever the limits say.
Looking takes about 2 us for each, on the event loop; a batch computes for milliseconds."""
CPU_BATCH_TOKENS = 1_024
GPU_BATCH_TOKENS = 16_384
NO_DEADLINE = 2**63
"""Sorts texts without a deadline after all others."""

_Heap = list[tuple[int, int, Item]]
_Order = list[tuple[float, int, int, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The size of a batch. One text is always taken, however long it is."""

    tokens: int
    texts: int

    @classmethod
    def for_device(cls, device: str, *, tokens: int, texts: int) -> BatchLimits:
        """The limits on a device; tokens 0 is its default: about a tenth of a second of work on a CPU, and enough to fill a GPU."""
        return cls(tokens=tokens or (CPU_BATCH_TOKENS if device.startswith(("auto", "cpu")) else GPU_BATCH_TOKENS), texts=texts)


@dataclass(eq=False, slots=True)
class Batch:
    """Texts that the worker computes together, shortest first."""

    key: BatchKey
    items: list[Item]

    @property
    def tokens(self) -> int:
        """The number of tokens, without padding."""
        return sum(item.tokens for item in self.items)

    def running(self) -> list[Item]:
        """The texts whose outcome somebody still waits for."""
        return [item for item in self.items if item.state is ItemState.RUNNING]


class Planner:
    """Holds the texts that wait, and says which of them run next."""

    def __init__(self, limits: BatchLimits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._heaps: dict[BatchKey, dict[str, _Heap]] = {}
        self._retries: deque[Batch] = deque()
        self._shares = FairShares()
        self._sequence = 0
        self._waiting = 0
        self._dropped = 0

    def set_limits(self, limits: BatchLimits) -> None:
        """Changes the size of the batches to come."""
        self._limits = limits

    def __len__(self) -> int:
        """The number of texts that wait."""
        return self._waiting

    def add(self, items: Iterable[Item]) -> None:
        """Queues texts."""
        now = self._clock()
        for item in items:
            self._sequence += 1
            item.sequence = self._sequence
            item.enqueued_ns = now
            self._push(item)
            self._arrived(item)

    def cancel(self, items: Iterable[Item]) -> list[Item]:
        """Drops the texts, and returns those of them that waited. What is on the device is computed to its end, and answered to nobody."""
        dropped = []
        for item in items:
            if item.state is ItemState.WAITING:
                self._drop(item)
                dropped.append(item)
            item.state = ItemState.DONE
        if self._dropped > max(64, self._waiting):
            self._purge()
        return dropped

    def drop_model(self, model: str) -> list[Item]:
        """Drops every waiting text of a model, and returns them."""
        return self.cancel(self._items_of(model))

    def drop_all(self) -> list[Item]:
        """Drops every waiting text, and returns them."""
        return self.cancel(self._items_of(None))

    def waiting_of(self, model: str) -> int:
        """The number of texts that wait for a model."""
        return sum(item.state is ItemState.WAITING for item in self._items_of(model))

    def next_batch(self, is_ready: Callable[[str], bool] = lambda model: True) -> tuple[Batch | None, list[Item]]:
        """The batch to compute now, or None, and the texts whose deadline passed while they waited. Models that are not ready are passed
        over."""
        expired: list[Item] = []
        batch = self._next_retry(is_ready, expired)
        while batch is None:
            turn = self._next_key(is_ready)
            if turn is None:
                break
            if items := self._take(*turn, expired):
                batch = Batch(turn[0], items)
        if batch is not None:
            for item in batch.items:
                item.state = ItemState.RUNNING
        return batch, expired

    def finish(self, batch: Batch) -> None:
        """The batch was answered."""
        for item in batch.items:
            item.state = ItemState.DONE

    def requeue(self, batch: Batch) -> None:
        """The worker died before it reached this batch: its texts wait again, where they stood."""
        for item in batch.running():
            item.state = ItemState.WAITING
            self._push(item)
            self._arrived(item)
            self._shares.refund(item.client, item.tokens)

    def retry(self, batch: Batch) -> list[Item]:
        """The worker died while it computed this batch. Returns the texts that are given up.

        The batch is retried once as it is. If that kills the worker too, each text is retried alone, and the one that kills the worker
        alone is given up.
        """
        items = batch.running()
        for item in items:
            item.crashes += 1
        if not items:
            return []
        if len(batch.items) == 1 and items[0].crashes >= 2:
            items[0].state = ItemState.DONE
            return items
        again = [Batch(batch.key, items)] if items[0].crashes == 1 else [Batch(batch.key, [item]) for item in items]
        for part in again:
            for item in part.items:
                item.state = ItemState.WAITING
                self._arrived(item)
            self._retries.append(part)
        return []

    def _items_of(self, model: str | None) -> list[Item]:
        """Every text of a model, or of all, in the heaps and among the retries, dropped ones included."""
        heaps = [heap for key, clients in self._heaps.items() if model in (None, key.model) for heap in clients.values()]
        queued = [item for heap in heaps for _, _, item in heap]
        return queued + [item for batch in self._retries if model in (None, batch.key.model) for item in batch.items]

    def _push(self, item: Item) -> None:
        """Puts a text into its heap, where it stands by deadline and age."""
        deadline = NO_DEADLINE if item.deadline_ns is None else item.deadline_ns
        heap = self._heaps.setdefault(item.key, {}).setdefault(item.client, [])
        heapq.heappush(heap, (deadline, item.sequence, item))

    def _arrived(self, item: Item) -> None:
        self._waiting += 1
        self._shares.arrived(item.client)

    def _left(self, item: Item) -> None:
        self._waiting -= 1
        self._shares.left(item.client)

    def _drop(self, item: Item) -> None:
        """Ends the wait of a text; its entry in a heap or among the retries is passed over later."""
        item.state = ItemState.DONE
        self._dropped += 1
        self._left(item)

    def _purge(self) -> None:
        """Removes the entries of dropped texts, so that cancelled work does not hold memory."""
        for key, clients in list(self._heaps.items()):
            for client, heap in list(clients.items()):
                clients[client] = [entry for entry in heap if entry[2].state is ItemState.WAITING]
                heapq.heapify(clients[client])
                if not clients[client]:
                    del clients[client]
            if not clients:
                del self._heaps[key]
        self._dropped = 0

    def _head(self, heap: _Heap) -> tuple[int, int, Item] | None:
        """The first text of a heap that was not dropped."""
        while heap and heap[0][2].state is not ItemState.WAITING:
            heapq.heappop(heap)
        return heap[0] if heap else None

    def _order(self, clients: dict[str, _Heap]) -> _Order:
        """The clients with texts waiting: least served first, then the earliest deadline, then the oldest text."""
        order = []
        for client, heap in list(clients.items()):
            head = self._head(heap)
            if head is None:
                del clients[client]
            else:
                order.append((self._shares.virtual_time(client), head[0], head[1], client))
        heapq.heapify(order)
        return order

    def _next_key(self, is_ready: Callable[[str], bool]) -> tuple[BatchKey, _Order] | None:
        """The key of the text whose turn it is, and the clients that have texts with that key."""
        best: tuple[BatchKey, _Order] | None = None
        for key, clients in list(self._heaps.items()):
            if not is_ready(key.model):
                continue
            order = self._order(clients)
            if not order:
                del self._heaps[key]
            elif best is None or order[0] < best[1][0]:
                best = (key, order)
        return best

    def _take(self, key: BatchKey, order: _Order, expired: list[Item]) -> list[Item]:
        """Takes a batch of texts with this key off the queue."""
        now = self._clock()
        clients = self._heaps[key]
        chosen: list[Item] = []
        tokens = 0
        most = MAX_LOOK if key.padded else self._limits.texts
        while order and len(chosen) < most:
            client = order[0][3]
            head = self._head(clients[client])
            if head is None:
                heapq.heappop(order)
                continue
            item = head[2]
            if item.deadline_ns is not None and item.deadline_ns <= now:
                self._drop(item)
                expired.append(item)
                continue
            if chosen and tokens + item.tokens > self._limits.tokens and not key.padded:
                break
            heapq.heappop(clients[client])
            chosen.append(item)
            tokens += item.tokens
            following = self._head(clients[client])
            if following is None:
                heapq.heappop(order)
            else:
                heapq.heapreplace(order, (order[0][0] + item.tokens, following[0], following[1], client))
        kept = similar_lengths(chosen, self._limits) if key.padded else chosen
        for item in kept:
            self._shares.charge(item.client, item.tokens)
        taken = set(map(id, kept))
        for item in chosen:
            if id(item) in taken:
                self._left(item)
            else:  # it was looked at, and waits on
                self._push(item)
        return sorted(kept, key=lambda item: item.tokens)

    def _next_retry(self, is_ready: Callable[[str], bool], expired: list[Item]) -> Batch | None:
        now = self._clock()
        for _ in range(len(self._retries)):
            batch = self._retries.popleft()
            if all(item.state is not ItemState.WAITING for item in batch.items):
                continue
            if not is_ready(batch.key.model):
                self._retries.append(batch)
                continue
            alive = []
            for item in batch.items:
                if item.state is not ItemState.WAITING:
                    continue
                if item.deadline_ns is not None and item.deadline_ns <= now:
                    self._drop(item)
                    expired.append(item)
                else:
                    self._left(item)
                    alive.append(item)
            if alive:
                return Batch(batch.key, alive)
        return None


def similar_lengths(chosen: Sequence[Item], limits: BatchLimits) -> list[Item]:
    """Of the texts chosen, the longest run of neighbours in length that holds the first one, pads at most MAX_PADDING and fits the limits
    with its padding."""
    if not chosen:
        return []
    ordered = sorted(chosen, key=lambda item: item.tokens)
    first = ordered.index(chosen[0])
    low = high = first
    real = ordered[first].tokens

    def fits(count: int, tokens: int, longest: int) -> bool:
        return tokens >= (1 - MAX_PADDING) * count * longest and count * longest <= limits.tokens and count <= limits.texts

    while True:
        count = high - low + 1
        longer = high + 1 < len(ordered) and fits(count + 1, real + ordered[high + 1].tokens, ordered[high + 1].tokens)
        shorter = low > 0 and fits(count + 1, real + ordered[low - 1].tokens, ordered[high].tokens)
        if longer and (not shorter or ordered[high + 1].tokens - ordered[first].tokens <= ordered[first].tokens - ordered[low - 1].tokens):
            high += 1
            real += ordered[high].tokens
        elif shorter:
            low -= 1
            real += ordered[low].tokens
        else:
            return ordered[low : high + 1]
