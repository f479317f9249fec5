"""Text to labelled tokens, words or entities, as the token-classification pipeline of transformers finds them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.models.registry import ReadyModel
from hubwire_server.scheduling.item import BatchKey, Output
from hubwire_server.tasks.answer import Timings, Usage
from hubwire_server.tasks.decoding import INLINE_LABEL_TOKENS
from hubwire_server.tasks.entities import Entity, EntityRules, LabelledTokens, find_entities
from hubwire_server.tasks.stream import StreamEntry
from hubwire_server.tasks.text_task import TextTask, TextWork, batch_key
from hubwire_server.tasks.texts import Caller, Reading, Texts, Tokenized, Truncation, Windows, check_unique, limit_tokens, limit_window

if TYPE_CHECKING:
    from hubwire_server._native import AggregationStrategy, OffsetUnit

MAX_LOGITS = 67_108_864
"""How many logits the tokens of a request may have: they are held together, in 256 MiB, until all are there."""
MAX_STREAM_WINDOWS = 16
MAX_STREAM_TOKENS = 8_192
"""The most windows of one text of a stream, and how many tokens these may have where they are several. Its entities are found and written
on the event loop, where neighbours wait for it: where every word is one, 16 windows of 512 tokens take about 12 ms."""
MAX_RESPONSE_ENTITIES = 4_096
"""How many entities the texts of one message of a stream should have at most: they are written on the event loop, which takes about 1.4 us
an entity, and have about 64 bytes each, where gRPC clients take 4 MiB unless they are told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyTokensOptions:
    """How tokens become entities: see hubwire.v1.ClassifyTokensOptions.

    long_text None refuses a text that is longer than the model reads.
    """

    aggregation: AggregationStrategy = "simple"
    ignored_labels: Sequence[str] = ("O",)
    long_text: Truncation | Windows | None = None
    offset_unit: OffsetUnit = "code_point"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyTokensRequest:
    """Texts, or texts that the caller split into words."""

    texts: Sequence[str] = ()
    split_texts: Sequence[Sequence[str]] = ()
    model: str = ""
    options: ClassifyTokensOptions = field(default_factory=ClassifyTokensOptions)
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    """As in EmbedRequest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyTokensResult:
    """entities has one list a text, each ordered by place."""

    entities: Sequence[Sequence[Entity]]
    model: ReadyModel
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class TokenPlan:
    """The options of a request, settled for one model; also a StreamPlan (stream.py), whose values are lists of entities."""

    model: ReadyModel
    key: BatchKey
    reading: Reading
    rules: EntityRules

    @property
    def most_results(self) -> int:
        """See StreamPlan. Each token of each window may be an entity."""
        return max(1, MAX_RESPONSE_ENTITIES // (self.most_windows * self.reading.limit_tokens))

    @property
    def most_windows(self) -> int:
        """How many windows a text of a stream may have."""
        if self.reading.windows is None:
            return 1
        return max(1, min(MAX_STREAM_WINDOWS, MAX_STREAM_TOKENS // self.reading.limit_tokens))

    def extras(self, tokenized: Tokenized) -> None:
        """See StreamPlan: the worker needs the tokens alone."""

    def refusal(self, tokenized: Tokenized, rows: Sequence[int]) -> HubwireError | None:
        """See StreamPlan: a text of more windows than a stream takes."""
        return self._too_many_windows(int(tokenized.batch.token_counts[rows[0]])) if len(rows) > self.most_windows else None

    def value(self, entry: StreamEntry, tokenized: Tokenized, rows: Sequence[int], outputs: Sequence[Output]) -> list[Entity]:
        """See StreamPlan. The windows of a text follow each other."""
        logits = np.concatenate([output[0] for output in outputs]) if len(outputs) > 1 else outputs[0][0]
        tokens = LabelledTokens.of(tokenized, logits, rows[0], rows[-1] + 1)
        return find_entities(self.rules, [entry.text], tokens)[0]

    def _too_many_windows(self, count: int) -> HubwireError:
        """The error for a text of so many tokens."""
        windows, size = self.reading.windows, self.reading.limit_tokens
        assert windows is not None
        new = size - windows.stride_of(size) - self.model.tokenizer.count_special_tokens()
        limit = size + (self.most_windows - 1) * new
        return HubwireError(
            Reason.TEXT_TOO_LONG,
            f"the text has {count} tokens; a stream reads {limit}, in windows: send it to ClassifyTokens",
            metadata={"token_count": str(count), "limit_tokens": str(limit)},
        )


class TokenClassificationTask:
    """Finds entities."""

    def __init__(self, texts: TextTask) -> None:
        self.texts = texts

    async def classify(self, request: ClassifyTokensRequest, caller: Caller) -> ClassifyTokensResult:
        """The labelled parts of each text, or HubwireError for the first text that cannot be labelled."""
        plan = self.plan(request.model, request.options)
        texts: Sequence[str] = request.texts
        words: Sequence[Sequence[str]] | None = None
        where = "texts"
        if request.split_texts:
            words, where = request.split_texts, "split_texts"
            texts = _join(request, self.texts.texts)
        else:
            self.texts.texts.check(texts)

        def check(tokenized: Tokenized) -> None:
            _check_logits(len(tokenized.batch.ids), len(plan.model.classification.labels), where)

        work = TextWork(model=plan.model, key=plan.key, reading=plan.reading, texts=texts, words=words, extras=check, field=where)
        done = await self.texts.compute(work, caller, request.arrived_ns)

        def decode() -> list[list[Entity]]:
            tokens = LabelledTokens.of(done.tokenized, done.array(), 0, len(done.outputs))
            return find_entities(plan.rules, texts, tokens, words)

        entities = await asyncio.to_thread(decode) if len(done.tokenized.batch.ids) > INLINE_LABEL_TOKENS else decode()
        return ClassifyTokensResult(entities=entities, model=plan.model, usage=done.usage, timings=done.timings)

    def plan(self, model_name: str, options: ClassifyTokensOptions, path: str = "") -> TokenPlan:
        """Settles the options of a request. Raises HubwireError with the option that does not fit; path is where the options are in the
        request."""
        model = self.texts.registry.ready(model_name, Task.TOKEN_CLASSIFICATION, field=f"{path}model")
        path = f"{path}options"
        check_unique(options.ignored_labels, f"{path}.ignored_labels.labels")
        return TokenPlan(
            model=model,
            key=batch_key(model, "logits"),
            reading=_reading(model, options, path),
            rules=EntityRules.of(model, options.aggregation, options.ignored_labels, options.offset_unit),
        )


def _reading(model: ReadyModel, options: ClassifyTokensOptions, path: str) -> Reading:
    """How texts are read, with spans to slice them by."""
    long_text = options.long_text
    if not isinstance(long_text, Windows):
        limit = limit_tokens(model, long_text, f"{path}.truncation")
        return Reading(limit_tokens=limit, truncation=long_text, spans="code_point")
    if options.aggregation == "none":
        text = "windows join entities; tokens without an aggregation are no entities"
        raise HubwireError(Reason.OPTION_NOT_SUPPORTED, text, field=f"{path}.windows")
    limit = limit_window(model, long_text, model.description.max_tokens, f"{path}.windows")
    return Reading(limit_tokens=limit, windows=long_text, spans="code_point")


def _check_logits(tokens: int, labels: int, field: str) -> None:
    """The head gives each token a value for each of its labels, which may be many."""
    if tokens * labels > MAX_LOGITS:
        raise HubwireError(
            Reason.TOO_MANY_TEXTS,
            f"{tokens} tokens with {labels} labels make {tokens * labels} values; the server takes {MAX_LOGITS} in one request",
            field=field,
            metadata={"count": str(tokens), "limit": str(MAX_LOGITS // labels)},
        )


def _join(request: ClassifyTokensRequest, texts: Texts) -> list[str]:
    """The texts that split words stand for, checked."""
    if request.texts:
        text = "a request carries texts or split_texts, not both"
        raise HubwireError(Reason.OPTION_NOT_SUPPORTED, text, field="split_texts")
    texts.check_count(len(request.split_texts), "split_texts")
    for index, words in enumerate(request.split_texts):
        if not words:
            raise HubwireError(Reason.FIELD_REQUIRED, "the text has no words: give at least one", field=f"split_texts[{index}].words")
        if "" in words:
            field = f"split_texts[{index}].words[{list(words).index('')}]"
            raise HubwireError(Reason.TEXT_EMPTY, "the word is empty", field=field)
    joined = [" ".join(words) for words in request.split_texts]
    texts.check(joined, "split_texts")
    return joined
