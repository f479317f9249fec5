"""Text to sparse vectors over the vocabulary of a masked language model (SPLADE)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.models.registry import ReadyModel
from hubwire_server.scheduling.item import BatchKey, Output
from hubwire_server.tasks.answer import Timings, Usage
from hubwire_server.tasks.decoding import offsets_of, vocabulary_entries
from hubwire_server.tasks.stream import StreamEntry
from hubwire_server.tasks.text_task import TextTask, TextWork, batch_key
from hubwire_server.tasks.texts import Caller, Reading, Tokenized, Truncation, limit_tokens

MAX_RESPONSE_BYTES = 2_097_152
"""About as much as one message of a stream's vectors holds, as in embedding.py."""
TERM_BYTES = 8
"""What an entry of a vector takes, its index and its value; TOKEN_BYTES where its text comes with it."""
TOKEN_BYTES = 24
INLINE_TERMS = 50_000
"""Up to so many entries are chosen and named on the event loop, which takes a few milliseconds at most; above, in a thread."""
MAX_ANSWER_TERMS = 33_554_432
"""What the vectors of an answer may hold together: about 256 MiB, as the answer of embed_tokens (embedding.py). A model that was not
trained to be sparse gives most of its vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSparseOptions:
    """How texts become sparse vectors: see hubwire.v1.EmbedSparseOptions."""

    max_terms: int = 0
    return_tokens: bool = False
    truncation: Truncation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSparseRequest:
    """One sparse vector a text."""

    texts: Sequence[str]
    model: str = ""
    options: EmbedSparseOptions = field(default_factory=EmbedSparseOptions)
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    """As in EmbedRequest."""


@dataclass(frozen=True, slots=True)
class SparseVector:
    """The entries of a vector that are not zero, by ascending index, both of shape (terms,)."""

    indices: NDArray[np.int32]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSparseResult:
    """The vector of each text. tokens is the vocabulary's text of the entries of all vectors, one after the other, or None."""

    vectors: Sequence[SparseVector]
    tokens: Sequence[str] | None
    model: ReadyModel
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class EmbedSparsePlan:
    """The options of a request, settled for one model; also a StreamPlan (stream.py), whose values are SparseVector."""

    model: ReadyModel
    key: BatchKey
    reading: Reading
    max_terms: int
    return_tokens: bool

    @property
    def most_results(self) -> int:
        """See StreamPlan."""
        terms = self.max_terms or self.model.masked_language_model.vocabulary_size
        return max(1, MAX_RESPONSE_BYTES // (terms * (TOKEN_BYTES if self.return_tokens else TERM_BYTES)))

    def extras(self, tokenized: Tokenized) -> Sequence[NDArray[Any]] | None:
        """See StreamPlan: the tokens are all that is needed."""
        return None

    def refusal(self, tokenized: Tokenized, rows: Sequence[int]) -> HubwireError | None:
        """See StreamPlan: nothing, since a text is one row."""
        return None

    def value(self, entry: StreamEntry, tokenized: Tokenized, rows: Sequence[int], outputs: Sequence[Output]) -> SparseVector:
        """See StreamPlan. The arrays are copied: they would otherwise keep the memory of their whole batch."""
        indices, values = outputs[0]
        return SparseVector(indices.copy(), values.copy()) if not self._cuts(values) else largest_terms(indices, values, self.max_terms)

    def vectors(self, outputs: Sequence[Output]) -> list[SparseVector]:
        """The vectors of a request."""
        return [
            largest_terms(indices, values, self.max_terms) if self._cuts(values) else SparseVector(indices, values)
            for indices, values in outputs
        ]

    def tokens(self, vectors: Sequence[SparseVector]) -> list[str] | None:
        """The vocabulary's text of the entries of all vectors, where the request asked for it."""
        if not self.return_tokens:
            return None
        return vocabulary_entries(self.model.tokenizer, np.concatenate([vector.indices for vector in vectors])) if vectors else []

    def _cuts(self, values: NDArray[np.float32]) -> bool:
        return 0 < self.max_terms < len(values)


class SparseEmbeddingTask:
    """Embeds texts as sparse vectors."""

    def __init__(self, texts: TextTask) -> None:
        self.texts = texts

    async def embed_sparse(self, request: EmbedSparseRequest, caller: Caller) -> EmbedSparseResult:
        """One vector a text, or HubwireError for the first text that has none."""
        plan = self.plan(request.model, request.options)
        self.texts.texts.check(request.texts)
        work = TextWork(model=plan.model, key=plan.key, reading=plan.reading, texts=request.texts)
        done = await self.texts.compute(work, caller, request.arrived_ns)
        finish = partial(_finish, plan, done.outputs)
        terms = sum(len(values) for _, values in done.outputs)
        _check_answer_size(terms if not plan.max_terms else min(terms, plan.max_terms * len(done.outputs)), len(done.outputs))
        vectors, tokens = await asyncio.to_thread(finish) if terms > INLINE_TERMS else finish()
        return EmbedSparseResult(vectors=vectors, tokens=tokens, model=plan.model, usage=done.usage, timings=done.timings)

    def plan(self, model_name: str, options: EmbedSparseOptions, path: str = "") -> EmbedSparsePlan:
        """Settles the options of a request. Raises HubwireError with the option that does not fit; path is where the options are in the
        request."""
        model = self.texts.registry.ready(model_name, Task.SPARSE_EMBEDDING, field=f"{path}model")
        return EmbedSparsePlan(
            model=model,
            key=batch_key(model, "sparse"),
            reading=Reading(
                limit_tokens=limit_tokens(model, options.truncation, f"{path}options.truncation"), truncation=options.truncation
            ),
            max_terms=options.max_terms,
            return_tokens=options.return_tokens,
        )


def largest_terms(indices: NDArray[np.int32], values: NDArray[np.float32], count: int) -> SparseVector:
    """The entries with the largest values, fewer than there are, still by ascending index. Of equal values those of the lowest indices
    stay."""
    least = np.partition(values, len(values) - count)[len(values) - count]
    kept = values > least
    kept[np.flatnonzero(values == least)[: count - np.count_nonzero(kept)]] = True
    return SparseVector(indices[kept], values[kept])


def term_offsets(vectors: Sequence[SparseVector]) -> NDArray[np.int64]:
    """Where the entries of each vector begin among those of all, shape (n + 1,)."""
    return offsets_of([len(vector.indices) for vector in vectors])


def _check_answer_size(terms: int, texts: int) -> None:
    """Raises HubwireError where the vectors of an answer would hold too many entries."""
    if terms > MAX_ANSWER_TERMS:
        raise HubwireError(
            Reason.TOO_MANY_TEXTS,
            f"the vectors would have {terms} entries; the server answers with at most {MAX_ANSWER_TERMS}: "
            "set max_terms, or send fewer texts",
            field="texts",
            metadata={"count": str(texts), "limit": str(max(1, texts * MAX_ANSWER_TERMS // terms))},
        )


def _finish(plan: EmbedSparsePlan, outputs: Sequence[Output]) -> tuple[list[SparseVector], list[str] | None]:
    vectors = plan.vectors(outputs)
    return vectors, plan.tokens(vectors)
