"""hubwire.v1.QuestionAnsweringService: answers that stand in a text."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from hubwire.v1 import common_pb2, question_answering_pb2
from hubwire_server.services import wire
from hubwire_server.tasks.question_answering import AnswerQuestionsOptions, AnswerQuestionsRequest, QuestionAnsweringTask, QuestionAnswers

NAME = "hubwire.v1.QuestionAnsweringService"

NO_OPTIONS = AnswerQuestionsOptions()
"""The options of a request that gives none."""
INLINE_ENCODE_ANSWERS = 500
"""Up to so many answers are written on the event loop, which takes less than 1 ms; above, in a thread."""


class QuestionAnsweringService:
    """Serves question answering."""

    def __init__(self, task: QuestionAnsweringTask) -> None:
        self._task = task

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods of the service, for bytes."""
        methods: dict[str, Any] = {"AnswerQuestions": grpc.unary_unary_rpc_method_handler(self.answer_questions)}
        return grpc.method_handlers_generic_handler(NAME, methods)

    async def answer_questions(self, data: bytes, context: wire.Context) -> bytes:
        """QuestionAnsweringService.AnswerQuestions."""
        arrived_ns = time.perf_counter_ns()
        message = wire.parse(question_answering_pb2.AnswerQuestionsRequest, data)
        request = AnswerQuestionsRequest(
            questions=list(message.questions),
            contexts=list(message.contexts),
            model=message.model,
            options=answer_options(message.options, "options") if message.HasField("options") else NO_OPTIONS,
            arrived_ns=arrived_ns,
        )
        result = await self._task.answer(request, wire.caller(context))
        computed_ns = time.perf_counter_ns()

        def encode() -> bytes:
            answers = [question_answers(entry) for entry in result.answers]
            return question_answering_pb2.AnswerQuestionsResponse(answers=answers).SerializeToString()

        large = sum(len(entry.answers) + 1 for entry in result.answers) > INLINE_ENCODE_ANSWERS
        encoded = await asyncio.to_thread(encode) if large else encode()
        result.timings.finish(arrived_ns, computed_ns)
        return encoded + wire.answer_rest(
            question_answering_pb2.AnswerQuestionsResponse, model=result.model, usage=result.usage, timings=result.timings
        )


def answer_options(message: question_answering_pb2.AnswerQuestionsOptions, path: str) -> AnswerQuestionsOptions:
    """The options of a request; path is where they are in it. Raises HubwireError for an unknown enum number."""
    return AnswerQuestionsOptions(
        top_k=message.top_k,
        max_answer_tokens=message.max_answer_tokens,
        windows=wire.windows(message.windows),
        offset_unit=wire.enum_value(wire.OFFSET_UNITS, message.offset_unit, f"{path}.offset_unit"),
        allow_no_answer=message.allow_no_answer,
    )


def question_answers(entry: QuestionAnswers) -> question_answering_pb2.QuestionAnswers:
    """The answers to one question as a message."""
    return question_answering_pb2.QuestionAnswers(
        answers=[
            question_answering_pb2.Answer(text=answer.text, score=answer.score, span=common_pb2.Span(start=answer.start, end=answer.end))
            for answer in entry.answers
        ],
        no_answer_score=entry.no_answer_score,
    )
