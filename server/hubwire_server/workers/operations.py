"""What the worker computes: the operations by name, and the form of what goes in and comes out.

    pool    one vector a text. option: the pooling mode, empty for the model's own. extra: how many of the first tokens are left out of it
    tokens  the last hidden states, a row a token
    logits  what the head gives: a row a text, or a row a token
    fill    the likeliest tokens at places of a text. option: how many. extra: the places, -1, and the ids to choose from (none: any)
    sparse  one sparse vector a text (SPLADE)

Each is computed for a whole batch. Texts that share a batch share operation and option.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hubwire_server import _native
from hubwire_server.backends.base import RaggedBatch
from hubwire_server.backends.embedding_head import EmbeddingHead
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.workers.spent import Spent

MAX_LOGITS = 1 << 24
"""The most logits over a vocabulary that are there at one time: 64 MiB. A single text may have more."""


@dataclass(frozen=True, slots=True)
class Ragged:
    """One array a text, one after the other: values has shape (T,), offsets (n + 1,)."""

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    def text(self, index: int) -> NDArray[Any]:
        """The array of one text."""
        values: NDArray[Any] = self.values[self.offsets[index] : self.offsets[index + 1]]
        return values


@dataclass(frozen=True, slots=True)
class Computed:
    """The output of a batch: arrays that have a row a text, or rows offsets[i] to offsets[i + 1] for text i."""

    arrays: tuple[NDArray[Any], ...]
    offsets: NDArray[np.int64] | None = None


class Forward(Protocol):
    """A backend, as far as operations use it."""

    def forward(self, batch: RaggedBatch, rows: NDArray[np.int64] | None = None) -> tuple[NDArray[Any], str]:
        """See Backend.forward."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What operations run on. Its methods count the time that they take."""

    backend: Forward
    row_size: int
    """The number of values in a row of the backend's output."""
    threads: int
    spent: Spent

    def forward(self, batch: RaggedBatch, rows: NDArray[np.int64] | None = None) -> tuple[NDArray[Any], str]:
        """See Backend.forward."""
        start = time.perf_counter_ns()
        try:
            return self.backend.forward(batch) if rows is None else self.backend.forward(batch, rows)
        finally:
            self.spent.forward_ns += time.perf_counter_ns() - start

    def forward_float32(self, batch: RaggedBatch, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """As forward, in float32 whatever the model computes in. Raises HubwireError (OUTPUT_NOT_FINITE)."""
        output = as_float32(*self.forward(batch, rows))
        if not np.isfinite(output).all():
            raise HubwireError(Reason.OUTPUT_NOT_FINITE, "the model gave NaN or infinity")
        return output


Operation = Callable[[Engine, str, RaggedBatch, Ragged | None], Computed]


def tokens(engine: Engine, option: str, batch: RaggedBatch, extra: Ragged | None) -> Computed:
    """The output of a head that gives a row a token, shape (T, row_size)."""
    return Computed((engine.forward_float32(batch),), batch.offsets)


def texts(engine: Engine, option: str, batch: RaggedBatch, extra: Ragged | None) -> Computed:
    """The output of a head that gives a row a text, shape (n, row_size)."""
    return Computed((engine.forward_float32(batch),))


def pool(head: EmbeddingHead) -> Operation:
    """Pools with an embedding model's head: vectors of shape (n, dimensions)."""

    def compute(engine: Engine, option: str, batch: RaggedBatch, extra: Ragged | None) -> Computed:
        hidden, dtype = engine.forward(batch)
        start = time.perf_counter_ns()
        skip = None if extra is None else skips(extra)
        vectors = head.pool(hidden, dtype, batch.offsets, mode=option or None, skip=skip, threads=engine.threads)
        engine.spent.pool_ns += time.perf_counter_ns() - start
        return Computed((vectors,))

    return compute


def fill(engine: Engine, option: str, batch: RaggedBatch, extra: Ragged | None) -> Computed:
    """The likeliest tokens at each place: ids of shape (m, k), and their probabilities over the whole vocabulary, shape (m, k)."""
    assert extra is not None
    k = min(int(option), engine.row_size)
    asked = [_split(extra.text(index)) for index in range(len(batch.offsets) - 1)]
    counts = np.array([len(places) for places, _ in asked], dtype=np.int64)
    parts = []
    for first, last in _runs(counts, MAX_LOGITS // engine.row_size):
        part = _texts_of(batch, first, last)
        rows = np.concatenate([places + start for (places, _), start in zip(asked[first:last], part.offsets[:-1], strict=True)])
        logits = as_float32(*engine.forward(part, rows.astype(np.int64)))
        start = time.perf_counter_ns()
        parts.append(_likeliest(logits, counts[first:last], [targets for _, targets in asked[first:last]], k, engine.threads))
        engine.spent.pool_ns += time.perf_counter_ns() - start
    ids, scores = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
    return Computed((ids, scores), np.concatenate([[0], np.cumsum(counts)]))


def sparse(engine: Engine, option: str, batch: RaggedBatch, extra: Ragged | None) -> Computed:
    """Sparse vectors: indices, values. The logits of a large vocabulary are many, so that few texts at a time go through the head."""
    maxima = []
    for first, last in _runs(np.diff(batch.offsets), MAX_LOGITS // engine.row_size):
        part = _texts_of(batch, first, last)
        logits, _ = engine.forward(part)
        start = time.perf_counter_ns()
        with _finite():
            maxima.append(_native.pool_ragged(logits, part.offsets, mode="max", threads=engine.threads))
        engine.spent.pool_ns += time.perf_counter_ns() - start
    start = time.perf_counter_ns()
    indices, values, offsets = _native.sparse_rows(np.concatenate(maxima), threads=engine.threads)
    engine.spent.pool_ns += time.perf_counter_ns() - start
    return Computed((indices, values), offsets)


MASKED_LM: Mapping[str, Operation] = {"fill": fill, "sparse": sparse}


def skips(extra: Ragged) -> NDArray[np.int64]:
    """How many of the first tokens of each text are left out of the pooling, shape (n,). A text without a word on it leaves out none."""
    given = np.diff(extra.offsets) > 0
    skip = np.zeros(len(given), np.int64)
    skip[given] = extra.values
    return skip


def as_float32(output: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """The values of an array of any of a backend's dtypes."""
    if dtype == "bfloat16":  # its 16 bits are the upper half of a float32
        return (output.astype(np.uint32) << 16).view(np.float32)
    return output.astype(np.float32, copy=False)


@contextmanager
def _finite() -> Iterator[None]:
    """The core looks at every value anyway: what it says of those that are not finite, as the error of the model."""
    try:
        yield
    except _native.NativeError as error:
        if error.reason != "not_finite":
            raise
        raise HubwireError(Reason.OUTPUT_NOT_FINITE, "the model gave NaN or infinity") from error


def _split(extra: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The places of a text, and the ids to choose from."""
    end = int(np.argmax(extra < 0))
    return extra[:end], extra[end + 1 :]


def _likeliest(
    logits: NDArray[np.float32], counts: NDArray[np.int64], targets: Sequence[NDArray[Any]], k: int, threads: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The likeliest k ids of each row of logits, and their probabilities. Each text has so many rows as counts says, and chooses among its
    targets, where it has some."""
    with _finite():
        ids, values, total = _native.top_k(logits, k, threads=threads)
    ends = np.cumsum(counts)
    for text in (index for index, chosen in enumerate(targets) if len(chosen)):
        low, high = ends[text] - counts[text], ends[text]
        ids[low:high], values[low:high] = _best_of(logits[low:high], targets[text], k)
    return ids, np.exp(values - total[:, None])


def _best_of(logits: NDArray[np.float32], targets: NDArray[Any], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The best of some ids, shape (m, k); where there are fewer than k, the rest is -1 with a value of minus infinity."""
    chosen = logits[:, targets]
    order = np.argsort(-chosen, axis=1, kind="stable")[:, :k]
    ids = np.full((len(logits), k), -1, np.int32)
    values = np.full((len(logits), k), -np.inf, np.float32)
    ids[:, : order.shape[1]] = targets[order]
    values[:, : order.shape[1]] = np.take_along_axis(chosen, order, axis=1)
    return ids, values


def _runs(weights: NDArray[np.int64], budget: int) -> Iterator[tuple[int, int]]:
    """Runs of texts, first to last, that weigh at most so much together; a text that weighs more is a run of its own."""
    first = total = 0
    for index, weight in enumerate(weights.tolist()):
        if index > first and total + weight > budget:
            yield first, index
            first, total = index, 0
        total += weight
    yield first, len(weights)


def _texts_of(batch: RaggedBatch, first: int, last: int) -> RaggedBatch:
    """The texts first to last of a batch."""
    if (first, last) == (0, len(batch.offsets) - 1):
        return batch
    low, high = batch.offsets[first], batch.offsets[last]
    return RaggedBatch(batch.ids[low:high], batch.type_ids[low:high], batch.offsets[first : last + 1] - low)
