"""The labels of a sequence-classification head for texts, or for pairs of texts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hubwire_server._native import top_k
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import ClassificationDetails, Task
from hubwire_server.models.registry import ReadyModel
from hubwire_server.scheduling.item import BatchKey, Output
from hubwire_server.tasks.answer import Timings, Usage
from hubwire_server.tasks.decoding import softmax
from hubwire_server.tasks.stream import StreamEntry
from hubwire_server.tasks.text_task import TextTask, TextWork, batch_key
from hubwire_server.tasks.texts import Caller, Reading, Tokenized, Truncation, check_unique, limit_tokens

ClassificationFunction = Literal["", "sigmoid", "softmax", "none"]

MAX_SCORES = 1_048_576
"""How many labels an answer may hold over all of its texts: a head with very many labels would otherwise make an answer of gigabytes."""
MAX_LOGITS = 16_777_216
"""How many logits a request may have over all of its texts: the head computes all of them, whatever the request asks for. They take 64 MiB,
in the worker and again on their way."""
SCORED_AT_ONCE = 1_048_576
"""About how many logits are scored at a time, in float64: more would take several times the memory of the request."""
MIN_NATIVE_LABELS = 256
"""From so many labels on the best are chosen without sorting all of them. Fewer are sorted within some 10 us a row."""
INLINE_SCORES = 16_384
"""Up to so many logits are scored on the event loop, which takes less than 1 ms; above, in a thread."""
MAX_RESPONSE_BYTES = 2_097_152
"""About as much as one message of a stream's results holds, as in the stream of vectors (embedding.py)."""
MAX_RESPONSE_LABELS = 2_048
"""How many labels such a message holds: it is written on the event loop, which takes about 0.6 us a label."""
RESULT_BYTES = 64
"""What a result takes besides its labels, its id included."""
LABEL_BYTES = 12
"""What a label takes besides its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyOptions:
    """How texts are classified: see hubwire.v1.ClassifyTextOptions. function is empty for what the model's problem_type asks for."""

    top_k: int = 0
    labels: Sequence[str] = ()
    function: ClassificationFunction = ""
    truncation: Truncation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyTextRequest:
    """The labels of each text, or of each pair of texts[i] and pairs[i]. pairs is empty for single texts."""

    texts: Sequence[str]
    pairs: Sequence[str] = ()
    model: str = ""
    options: ClassifyOptions = field(default_factory=ClassifyOptions)
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    """As in EmbedRequest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedLabels:
    """The labels of n texts, the best first. columns and scores have shape (n, k), and columns are places in labels."""

    labels: Sequence[str]
    columns: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyTextResult:
    """The labels of each text."""

    ranked: RankedLabels
    model: ReadyModel
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class ClassifyPlan:
    """The options of a request, settled for one model; also a StreamPlan (stream.py), whose values are the logits of a text, shape (L,).

    columns is which of the model's labels may be in an answer, None for all; top_k is how many of them are, at least 1.
    """

    model: ReadyModel
    key: BatchKey
    reading: Reading
    function: ClassificationFunction
    columns: NDArray[np.int64] | None
    top_k: int

    @property
    def most_results(self) -> int:
        """See StreamPlan."""
        labels = self.model.classification.labels
        size = RESULT_BYTES + self.top_k * (LABEL_BYTES + _longest(labels))
        return max(1, min(MAX_RESPONSE_BYTES // size, MAX_RESPONSE_LABELS // self.top_k, INLINE_SCORES // len(labels)))

    def extras(self, tokenized: Tokenized) -> Sequence[NDArray[Any]] | None:
        """See StreamPlan: tokens are all that the head needs."""
        return None

    def refusal(self, tokenized: Tokenized, rows: Sequence[int]) -> HubwireError | None:
        """See StreamPlan: nothing, since a text is one row."""
        return None

    def value(self, entry: StreamEntry, tokenized: Tokenized, rows: Sequence[int], outputs: Sequence[Output]) -> NDArray[np.float32]:
        """See StreamPlan. The row is copied: it would otherwise keep the memory of its whole batch."""
        logits: NDArray[np.float32] = outputs[0][0].copy()
        return logits

    def rank(self, logits: NDArray[np.float32]) -> RankedLabels:
        """The answer for logits of shape (n, L). The labels that are left out count in the scores of the others."""
        count, width = logits.shape
        rows = max(1, SCORED_AT_ONCE // width)
        parts = [self._rank_rows(logits[low : low + rows]) for low in range(0, count, rows)]
        columns, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True)) if len(parts) > 1 else parts[0]
        return RankedLabels(labels=self.model.classification.labels, columns=columns, scores=scores)

    def _rank_rows(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The columns of the best labels and their scores, for some rows."""
        scores = apply_function(logits, self.function)
        if self.columns is not None:
            scores = scores[:, self.columns]
        order, best = best_first(scores, self.top_k)
        return order if self.columns is None else self.columns[order], best


