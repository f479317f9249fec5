"""Labels that the caller names: a natural language inference head says how much a text entails a sentence made of each label."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.models.registry import ReadyModel
from hubwire_server.tasks.answer import Usage
from hubwire_server.tasks.decoding import softmax
from hubwire_server.tasks.text_classification import INLINE_SCORES, ClassifyTextResult, RankedLabels, best_first, ready_for
from hubwire_server.tasks.text_task import ComputedTexts, TextTask, TextWork, batch_key
from hubwire_server.tasks.texts import MAX_LABEL_BYTES, Caller, Reading, Truncation, check_unique, limit_tokens

DEFAULT_TEMPLATE = "This example is {}."
PLACE = "{}"
"""Where a template holds the label."""
NEED = "a label for entailment and one for contradiction"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShotOptions:
    """How labels are scored: see hubwire.v1.ClassifyZeroShotOptions."""

    hypothesis_template: str = DEFAULT_TEMPLATE
    multi_label: bool = False
    truncation: Truncation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyZeroShotRequest:
    """The scores of all labels for each text."""

    texts: Sequence[str]
    labels: Sequence[str]
    model: str = ""
    options: ZeroShotOptions = field(default_factory=ZeroShotOptions)
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    """As in EmbedRequest."""


class ZeroShotTask:
    """Classifies texts by labels of the caller's choice."""

    def __init__(self, texts: TextTask) -> None:
        self.texts = texts

    async def classify(self, request: ClassifyZeroShotRequest, caller: Caller) -> ClassifyTextResult:
        """All labels for each text, the best first, or HubwireError for the first text or label that cannot be read."""
        model = ready_for(self.texts, request.model, Task.ZERO_SHOT_CLASSIFICATION, NEED)
        entailment = model.classification.entailment
        assert entailment is not None
        limit = limit_tokens(model, request.options.truncation, "options.truncation", pair=True)
        hypotheses = self._hypotheses(request)
        await self.texts.texts.run(partial(_check_room, model, hypotheses, limit), sum(map(len, hypotheses)))
        count = len(hypotheses)
        work = TextWork(
            model=model,
            key=batch_key(model, "logits"),
            reading=Reading(limit_tokens=limit, truncation=request.options.truncation, only="only_first"),
            texts=[text for text in request.texts for _ in range(count)],
            pairs=hypotheses * len(request.texts),
        )
        done = await self._compute(work, count, caller, request.arrived_ns)
        logits = done.array().reshape(len(request.texts), count, -1)
        rank = partial(_rank, logits, request.labels, entailment, multi_label=request.options.multi_label)
        ranked = await asyncio.to_thread(rank) if logits.size > INLINE_SCORES else rank()
        cut = done.tokenized.truncated.reshape(len(request.texts), count).any(axis=1)
        usage = Usage(input_tokens=done.usage.input_tokens, truncated_texts=int(np.count_nonzero(cut)))
        return ClassifyTextResult(ranked=ranked, model=model, usage=usage, timings=done.timings)

    def _hypotheses(self, request: ClassifyZeroShotRequest) -> list[str]:
        """The sentence of each label. Raises HubwireError for texts, labels or a template that cannot be served."""
        texts, template = self.texts.texts, request.options.hypothesis_template
        texts.check(request.texts)
        texts.check(request.labels, "candidate_labels")
        texts.check_short(request.labels, MAX_LABEL_BYTES, "candidate_labels")
        check_unique(request.labels, "candidate_labels")
        texts.check_count(len(request.texts) * len(request.labels), "texts")
        if template.count(PLACE) != 1:
            text = f'the template has {template.count(PLACE)} places for the label: write "{PLACE}" once'
            raise HubwireError(Reason.VALUE_OUT_OF_RANGE, text, field="options.hypothesis_template")
        # Checked before the sentences are made: a short request could ask for gigabytes of them.
        texts.check_read_bytes(_bytes(request.texts) * len(request.labels), "texts")
        texts.check_read_bytes(len(template.encode()) * len(request.texts) * len(request.labels), "options.hypothesis_template")
        return [template.replace(PLACE, label) for label in request.labels]

    async def _compute(self, work: TextWork, labels: int, caller: Caller, arrived_ns: int) -> ComputedTexts:
        """As TextTask.compute, with errors that name the text and not the pair."""
        try:
            return await self.texts.compute(work, caller, arrived_ns)
        except HubwireError as error:
            pair = error.field.removeprefix("texts[").removesuffix("]")
            if pair.isdecimal():
                error.field = f"texts[{int(pair) // labels}]"
            raise


def score_labels(logits: NDArray[np.float32], entailment: int, *, multi_label: bool) -> NDArray[np.float64]:
    """The scores of labels, shape (n, labels), from the logits of their pairs, shape (n, labels, L).

    As in transformers (pipelines/zero_shot_classification.py, ZeroShotClassificationPipeline.postprocess): over all labels the softmax of
    their entailment, or for each label alone that of its entailment and its contradiction, which is the first label of the head or, where
    that is the entailment, the last.
    """
    values = logits.astype(np.float64)
    if multi_label or values.shape[1] == 1:
        contradiction = -1 if entailment == 0 else 0
        return softmax(values[..., [contradiction, entailment]])[..., 1]
    return softmax(values[..., entailment])


def _rank(logits: NDArray[np.float32], labels: Sequence[str], entailment: int, *, multi_label: bool) -> RankedLabels:
    columns, scores = best_first(score_labels(logits, entailment, multi_label=multi_label), len(labels))
    return RankedLabels(labels=labels, columns=columns, scores=scores)


def _bytes(texts: Sequence[str]) -> int:
    """What texts have together, as UTF-8."""
    return sum(len(text.encode()) for text in texts)


def _check_room(model: ReadyModel, hypotheses: Sequence[str], limit: int) -> None:
    """A hypothesis is never cut, so that it must leave room for one token of the text at least."""
    tokenizer = model.tokenizer
    around = tokenizer.count_special_tokens(pair=True) - tokenizer.count_special_tokens()
    counts = tokenizer.encode(hypotheses).token_counts + around
    too_long = (counts >= limit).nonzero()[0]
    if len(too_long):
        index = int(too_long[0])
        raise HubwireError(
            Reason.TEXT_TOO_LONG,
            f"the label makes a sentence of {counts[index]} tokens, which leaves no room for a text: the model reads {limit}",
            field=f"candidate_labels[{index}]",
            metadata={"token_count": str(counts[index]), "limit_tokens": str(limit)},
        )
