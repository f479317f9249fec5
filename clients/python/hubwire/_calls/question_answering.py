"""AnswerQuestions."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TypeAlias

from hubwire._arguments import check_flag, check_text, check_texts
from hubwire._calls.common import OFFSET_UNIT, limit, windows
from hubwire._calls.question import Question, check_number
from hubwire._types import Answer, QuestionAnswers
from hubwire.v1 import question_answering_pb2

AnswerQuestionsQuestion: TypeAlias = Question[
    question_answering_pb2.AnswerQuestionsRequest, question_answering_pb2.AnswerQuestionsResponse, list[QuestionAnswers]
]


def answer_questions(
    questions: Iterable[str],
    contexts: str | Iterable[str],
    *,
    model: str = "",
    top_k: int | None = None,
    max_answer_tokens: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    allow_no_answer: bool = False,
) -> AnswerQuestionsQuestion:
    """AnswerQuestions: the answers to each question."""
    checked = check_texts("questions", questions, async_hint="")
    options = question_answering_pb2.AnswerQuestionsOptions(
        top_k=limit("top_k", top_k),
        max_answer_tokens=limit("max_answer_tokens", max_answer_tokens),
        offset_unit=OFFSET_UNIT,
        allow_no_answer=check_flag("allow_no_answer", allow_no_answer),
    )
    if stride is not None or max_tokens is not None:
        options.windows.CopyFrom(windows(stride, max_tokens))
    request = question_answering_pb2.AnswerQuestionsRequest(
        model=check_text("model", model),
        questions=checked,
        # One bare text is what all questions are about, so here it is no mistake.
        contexts=check_texts("contexts", [contexts] if isinstance(contexts, str) else contexts, async_hint=""),
        options=options,
    )
    return Question(request, partial(_answers, count=len(checked)))


def _answers(response: question_answering_pb2.AnswerQuestionsResponse, *, count: int) -> list[QuestionAnswers]:
    check_number(response.answers, count)
    return [
        QuestionAnswers(answers=tuple(_answer(one) for one in message.answers), no_answer_score=message.no_answer_score)
        for message in response.answers
    ]


def _answer(message: question_answering_pb2.Answer) -> Answer:
    return Answer(text=message.text, score=message.score, start=message.span.start, end=message.span.end)
