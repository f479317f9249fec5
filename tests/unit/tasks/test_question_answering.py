"""The question answering task on the fake model: value 0 of a word's vector is its logit to begin an answer, value 1 to end it."""

from __future__ import annotations

import numpy as np
import pytest

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.tasks import question_answering
from hubwire_server.tasks.question_answering import AnswerQuestionsOptions, AnswerQuestionsRequest, QuestionAnsweringTask, null_tokens
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, TextLimits, Texts, Windows
from hubwire_server.testing import MAX_TOKENS, running_server
from tests.parity.reference_answers import Window, all_answers, no_answer_score

CALLER = Caller(client="test")
CONTEXT = " ".join(f"w{word}" for word in np.random.default_rng(5).integers(0, 900, 12))


@pytest.fixture
async def task():
    async with running_server(task=Task.QUESTION_ANSWERING) as server:
        texts = Texts(TextLimits(max_texts=200, max_text_bytes=20_000, max_request_bytes=200_000), threads=1)
        yield QuestionAnsweringTask(TextTask(server.app.registry, server.app.dispatcher, texts))
        texts.close()


async def answer(task, questions, contexts, **options):
    request = AnswerQuestionsRequest(questions=questions, contexts=contexts, options=AnswerQuestionsOptions(**options))
    return (await task.answer(request, CALLER)).answers


def windows_of(task, question: str, context: str, *, max_tokens: int, stride: int) -> list[Window]:
    """The windows of a question as the reference sees them, cut by hand: the fake tokenizer reads words between spaces."""
    tokenizer = task.texts.registry.ready("", Task.QUESTION_ANSWERING).tokenizer
    table = np.random.default_rng(0).standard_normal((tokenizer.vocab_size, 8), dtype=np.float32)
    words, places, start = context.split(), [], 0
    for word in words:
        start = context.index(word, start)
        places.append((start, start + len(word)))
        start += len(word)
    before = ["[CLS]", *question.split(), "[SEP]"]
    room = max_tokens - len(before) - 1
    windows = []
    for low in range(0, len(words), room - stride):
        part = slice(low, low + room)
        tokens = [*before, *words[part], "[SEP]"]
        vectors = table[[tokenizer.token_to_id(token) or 0 for token in tokens]]
        spans = [None] * len(before) + places[part] + [None]
        windows.append(Window(vectors[:, 0].tolist(), vectors[:, 1].tolist(), spans, 0))
        if low + room >= len(words):
            break
    return windows


def expected_of(windows, context, top_k, max_answer_tokens=15):
    found = all_answers(windows, max_answer_tokens)[:top_k]
    return [(context[each.first : each.last], each.first, each.last, pytest.approx(each.score, rel=1e-5)) for each in found]


def seen(answers):
    return [(each.text, each.start, each.end, each.score) for each in answers.answers]


async def test_the_best_spans_are_those_of_the_reference(task):
    (answers,) = await answer(task, ["w1 w2"], [CONTEXT], top_k=5)
    windows = windows_of(task, "w1 w2", CONTEXT, max_tokens=MAX_TOKENS, stride=8)
    assert len(windows) == 1
    assert seen(answers) == expected_of(windows, CONTEXT, 5)
    assert answers.no_answer_score == pytest.approx(no_answer_score(windows), rel=1e-5)
    (default,) = await answer(task, ["w1 w2"], [CONTEXT])
    assert seen(default) == seen(answers)[:1]


