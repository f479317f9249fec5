"""Answers found in a text: answer_questions."""

from __future__ import annotations

from collections.abc import Iterable

from hubwire._calls import question_answering as calls
from hubwire._sync.core import Core
from hubwire._types import QuestionAnswers


class QuestionAnsweringMethods(Core):
    """Methods of Client."""

    def answer_questions(
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
        """Find the part of a context that answers each question. Contexts may be of any length.

        Args:
            questions: at least one question, none of them empty.
            contexts: where to find the answers: one text for all questions, or a list with one for each.
            model: the name of a served model; "" for the default one.
            top_k: how many answers to return for each question; None for one.
            max_answer_tokens: the longest answer in tokens; None for 15.
            stride: the tokens that neighbouring windows of a long context share; None for a quarter.
            max_tokens: the size of a window with its question; None for at most 384.
            allow_no_answer: put an empty answer among the answers, with the score of there being none (SQuAD 2).
            timeout_s: as in `embed`.

        Returns:
            One QuestionAnswers a question, in their order: answers (text, score, start, end), the best first, and no_answer_score.
        """
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
        return self._ask(self._question_answering.AnswerQuestions, question, timeout_s)
