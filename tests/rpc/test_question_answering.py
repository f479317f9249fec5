"""QuestionAnsweringService over gRPC, with the fake model: what comes back for what is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hubwire.v1 import question_answering_pb2 as pb
from hubwire.v1 import question_answering_pb2_grpc as pb_grpc
from hubwire_server.models.description import Task
from hubwire_server.services import question_answering
from tests.conftest import serve

CONTEXT = "w3 🦊 w5 é\u0301 w7 w8"
Stub = pb_grpc.QuestionAnsweringServiceStub


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with serve(task=Task.QUESTION_ANSWERING) as running:
        yield Stub(running.channel)


def answer(stub: Stub, questions, contexts, **options) -> pb.AnswerQuestionsResponse:
    request = pb.AnswerQuestionsRequest(questions=questions, contexts=contexts, options=pb.AnswerQuestionsOptions(**options))
    return stub.AnswerQuestions(request, timeout=30)


def test_an_answer_says_who_answered_what_it_cost_and_how_long_it_took(stub):
    response = answer(stub, ["w1", "w2 w1"], [CONTEXT])
    assert [len(entry.answers) for entry in response.answers] == [1, 1]
    assert all(0 < entry.answers[0].score < 1 and 0 < entry.no_answer_score < 1 for entry in response.answers)
    assert (response.model.name, response.model.fingerprint) == ("fake", "00000000000000fa")
    assert (response.usage.input_tokens, response.usage.truncated_texts) == (10 + 11, 0)
    timings = response.timings
    assert 0 < timings.tokenize_nanos < timings.total_nanos
    assert timings.decode_nanos + timings.compute_nanos + timings.encode_nanos < timings.total_nanos
    assert timings.encode_nanos > 0


@pytest.mark.parametrize("unit", ["OFFSET_UNIT_CODE_POINT", "OFFSET_UNIT_UTF8_BYTE", "OFFSET_UNIT_UTF16_UNIT"])
def test_spans_are_in_the_unit_of_the_request(stub, unit):
    encoding, size = {"P": ("utf-32-le", 4), "8": ("utf-8", 1), "1": ("utf-16-le", 2)}["P" if "POINT" in unit else unit[15]]
    (entry,) = answer(stub, ["w1"], [CONTEXT], top_k=100, offset_unit=unit).answers
    encoded = CONTEXT.encode(encoding)
    assert [encoded[each.span.start * size : each.span.end * size].decode(encoding) for each in entry.answers] == [
        each.text for each in entry.answers
    ]
    assert len(entry.answers) == 6 * 7 / 2
    assert [each.score for each in entry.answers] == sorted((each.score for each in entry.answers), reverse=True)


def test_no_answer_is_an_answer_without_text(stub):
    (entry,) = answer(stub, ["w1"], [CONTEXT], top_k=100, allow_no_answer=True).answers
    (none,) = [each for each in entry.answers if not each.text]
    assert (none.score, none.span.start, none.span.end) == (entry.no_answer_score, 0, 0)


def test_answers_are_no_longer_than_asked_for(stub):
    (entry,) = answer(stub, ["w1"], [CONTEXT], top_k=100, max_answer_tokens=2).answers
    assert {len(each.text.split()) for each in entry.answers} == {1, 2}


def test_windows_cost_what_they_read(stub):
    context = " ".join(["w1"] * 60)
    usage = answer(stub, ["w1"], [context], windows={"max_tokens": 14, "stride": 2}).usage
    # 10 tokens of the context in a window, 8 of them new: 1 window and 7 more, the last of which has 4 tokens and 2 that it repeats.
    assert usage.input_tokens == 60 + 7 * 2 + 8 * 4
    assert usage.truncated_texts == 0


def test_a_large_answer_is_written_in_a_thread_as_a_small_one_is(stub, monkeypatch):
    questions = [f"w{index}" for index in range(50)]
    small = answer(stub, questions, [CONTEXT], top_k=3).answers
    monkeypatch.setattr(question_answering, "INLINE_ENCODE_ANSWERS", 10)
    assert answer(stub, questions, [CONTEXT], top_k=3).answers == small