@pytest.mark.parametrize(("stride", "max_tokens"), [(None, 0), (0, 0), (1, 0), (5, 20), (8, 16), (None, 12)])
async def test_long_contexts_are_read_in_windows(task, stride, max_tokens):
    context = " ".join(f"w{word}" for word in np.random.default_rng(6).integers(0, 900, 90))
    limit = max_tokens or MAX_TOKENS
    windows = windows_of(task, "w1 w2", context, max_tokens=limit, stride=limit // 4 if stride is None else stride)
    assert len(windows) > 3
    (answers,) = await answer(
        task, ["w1 w2"], [context], top_k=8, max_answer_tokens=4, windows=Windows(stride=stride, max_tokens=max_tokens)
    )
    assert seen(answers) == expected_of(windows, context, 8, 4)
    assert answers.no_answer_score == pytest.approx(no_answer_score(windows), rel=1e-5)


async def test_no_answer_is_an_answer_where_it_is_asked_for(task):
    (plain,) = await answer(task, ["w1"], [CONTEXT], top_k=100)
    (with_none,) = await answer(task, ["w1"], [CONTEXT], top_k=100, allow_no_answer=True)
    index = next(index for index, each in enumerate(with_none.answers) if not each.text)
    assert with_none.answers[index] == type(plain.answers[0])("", plain.no_answer_score, 0, 0)
    assert [each for each in with_none.answers if each.text] == plain.answers[:99]
    scores = [each.score for each in with_none.answers]
    assert scores == sorted(scores, reverse=True)
    (best,) = await answer(task, ["w1"], [CONTEXT], allow_no_answer=True)
    assert list(best.answers) == with_none.answers[:1]


async def test_one_context_serves_many_questions(task):
    questions = ["w1", "w2 w3", "w4"]
    broadcast = await answer(task, questions, [CONTEXT], top_k=3)
    assert broadcast == await answer(task, questions, [CONTEXT] * 3, top_k=3)
    alone = [(await answer(task, [question], [CONTEXT], top_k=3))[0] for question in questions]
    assert broadcast == alone


async def test_a_large_request_gives_what_each_of_its_questions_gives(task, monkeypatch):
    contexts = [" ".join(f"w{word}" for word in np.random.default_rng(seed).integers(0, 900, 3 * seed + 1)) for seed in range(30)]
    alone = [(await answer(task, ["w1"], [context], top_k=3))[0] for context in contexts]
    assert await answer(task, ["w1"] * 30, contexts, top_k=3) == alone
    monkeypatch.setattr(question_answering, "INLINE_LABEL_TOKENS", 100)
    assert await answer(task, ["w1"] * 30, contexts, top_k=3) == alone


@pytest.mark.parametrize(
    ("unit", "encoding", "size"), [("utf8_byte", "utf-8", 1), ("utf16_unit", "utf-16-le", 2), ("code_point", "utf-32-le", 4)]
)
async def test_spans_slice_the_context_in_the_unit_of_the_request(task, unit, encoding, size):
    context = "🦊 é\u0301 שלום w1 👩‍👩‍👧 日本 w2"
    (answers,) = await answer(task, ["w3"], [context], top_k=100, offset_unit=unit, allow_no_answer=True)
    assert len({each.text for each in answers.answers}) == 7 * 8 / 2 + 1
    encoded = context.encode(encoding)
    assert all(encoded[each.start * size : each.end * size].decode(encoding) == each.text for each in answers.answers)


async def test_a_context_without_tokens_has_no_answer(task):
    (nothing,) = await answer(task, ["w1"], [" \n"])
    assert (list(nothing.answers), nothing.no_answer_score) == ([], pytest.approx(1.0))
    ((only,),) = [each.answers for each in await answer(task, ["w1"], [" "], allow_no_answer=True)]
    assert (only.text, only.score, only.start, only.end) == ("", pytest.approx(1.0), 0, 0)


async def test_a_question_leaves_room_for_its_context_or_is_refused(task):
    longest = " ".join(["w1"] * (MAX_TOKENS - 3 - MAX_TOKENS // 4 - MAX_TOKENS // 8))
    assert len(await answer(task, ["w2", longest], [CONTEXT])) == 2
    with pytest.raises(HubwireError) as caught:
        await answer(task, ["w2", f"{longest} w1"], [CONTEXT])
    assert (caught.value.reason, caught.value.field) == (Reason.TEXT_TOO_LONG, "questions[1]")
    assert caught.value.metadata == {"token_count": str(len(longest.split()) + 1), "limit_tokens": str(len(longest.split()))}
    assert len(await answer(task, [f"{longest} w1"], [CONTEXT], windows=Windows(stride=1))) == 1
    with pytest.raises(HubwireError) as caught:
        await answer(task, ["w2"], [CONTEXT], windows=Windows(stride=1, max_tokens=5))
    assert (caught.value.reason, caught.value.metadata["limit_tokens"]) == (Reason.TEXT_TOO_LONG, "0")


@pytest.mark.parametrize(
    ("questions", "contexts", "options", "reason", "field"),
    [
        ([], [], {}, Reason.FIELD_REQUIRED, "questions"),
        (["w1"], [], {}, Reason.COUNT_MISMATCH, "contexts"),
        (["w1"] * 3, ["w1"] * 2, {}, Reason.COUNT_MISMATCH, "contexts"),
        (["w1"], ["w1"] * 2, {}, Reason.COUNT_MISMATCH, "contexts"),
        (["w1", ""], ["w1"], {}, Reason.TEXT_EMPTY, "questions[1]"),
        (["w1"], [""], {}, Reason.TEXT_EMPTY, "contexts[0]"),
        (["w1"] * 2, ["w1", ""], {}, Reason.TEXT_EMPTY, "contexts[1]"),
        (["w1"] * 100, ["w1 " * 1_000], {}, Reason.TEXT_TOO_LARGE, "contexts[0]"),
        (["w1"] * 201, ["w1"], {}, Reason.TOO_MANY_TEXTS, "questions"),
        (["w1"], ["w1"], {"top_k": 101}, Reason.VALUE_OUT_OF_RANGE, "options.top_k"),
        (["w1"], ["w1"], {"max_answer_tokens": 513}, Reason.VALUE_OUT_OF_RANGE, "options.max_answer_tokens"),
        (["w1"], ["w1"], {"windows": Windows(max_tokens=33)}, Reason.VALUE_OUT_OF_RANGE, "options.windows.max_tokens"),
        (["w1"], ["w1"], {"windows": Windows(stride=29)}, Reason.VALUE_OUT_OF_RANGE, "options.windows.stride"),
        (["w1", "w2"], ["w1", "w1 nan"], {}, Reason.OUTPUT_NOT_FINITE, "questions[1]"),
        (["w1", "fail"], ["w1"], {}, Reason.INTERNAL, "questions[1]"),
    ],
)
async def test_what_cannot_be_answered_is_named(task, questions, contexts, options, reason, field):
    with pytest.raises(HubwireError) as caught:
        await answer(task, questions, contexts, **options)
    assert (caught.value.reason, caught.value.field) == (reason, field)


async def test_the_first_token_of_a_window_that_stands_for_no_answer_counts(task):
    tokenizer = task.texts.registry.ready("", Task.QUESTION_ANSWERING).tokenizer
    batch = tokenizer.encode(["[CLS] w1", "w2"], ["w1", "w2 w3"], spans="code_point")
    assert null_tokens(batch, 1).tolist() == [0, int(batch.offsets[1])]
    assert null_tokens(batch, 2).tolist() == [3, int(batch.offsets[1]) + 2]
    assert null_tokens(batch, -1).tolist() == [-1, -1]