class TextClassificationTask:
    """Classifies texts."""

    def __init__(self, texts: TextTask) -> None:
        self.texts = texts

    async def classify(self, request: ClassifyTextRequest, caller: Caller) -> ClassifyTextResult:
        """The labels of each text, or HubwireError for the first text that has none."""
        plan = self.plan(request.model, request.options, pair=bool(request.pairs))
        self.texts.texts.check(request.texts)
        if request.pairs:
            self.texts.texts.check_pairs(request.texts, request.pairs, "text_pairs")
        _check_logits(len(request.texts), len(plan.model.classification.labels))
        _check_answer_size(len(request.texts), plan.top_k)
        work = TextWork(model=plan.model, key=plan.key, reading=plan.reading, texts=request.texts, pairs=request.pairs or None)
        done = await self.texts.compute(work, caller, request.arrived_ns)
        logits = done.array()
        ranked = await asyncio.to_thread(plan.rank, logits) if logits.size > INLINE_SCORES else plan.rank(logits)
        return ClassifyTextResult(ranked=ranked, model=plan.model, usage=done.usage, timings=done.timings)

    def plan(self, model_name: str, options: ClassifyOptions, path: str = "", *, pair: bool) -> ClassifyPlan:
        """Settles the options of a request. Raises HubwireError with the option that does not fit; path is where the options are in the
        request, and pair says whether there may be pairs, which have more special tokens."""
        model = self.texts.registry.ready(model_name, Task.TEXT_CLASSIFICATION, field=f"{path}model")
        path = f"{path}options"
        details = model.classification
        columns = _columns_of(model, options.labels, f"{path}.labels") if options.labels else None
        choice = len(details.labels) if columns is None else len(columns)
        return ClassifyPlan(
            model=model,
            key=batch_key(model, "logits"),
            reading=Reading(
                limit_tokens=limit_tokens(model, options.truncation, f"{path}.truncation", pair=pair), truncation=options.truncation
            ),
            function=options.function or default_function(details),
            columns=columns,
            top_k=min(options.top_k or choice, choice),
        )


def default_function(details: ClassificationDetails) -> ClassificationFunction:
    """What turns the logits of a head into scores where a request does not say, as in transformers
    (pipelines/text_classification.py, TextClassificationPipeline.postprocess)."""
    if details.problem_type == "regression":
        return "none"
    if details.problem_type == "multi_label_classification" or len(details.labels) == 1:
        return "sigmoid"
    return "softmax"


def apply_function(logits: NDArray[np.float32], function: ClassificationFunction) -> NDArray[np.float64]:
    """The scores of logits, shape (n, L), in float64."""
    values = logits.astype(np.float64)
    match function:
        case "sigmoid":
            return sigmoid(values)
        case "softmax":
            return softmax(values)
        case _:
            return values


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), without overflow for large negative values."""
    scores: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -values))
    return scores


def best_first(scores: NDArray[np.float64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The columns of the k highest scores of each row, and these scores. Scores that are equal as float32, which is how they travel, keep
    their order."""
    rounded = scores.astype(np.float32)
    # What overflows as float32 has an order too, which the native function refuses to say.
    if rounded.shape[1] >= MIN_NATIVE_LABELS and np.isfinite(rounded).all():
        # Of scores and not of logits: logits that differ may be one score.
        chosen, best, _ = top_k(rounded, k)
        return chosen.astype(np.int64), best
    order = np.argsort(-rounded, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(rounded, order, axis=1)


def ready_for(texts: TextTask, name: str, task: Task, need: str) -> ReadyModel:
    """The model for a task that only some classification heads can do; need says what those have.

    Raises HubwireError: OPTION_NOT_SUPPORTED where the named model classifies texts and its head cannot do this, and otherwise as
    Registry.ready.
    """
    registry = texts.registry
    try:
        return registry.ready(name, task)
    except HubwireError as error:
        if not name or error.reason is not Reason.MODEL_NOT_FOUND:
            raise
    labels = registry.ready(name, Task.TEXT_CLASSIFICATION).classification.labels
    text = f'the head of "{name}" has {len(labels)} labels ({_some(labels)}); {task} needs {need}'
    raise HubwireError(Reason.OPTION_NOT_SUPPORTED, text, field="model", model=name)


def _columns_of(model: ReadyModel, labels: Sequence[str], field: str) -> NDArray[np.int64]:
    """The columns of the labels that a request restricts its answer to, rising. A name that several labels share means all of them."""
    check_unique(labels, field)
    known = _columns_by_label(model.classification.labels)
    for index, label in enumerate(labels):
        if label not in known:
            available = _some(model.classification.labels)
            text = f'the model "{model.name}" has no label "{label}" (it has: {available})'
            raise HubwireError(Reason.LABEL_NOT_FOUND, text, field=f"{field}[{index}]", metadata={"available": available}, model=model.name)
    return np.array(sorted(column for label in labels for column in known[label]), dtype=np.int64)


@lru_cache(maxsize=64)
def _columns_by_label(labels: tuple[str, ...]) -> dict[str, list[int]]:
    """Where each name is among the labels of a model."""
    columns: dict[str, list[int]] = {}
    for column, label in enumerate(labels):
        columns.setdefault(label, []).append(column)
    return columns


@lru_cache(maxsize=64)
def _longest(labels: tuple[str, ...]) -> int:
    """The bytes of the longest name of a label."""
    return max(len(label.encode()) for label in labels)


def _some(labels: Sequence[str]) -> str:
    """The first labels of a head, for people."""
    return ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")


def _check_logits(texts: int, labels: int) -> None:
    """However few labels a request asks for, the head computes all of them for each of its texts."""
    if texts * labels > MAX_LOGITS:
        limit = max(1, MAX_LOGITS // labels)
        raise HubwireError(
            Reason.TOO_MANY_TEXTS,
            f"a head of {labels} labels computes {texts * labels} values for {texts} texts; the server takes {MAX_LOGITS} in one request",
            field="texts",
            metadata={"count": str(texts), "limit": str(limit)},
        )


def _check_answer_size(texts: int, labels: int) -> None:
    """A head may have a hundred thousand labels, and a request asks for all of them unless it says otherwise."""
    if texts * labels > MAX_SCORES:
        limit = max(1, MAX_SCORES // labels)
        raise HubwireError(
            Reason.TOO_MANY_TEXTS,
            f"{labels} labels for each of {texts} texts are {texts * labels}; the server answers with at most {MAX_SCORES}: set top_k",
            field="texts",
            metadata={"count": str(texts), "limit": str(limit)},
        )
