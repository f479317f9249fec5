"""Answers found in a text: answer_questions."""

from __future__ import annotations

from collections.abc import Iterable

from hubwire._aio.core import Core
from hubwire._calls import question_answering as calls
from hubwire._types import QuestionAnswers


class QuestionAnsweringMethods(Core):
    """Methods of Client, which hubwire.Client documents."""

    async def answer_questions(
        self,
        questions: Iterable[str],
        contexts: str | Iterable[str],
        *,
        model: str = "",
        top_k: int | None = None,
        max_answer_tokens: int | None = None,
        stride: int | None = None,
        max_tokens: int | None = None,
        allow_no_answer: bool = False,
        timeout_s: float | None = None,
    ) -> list[QuestionAnswers]:
        """Find the part of a context that answers each question, as hubwire.Client.answer_questions."""
        question = calls.answer_questions(
            questions,
            contexts,
            model=model,
            top_k=top_k,
            max_answer_tokens=max_answer_tokens,
            stride=stride,
            max_tokens=max_tokens,
            allow_no_answer=allow_no_answer,
        )
        return await self._ask(self._question_answering.AnswerQuestions, question, timeout_s)
