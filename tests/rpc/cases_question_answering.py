"""What QuestionAnsweringService refuses."""

from __future__ import annotations

from collections.abc import Sequence

from hubwire.v1 import question_answering_pb2, question_answering_pb2_grpc
from hubwire_server.errors import Reason
from hubwire_server.models.description import Task
from tests.rpc.error_cases import Call, Case

SERVER = str(Task.QUESTION_ANSWERING)
LONG = " ".join(["w1"] * 100)


def answer(questions: Sequence[str], contexts: Sequence[str], model: str = "", **options) -> Call:
    request = question_answering_pb2.AnswerQuestionsRequest(
        questions=questions, contexts=contexts, model=model, options=question_answering_pb2.AnswerQuestionsOptions(**options)
    )
    return lambda server: question_answering_pb2_grpc.QuestionAnsweringServiceStub(server.channel).AnswerQuestions(request, timeout=60)


def malformed(server) -> object:
    return server.channel.unary_unary("/hubwire.v1.QuestionAnsweringService/AnswerQuestions")(b"\x12\x20abc", timeout=60)


ONE = (["w1"], ["w2"])
CASES = [
    Case("answers: truncated bytes", Reason.MALFORMED_REQUEST, malformed, server=SERVER),
    Case("answers: no questions", Reason.FIELD_REQUIRED, answer([], ["w1"]), "questions", SERVER),
    Case("answers: no contexts", Reason.COUNT_MISMATCH, answer(["w1"], []), "contexts", SERVER),
    Case("answers: fewer contexts than questions", Reason.COUNT_MISMATCH, answer(["w1"] * 3, ["w1"] * 2), "contexts", SERVER),
    Case("answers: more contexts than questions", Reason.COUNT_MISMATCH, answer(["w1"], ["w1"] * 2), "contexts", SERVER),
    Case("answers: an empty question", Reason.TEXT_EMPTY, answer(["w1", ""], ["w1"]), "questions[1]", SERVER),
    Case("answers: an empty context", Reason.TEXT_EMPTY, answer(["w1"], [""]), "contexts[0]", SERVER),
    Case("answers: an empty context among others", Reason.TEXT_EMPTY, answer(["w1"] * 2, ["w1", ""]), "contexts[1]", SERVER),
    Case("answers: a context of 5 MB", Reason.TEXT_TOO_LARGE, answer(["w1"], ["w " * 2_500_000]), "contexts[0]", SERVER),
    Case(
        "answers: a context that is large for so many", Reason.TEXT_TOO_LARGE, answer(["w1"] * 99, ["w " * 500_000]), "contexts[0]", SERVER
    ),
    Case("answers: a question over the limit", Reason.TEXT_TOO_LONG, answer(["w1", LONG], ["w1"]), "questions[1]", SERVER),
    Case("answers: too many questions", Reason.TOO_MANY_TEXTS, answer(["w1"] * 2_049, ["w1"]), "questions", SERVER),
    Case("answers: too many answers", Reason.VALUE_OUT_OF_RANGE, answer(*ONE, top_k=101), "options.top_k", SERVER),
    Case(
        "answers: answers that are too long",
        Reason.VALUE_OUT_OF_RANGE,
        answer(*ONE, max_answer_tokens=513),
        "options.max_answer_tokens",
        SERVER,
    ),
    Case(
        "answers: windows above the model",
        Reason.VALUE_OUT_OF_RANGE,
        answer(*ONE, windows={"max_tokens": 33}),
        "options.windows.max_tokens",
        SERVER,
    ),
    Case(
        "answers: windows that go nowhere",
        Reason.VALUE_OUT_OF_RANGE,
        answer(*ONE, windows={"stride": 29}),
        "options.windows.stride",
        SERVER,
    ),
    Case("answers: unknown unit", Reason.ENUM_UNKNOWN, answer(*ONE, offset_unit=9), "options.offset_unit", SERVER),
    Case("answers: a context that gives NaN", Reason.OUTPUT_NOT_FINITE, answer(["w1"] * 2, ["w1", "nan"]), server=SERVER, model="fake"),
    Case("answers: a context that kills the worker", Reason.WORKER_CRASHED, answer(["w1"], ["crash"]), server=SERVER, model="fake"),
    Case("answers: a computation that fails", Reason.INTERNAL, answer(["fail"], ["w1"]), server=SERVER, model="fake"),
    Case("answers: no model for it", Reason.MODEL_NOT_FOUND, answer(*ONE)),
    Case("answers: an unknown model", Reason.MODEL_NOT_FOUND, answer(*ONE, model="none"), server=SERVER, model="none"),
    Case("answers: a model of another task", Reason.MODEL_NOT_FOUND, answer(*ONE, model="fake"), model="fake"),
]
