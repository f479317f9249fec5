"""Answers are those of the plain reference in reference_answers.py, from windows and logits of transformers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import torch

from hubwire.v1 import question_answering_pb2 as pb
from hubwire.v1 import question_answering_pb2_grpc as pb_grpc
from hubwire_server.tasks.question_answering import AnswerQuestionsOptions, AnswerQuestionsRequest, QuestionAnsweringTask
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, Windows
from tests.conftest import Server
from tests.parity.reference_answers import Found as ReferenceAnswer
from tests.parity.reference_answers import Window, all_answers, no_answer_score
from tests.parity.sequence_heads import FAMILIES, MAX_TOKENS, Head, gather_groups, head_server, in_process, over_grpc
from tests.parity.texts import make_texts
from tests.parity.token_heads import all_texts, make_token_head

CONTEXTS = all_texts(200, seed=31)
QUESTIONS = [text.strip()[:7] for text in make_texts(200, seed=32)]
"""Short enough to leave room in the smallest window, with several tokens a character."""
TOLERANCE = 1e-4
TIE = 1e-4
"""Answers whose scores differ by less than this part may stand in either order: the logits of two engines are not equal to the last bit."""


@dataclass(frozen=True)
class Case:
    """How contexts are read, and which answers are asked for."""

    top_k: int = 1
    max_answer_tokens: int = 15
    stride: int | None = None
    max_tokens: int = 0


DEFAULT = Case()
CASES = [
    DEFAULT,
    Case(top_k=5, max_answer_tokens=4),
    Case(top_k=3, stride=5, max_tokens=40),
    Case(top_k=100, max_answer_tokens=64, stride=20),
]
Found = tuple[list[tuple[str, int, int, float]], float]
"""Answers as text, start, end and score, and the score of no answer."""
Ask = Callable[[list[int]], Awaitable[Sequence[Found]]]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Head]:
    folder = tmp_path_factory.mktemp("heads")
    return {family: make_token_head(family, folder, "ForQuestionAnswering", ("start", "end")) for family in FAMILIES}


@pytest.fixture(scope="module")
def expected(heads: dict[str, Head]) -> dict[str, dict[Case, list[tuple[list[ReferenceAnswer], float]]]]:
    """All answers to each question, best first, and the score of no answer, by family and case."""
    return {
        family: {case: [reference(head, case, index) for index in range(len(CONTEXTS))] for case in CASES} for family, head in heads.items()
    }


def reference(head: Head, case: Case, index: int) -> tuple[list[ReferenceAnswer], float]:
    """The answers to one question: each of its windows is computed alone."""
    limit = case.max_tokens or MAX_TOKENS
    encoded = head.tokenizer(
        QUESTIONS[index],
        CONTEXTS[index],
        truncation="only_second",
        max_length=limit,
        stride=limit // 4 if case.stride is None else case.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = []
    with torch.inference_mode():
        for row, ids in enumerate(encoded["input_ids"]):
            inputs = {name: torch.tensor([encoded[name][row]]) for name in head.tokenizer.model_input_names}
            output = head.model(**inputs)
            of = encoded.sequence_ids(row)
            spans = [tuple(place) if of[token] == 1 else None for token, place in enumerate(encoded["offset_mapping"][row])]
            null = next(token for token, id_ in enumerate(ids) if id_ == head.tokenizer.cls_token_id and of[token] is None)
            windows.append(Window(output.start_logits[0].double().tolist(), output.end_logits[0].double().tolist(), spans, null))
    return all_answers(windows, case.max_answer_tokens), no_answer_score(windows)


@pytest.fixture(scope="module", params=["torch", "onnx"])
def server(request: pytest.FixtureRequest, heads: dict[str, Head], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with head_server(list(heads.values()), "question_answering", request.param, tmp_path_factory.mktemp("cache")) as running:
        yield running


def ask_task(task: TextTask, head: Head, case: Case) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        request = AnswerQuestionsRequest(
            questions=[QUESTIONS[index] for index in indices],
            contexts=[CONTEXTS[index] for index in indices],
            model=head.name,
            options=AnswerQuestionsOptions(
                top_k=case.top_k,
                max_answer_tokens=case.max_answer_tokens,
                windows=Windows(stride=case.stride, max_tokens=case.max_tokens),
            ),
        )
        result = await QuestionAnsweringTask(task).answer(request, Caller(client="parity"))
        return [
            ([(each.text, each.start, each.end, each.score) for each in entry.answers], entry.no_answer_score) for entry in result.answers
        ]

    return ask


def ask_grpc(channel: grpc.aio.Channel, head: Head, case: Case) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        request = pb.AnswerQuestionsRequest(
            questions=[QUESTIONS[index] for index in indices],
            contexts=[CONTEXTS[index] for index in indices],
            model=head.name,
            options=pb.AnswerQuestionsOptions(
                top_k=case.top_k,
                max_answer_tokens=case.max_answer_tokens,
                windows={"stride": case.stride, "max_tokens": case.max_tokens},
            ),
        )
        response = await pb_grpc.QuestionAnsweringServiceStub(channel).AnswerQuestions(request, timeout=100)
        return [
            ([(each.text, each.span.start, each.span.end, each.score) for each in entry.answers], entry.no_answer_score)
            for entry in response.answers
        ]

    return ask


DOORS: dict[str, tuple[Any, Any]] = {"in process": (in_process, ask_task), "over gRPC": (over_grpc, ask_grpc)}


def assert_equal(found: dict[int, Found], expected: list[tuple[list[ReferenceAnswer], float]], case: Case) -> float:
    """Asserts spans, order and scores, and returns the largest difference of a score."""
    assert sorted(found) == list(range(len(expected)))
    largest = 0.0
    for index, (answers, no_answer) in found.items():
        about = f"{case}: {QUESTIONS[index]!r} {CONTEXTS[index]!r}"
        every, theirs = expected[index]
        scores = {(each.first, each.last): each.score for each in every}
        assert all(CONTEXTS[index][start:end] == text for text, start, end, _ in answers), about
        assert len({(start, end) for _, start, end, _ in answers}) == len(answers), about
        # Fewer than asked for may come back where windows overlap; what comes back is the best.
        assert min(case.top_k, len(every), 5) <= len(answers) <= case.top_k, about
        for (_, start, end, score), best in zip(answers, every, strict=False):
            own = scores[(start, end)]
            assert (start, end) == (best.first, best.last) or best.score - own < TIE * best.score, about
            largest = max(largest, abs(score - own))
        largest = max(largest, abs(no_answer - theirs))
    assert largest < TOLERANCE
    return largest


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_every_length_and_number_from_windows(server, heads, expected, family, door, measured):
    open_door, make_ask = DOORS[door]
    everything = list(range(len(CONTEXTS)))
    with open_door(server) as run:
        answers = {case: run(lambda opened, case=case: make_ask(opened, heads[family], case)(everything)) for case in CASES}
    largest = max(assert_equal(dict(enumerate(found)), expected[family][case], case) for case, found in answers.items())
    measured("largest difference of a score", f"{largest:.1e}")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_200_inputs_alone_and_among_strangers(server, heads, expected, family, door):
    open_door, make_ask = DOORS[door]

    async def alone(opened: Any) -> dict[int, Found]:
        ask = make_ask(opened, heads[family], DEFAULT)
        return {index: (await ask([index]))[0] for index in range(len(CONTEXTS))}

    async def mixed(opened: Any) -> dict[int, Found]:
        return await gather_groups(make_ask(opened, heads[family], DEFAULT), range(len(CONTEXTS)))

    with open_door(server) as run:
        for work in (alone, mixed):
            assert_equal(run(work), expected[family][DEFAULT], DEFAULT)


def test_the_inputs_try_what_they_are_meant_to(heads, expected):
    tokenizer = heads["Bert"].tokenizer.backend_tokenizer
    tokenizer.no_truncation()
    lengths = [len(tokenizer.encode(question, context)) for question, context in zip(QUESTIONS, CONTEXTS, strict=True)]
    assert min(lengths) < 15
    assert 20 < sum(length > MAX_TOKENS for length in lengths) < 120
    for family, by_case in expected.items():
        best = [every[0] for every, _ in by_case[DEFAULT] if every]
        assert len({(each.first, each.last) for each in best}) > 40, family
        assert max(no_answer for _, no_answer in by_case[DEFAULT]) > 100 * TOLERANCE, family
        ties = sum(every[0].score - every[1].score < TIE * every[0].score for every, _ in by_case[DEFAULT] if len(every) > 1)
        assert ties < 5, family


def test_no_answer_without_a_token_that_stands_for_it_scores_nothing(tmp_path: Path):
    head = make_token_head("Bert", tmp_path / "heads", "ForQuestionAnswering", ("start", "end"))
    head.tokenizer.cls_token = None
    head.tokenizer.save_pretrained(head.path)
    with head_server([head], "question_answering", "torch", tmp_path / "cache") as server, in_process(server) as run:
        found = run(lambda task: ask_task(task, head, Case(top_k=3))([20, 21]))
    assert [no_answer for _, no_answer in found] == [0.0, 0.0]
    assert [len(answers) for answers, _ in found] == [3, 3]
