"""Questions to their answers, found in a text of any length.

Each question is read with its context, in windows where the context is long. The head scores every token as the beginning and as the end of
the answer; the spans with the highest product of both probabilities are the answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hubwire_server._native import RaggedBatch, best_answers
from hubwire_server.errors import HubwireError, Reason, out_of_range
from hubwire_server.models.description import Task
from hubwire_server.models.registry import ReadyModel
from hubwire_server.scheduling.item import BatchKey
from hubwire_server.tasks.answer import Timings, Usage
from hubwire_server.tasks.decoding import INLINE_LABEL_TOKENS
from hubwire_server.tasks.spans import convert_spans
from hubwire_server.tasks.text_task import ComputedTexts, TextTask, TextWork, batch_key
from hubwire_server.tasks.texts import Caller, Reading, Windows, limit_window

if TYPE_CHECKING:
    from hubwire_server._native import OffsetUnit

DEFAULT_WINDOW_TOKENS = 384
DEFAULT_MAX_ANSWER_TOKENS = 15
MAX_TOP_K = 100
MAX_ANSWER_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerQuestionsOptions:
    """What counts as an answer: see hubwire.v1.AnswerQuestionsOptions. 0 is the default of a number."""

    top_k: int = 0
    max_answer_tokens: int = 0
    windows: Windows = field(default_factory=Windows)
    offset_unit: OffsetUnit = "code_point"
    allow_no_answer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerQuestionsRequest:
    """contexts has one entry for each question, or one for all."""

    questions: Sequence[str]
    contexts: Sequence[str]
    model: str = ""
    options: AnswerQuestionsOptions = field(default_factory=AnswerQuestionsOptions)
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    """As in EmbedRequest."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A part of a context, from start to end in the unit of the request; without text where the answer is that there is none."""

    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class QuestionAnswers:
    """The answers to one question, best first."""

    answers: Sequence[Answer]
    no_answer_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerQuestionsResult:
    """answers has one entry a question."""

    answers: Sequence[QuestionAnswers]
    model: ReadyModel
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """The options of a request, settled for one model."""

    model: ReadyModel
    key: BatchKey
    reading: Reading
    top_k: int
    max_answer_tokens: int
    offset_unit: OffsetUnit
    allow_no_answer: bool


class QuestionAnsweringTask:
    """Answers questions."""

    def __init__(self, texts: TextTask) -> None:
        self.texts = texts

    async def answer(self, request: AnswerQuestionsRequest, caller: Caller) -> AnswerQuestionsResult:
        """The answers to each question, or HubwireError for the first question that has none."""
        plan = self.plan(request.model, request.options)
        self.texts.executor.check(len(request.questions))
        contexts = self._contexts(request.questions, request.contexts)
        await self._check_room(plan, request.questions)
        work = TextWork(model=plan.model, key=plan.key, reading=plan.reading, texts=request.questions, pairs=contexts, field="questions")
        done = await self.texts.compute(work, caller, request.arrived_ns)
        large = len(done.tokenized.batch.ids) > INLINE_LABEL_TOKENS
        answers = await asyncio.to_thread(find_answers, plan, contexts, done) if large else find_answers(plan, contexts, done)
        return AnswerQuestionsResult(answers=answers, model=plan.model, usage=done.usage, timings=done.timings)

    def plan(self, model_name: str, options: AnswerQuestionsOptions) -> AnswerPlan:
        """Settles the options of a request. Raises HubwireError with the option that does not fit."""
        model = self.texts.registry.ready(model_name, Task.QUESTION_ANSWERING)
        _check_range("top_k", options.top_k, MAX_TOP_K)
        _check_range("max_answer_tokens", options.max_answer_tokens, MAX_ANSWER_TOKENS)
        limit = limit_window(model, options.windows, DEFAULT_WINDOW_TOKENS, "options.windows", pair=True)
        return AnswerPlan(
            model=model,
            key=batch_key(model, "logits"),
            reading=Reading(limit_tokens=limit, windows=options.windows, only="only_second", spans="code_point"),
            top_k=options.top_k or 1,
            max_answer_tokens=options.max_answer_tokens or DEFAULT_MAX_ANSWER_TOKENS,
            offset_unit=options.offset_unit,
            allow_no_answer=options.allow_no_answer,
        )

    def _contexts(self, questions: Sequence[str], contexts: Sequence[str]) -> Sequence[str]:
        """The context of each question, checked."""
        texts = self.texts.texts
        texts.check(questions, "questions")
        if len(contexts) != 1:
            texts.check_pairs(questions, contexts, "contexts")
            return contexts
        texts.check(contexts, "contexts")
        texts.check_read_bytes(len(contexts[0].encode()) * len(questions), "contexts[0]")
        return list(contexts) * len(questions)

    async def _check_room(self, plan: AnswerPlan, questions: Sequence[str]) -> None:
        """Raises HubwireError for the first question that leaves less than an eighth of a window for what the window before it has not.

        Windows that go on token by token would make a short request cost as much as thousands.
        """
        windows, limit = plan.reading.windows, plan.reading.limit_tokens
        assert windows is not None
        taken = plan.model.tokenizer.count_special_tokens(pair=True) + windows.stride_of(limit) + max(1, limit // 8)
        most = max(0, limit - taken)
        # The special tokens that a question gets on its own are counted too, and taken off again.
        reading = Reading(limit_tokens=most + plan.model.tokenizer.count_special_tokens())
        tokenized = await self.texts.texts.tokenize(plan.model, questions, reading)
        if tokenized.too_long:
            index = tokenized.too_long[0]
            count = int(tokenized.batch.token_counts[index]) - plan.model.tokenizer.count_special_tokens()
            raise HubwireError(
                Reason.TEXT_TOO_LONG,
                f"the question has {count} tokens; windows of {limit} tokens with this stride leave it {most}",
                field=f"questions[{index}]",
                metadata={"token_count": str(count), "limit_tokens": str(most)},
            )


def find_answers(plan: AnswerPlan, contexts: Sequence[str], done: ComputedTexts) -> list[QuestionAnswers]:
    """The answers to each question, from the logits of its windows. Spans of tokens that cover the same characters are one answer, with the
    best of their scores: windows overlap, and several tokens can be of one character."""
    logits = done.array()
    batch = done.tokenized.batch
    spans, sequences = batch.spans, batch.sequence_ids
    assert spans is not None
    assert sequences is not None
    found = best_answers(
        np.ascontiguousarray(logits[:, 0]),
        np.ascontiguousarray(logits[:, 1]),
        batch.offsets,
        batch.sources,
        sequences == 1,
        null_tokens(batch, plan.model.description.tokenizer.cls_token_id),
        max_answer_tokens=plan.max_answer_tokens,
        k=plan.top_k,
    )
    places = np.stack([spans[found.first, 0], spans[found.last, 1]], axis=1)
    bounds = np.searchsorted(found.sources, np.arange(len(contexts) + 1)).tolist()
    scores, null_scores = found.scores.tolist(), found.null_scores.tolist()
    return [
        _choose(plan, context, places[bounds[index] : bounds[index + 1]], scores[bounds[index] : bounds[index + 1]], null_scores[index])
        for index, context in enumerate(contexts)
    ]


def null_tokens(batch: RaggedBatch, cls_token_id: int) -> NDArray[np.int64]:
    """The token of each window that stands for no answer, as a position in the flat arrays, shape (w,): the first special token with the id
    of [CLS], -1 where there is none."""
    assert batch.sequence_ids is not None
    places = np.flatnonzero((batch.ids == cls_token_id) & (batch.sequence_ids == -1))
    null = np.full(len(batch.offsets) - 1, -1, dtype=np.int64)
    # Of several places in one window the last that is written stays: the first.
    null[np.searchsorted(batch.offsets, places[::-1], side="right") - 1] = places[::-1]
    return null


def _choose(plan: AnswerPlan, context: str, places: NDArray[np.uint32], scores: Sequence[float], null_score: float) -> QuestionAnswers:
    """The best answers of one question, out of the best spans of tokens."""
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for row, ((start, end), score) in enumerate(zip(places.tolist(), scores, strict=True)):
        best.setdefault((start, end), (score, row))
    rows = [row for _, row in best.values()][: plan.top_k]
    in_unit = convert_spans(context, places[rows], plan.offset_unit).tolist() if rows else []
    answers = [
        Answer(context[low:high], score, start, end)
        for ((low, high), (score, _)), (start, end) in zip(list(best.items())[: plan.top_k], in_unit, strict=True)
    ]
    if plan.allow_no_answer:
        answers.append(Answer("", null_score, 0, 0))
        answers.sort(key=lambda answer: -answer.score)
    return QuestionAnswers(answers[: plan.top_k], null_score)


def _check_range(name: str, value: int, maximum: int) -> None:
    if not 0 <= value <= maximum:
        raise out_of_range(f"{name} is {value}; the server takes 0 to {maximum}", f"options.{name}", 0, maximum)
