"""The token classification task on the fake model, whose label of a word depends on the word alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.tasks import token_classification
from hubwire_server.tasks.decoding import softmax
from hubwire_server.tasks.entities import label_table
from hubwire_server.tasks.stream import StreamEntry, TextStream
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, TextLimits, Texts, Truncation, Windows
from hubwire_server.tasks.token_classification import ClassifyTokensOptions, ClassifyTokensRequest, TokenClassificationTask
from hubwire_server.testing import MAX_TOKENS, running_server

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
CALLER = Caller(client="test")


@pytest.fixture
async def task():
    async with running_server(task=Task.TOKEN_CLASSIFICATION, description={"labels": LABELS}) as server:
        texts = Texts(TextLimits(max_texts=200, max_text_bytes=5_000, max_request_bytes=1_000_000), threads=1)
        yield TokenClassificationTask(TextTask(server.app.registry, server.app.dispatcher, texts))
        texts.close()


async def classify(task, *texts, split=(), **options):
    request = ClassifyTokensRequest(texts=texts, split_texts=split, options=ClassifyTokensOptions(**options))
    return (await task.classify(request, CALLER)).entities


async def words_by_label(task) -> dict[str, list[str]]:
    """Words of the fake model for each label."""
    words = [f"w{index}" for index in range(100)]
    found = await classify(task, *words, aggregation="none", ignored_labels=())
    return {label: [word for word, (entity,) in zip(words, found, strict=True) if entity.label == label] for label in LABELS}


def seen(entities):
    return [(entity.label, entity.text, entity.start, entity.end) for entity in entities]


async def test_neighbouring_words_of_one_tag_are_one_entity_and_a_beginning_starts_another(task):
    words = await words_by_label(task)
    (o, *_), (b, b2, *_), (i, *_), (loc, *_) = words["O"], words["B-PER"], words["I-PER"], words["I-LOC"]
    text = f"{o} {b} {i} {b2}  {loc} {o}"
    (entities,) = await classify(task, text)
    assert [(entity.label, entity.text) for entity in entities] == [("PER", f"{b} {i}"), ("PER", b2), ("LOC", loc)]
    assert all(text[entity.start : entity.end] == entity.text and entity.words is None for entity in entities)
    tokens = await classify(task, text, aggregation="none", ignored_labels=())
    assert [entity.label for entity in tokens[0]] == ["O", "B-PER", "I-PER", "B-PER", "I-LOC", "O"]
    assert entities[0].score == pytest.approx(np.mean([tokens[0][1].score, tokens[0][2].score]))


async def test_ignored_labels_are_the_names_that_entities_would_have(task):
    words = await words_by_label(task)
    text = " ".join([words["O"][0], words["B-PER"][0], words["B-LOC"][0]])
    assert [entity.label for entity in (await classify(task, text, ignored_labels=()))[0]] == ["O", "PER", "LOC"]
    assert [entity.label for entity in (await classify(task, text, ignored_labels=("PER", "O")))[0]] == ["LOC"]
    # An entity has no label but its tag, as in transformers.
    assert [entity.label for entity in (await classify(task, text, ignored_labels=("B-PER", "O")))[0]] == ["PER", "LOC"]
    assert [entity.label for entity in (await classify(task, text, ignored_labels=("B-PER",), aggregation="none"))[0]] == ["O", "B-LOC"]
    with pytest.raises(HubwireError) as caught:
        await classify(task, text, ignored_labels=("O", "O"))
    assert (caught.value.reason, caught.value.field) == (Reason.VALUE_REPEATED, "options.ignored_labels.labels[1]")


async def test_a_text_without_entities_has_an_empty_list(task):
    words = await words_by_label(task)
    found = await classify(task, words["O"][0], words["B-PER"][0], words["O"][1], long_text=Windows())
    assert [len(entities) for entities in found] == [0, 1, 0]
    assert await classify(task, words["O"][0], long_text=Windows()) == [[]]


@pytest.mark.parametrize(
    ("unit", "encoding", "size"), [("utf8_byte", "utf-8", 1), ("utf16_unit", "utf-16-le", 2), ("code_point", "utf-32-le", 4)]
)
async def test_spans_slice_the_text_in_the_unit_of_the_request(task, unit, encoding, size):
    text = "🦊 é\u0301 שלום w1 👩‍👩‍👧 日本 w2"
    plain, (entities,) = "w3 w4", await classify(task, text, aggregation="none", ignored_labels=(), offset_unit=unit)
    assert [entity.text for entity in entities] == text.split()
    encoded = text.encode(encoding)
    assert [encoded[entity.start * size : entity.end * size].decode(encoding) for entity in entities] == text.split()
    both = await classify(task, plain, text, aggregation="none", ignored_labels=(), offset_unit=unit)
    assert both[1] == entities
    assert seen(both[0]) == [(both[0][0].label, "w3", 0, 2), (both[0][1].label, "w4", 3, 5)]


async def test_a_long_text_in_windows_has_the_entities_of_a_model_that_reads_all_of_it(task):
    """A word's label depends on the word alone, so that windows change nothing but entities that they cut. None is longer than a stride."""
    words = await words_by_label(task)
    runs = [[words["B-PER"][0], words["I-PER"][0], words["O"][0]], [words["B-LOC"][0], words["O"][1]], [words["O"][2]]]
    chosen = np.random.default_rng(0).integers(0, 3, 60)
    text = " ".join(word for index in chosen for word in runs[index])
    count = int(np.isin(chosen, [0, 1]).sum())
    (entities,) = await classify(task, text, long_text=Windows(stride=5))
    assert len(entities) == count
    assert [entity.label for entity in entities] == [("PER", "LOC")[index] for index in chosen if index < 2]
    assert all(text[entity.start : entity.end] == entity.text for entity in entities)
    both = await classify(task, "w1", text, "w2", long_text=Windows(stride=5))
    assert both[1] == entities
    assert await classify(task, "w1", "w2", long_text=Windows()) == [both[0], both[2]]
    with pytest.raises(HubwireError) as caught:
        await classify(task, "w1", text)
    assert (caught.value.reason, caught.value.field) == (Reason.TEXT_TOO_LONG, "texts[1]")
    cut = await classify(task, text, long_text=Truncation())
    assert 0 < len(cut[0]) < count
    (tail,) = await classify(task, text, long_text=Truncation(side="left"))
    assert tail[-1] == entities[-1]


async def test_words_of_the_caller_keep_their_numbers_and_count_positions_in_the_joined_text(task):
    words = await words_by_label(task)
    o, b, i = words["O"][0], words["B-PER"][0], words["I-PER"][0]
    (first, second) = await classify(task, split=[[o, b, i, o], [b, o, b]])
    joined = f"{o} {b} {i} {o}"
    assert seen(first) == [("PER", f"{b} {i}", len(o) + 1, len(joined) - len(o) - 1)]
    assert first[0].words == (1, 3)
    assert [(entity.text, entity.words) for entity in second] == [(b, (0, 1)), (b, (2, 3))]
    (odd,) = await classify(task, split=[["é 🦊", b]], aggregation="none", ignored_labels=(), offset_unit="utf16_unit")
    assert [(entity.text, entity.start, entity.end, entity.words) for entity in odd] == [
        ("é", 0, 1, (0, 1)),
        ("🦊", 2, 4, (0, 1)),
        (b, 5, 5 + len(b), (1, 2)),
    ]
    many = [[o, b] * 40, [b]]
    windowed = await classify(task, split=many, long_text=Windows(stride=3))
    assert [entity.words for entity in windowed[0]] == [(index, index + 1) for index in range(1, 80, 2)]


@pytest.mark.parametrize(
    ("split", "texts", "reason", "field"),
    [
        ([["w1"], []], (), Reason.FIELD_REQUIRED, "split_texts[1].words"),
        ([["w1", ""]], (), Reason.TEXT_EMPTY, "split_texts[0].words[1]"),
        ([["w1"]], ("w1",), Reason.OPTION_NOT_SUPPORTED, "split_texts"),
        ([["w1"]] * 201, (), Reason.TOO_MANY_TEXTS, "split_texts"),
        ([["w1"], ["w"] * 3_000], (), Reason.TEXT_TOO_LARGE, "split_texts[1]"),
        ([["w1"], ["w1"] * MAX_TOKENS], (), Reason.TEXT_TOO_LONG, "split_texts[1]"),
        ([["w1"], ["fail"]], (), Reason.INTERNAL, "split_texts[1]"),
        ((), ("w1", "nan"), Reason.OUTPUT_NOT_FINITE, "texts[1]"),
        ((), (), Reason.FIELD_REQUIRED, "texts"),
    ],
)
async def test_what_cannot_be_labelled_is_named(task, split, texts, reason, field):
    with pytest.raises(HubwireError) as caught:
        await classify(task, *texts, split=split)
    assert (caught.value.reason, caught.value.field) == (reason, field)


async def test_tokens_are_not_joined_over_windows(task):
    with pytest.raises(HubwireError) as caught:
        await classify(task, "w1", aggregation="none", long_text=Windows())
    assert (caught.value.reason, caught.value.field) == (Reason.OPTION_NOT_SUPPORTED, "options.windows")


async def test_a_large_request_gives_what_each_of_its_texts_gives(task, monkeypatch):
    texts = [" ".join(f"w{word}" for word in np.random.default_rng(seed).integers(0, 900, 20)) for seed in range(50)]
    alone = [(await classify(task, text))[0] for text in texts]
    assert await classify(task, *texts) == alone
    monkeypatch.setattr(token_classification, "INLINE_LABEL_TOKENS", 100)
    assert await classify(task, *texts) == alone


async def test_a_stream_gives_what_a_request_gives(task):
    texts = [" ".join(f"w{word}" for word in np.random.default_rng(seed).integers(0, 900, 4 * seed + 1)) for seed in range(20)]
    options = ClassifyTokensOptions(long_text=Windows(stride=4), offset_unit="utf8_byte")
    stream = TextStream(task.texts, task.plan("", options), CALLER, ordered=True)
    await stream.push([StreamEntry(str(index), text) for index, text in enumerate([*texts, "nan"])], 0)
    stream.close_input()
    results = [result async for some in stream.results() for result in some.results]
    expected = await classify(task, *texts, long_text=Windows(stride=4), offset_unit="utf8_byte")
    assert [result.value for result in results[:-1]] == expected
    assert results[-1].error.reason is Reason.OUTPUT_NOT_FINITE


async def test_a_text_of_a_stream_that_needs_too_many_windows_is_refused_alone_and_a_request_reads_it(task, monkeypatch):
    monkeypatch.setattr(token_classification, "MAX_STREAM_WINDOWS", 4)
    options = ClassifyTokensOptions(long_text=Windows(stride=4, max_tokens=10), ignored_labels=())
    plan = task.plan("", options)
    # Two of ten tokens are special, and four are those of the window before.
    most = " ".join(f"w{index}" for index in range(8 + 3 * 4))
    long = f"{most} w99"
    stream = TextStream(task.texts, plan, CALLER, ordered=True)
    await stream.push([StreamEntry(str(index), text) for index, text in enumerate([most, long, "w1"])], 0)
    stream.close_input()
    first, refused, last = [result async for some in stream.results() for result in some.results]
    assert (refused.error.reason, refused.error.field, refused.value) == (Reason.TEXT_TOO_LONG, "text", None)
    assert refused.error.metadata == {"token_count": "23", "limit_tokens": "22"}
    answers = await classify(task, most, long, "w1", long_text=Windows(stride=4, max_tokens=10), ignored_labels=())
    assert [first.value, last.value] == [answers[0], answers[2]]
    assert answers[1][-1].text.endswith("w99")


@pytest.mark.parametrize(
    ("long_text", "size", "windows", "results"),
    [
        (None, 512, 1, 8),
        (Truncation(), 128, 1, 32),
        (None, 8_192, 1, 1),
        (Windows(), 16, 16, 16),
        (Windows(), 512, 16, 1),
        (Windows(), 1_024, 8, 1),  # long windows are fewer, so that a text has no more tokens
        (Windows(), 32_768, 1, 1),
    ],
)
async def test_what_a_stream_writes_at_once_is_bounded_by_windows_and_entities(task, long_text, size, windows, results):
    plan = task.plan("", ClassifyTokensOptions(long_text=long_text))
    plan = dataclasses.replace(plan, reading=dataclasses.replace(plan.reading, limit_tokens=size))
    assert (plan.most_windows, plan.most_results) == (windows, results)


@pytest.mark.parametrize(("fields", "field"), [({"texts": ("w1 crash",)}, "texts"), ({"split_texts": [["w1", "crash"]]}, "split_texts")])
async def test_a_request_with_more_logits_than_the_server_holds_is_refused_before_it_is_computed(task, monkeypatch, fields, field):
    monkeypatch.setattr(token_classification, "MAX_LOGITS", 4 * len(LABELS) - 1)
    with pytest.raises(HubwireError) as caught:
        await task.classify(ClassifyTokensRequest(**fields), CALLER)
    assert (caught.value.reason, caught.value.field) == (Reason.TOO_MANY_TEXTS, field)
    assert caught.value.metadata == {"count": "4", "limit": "3"}
    assert len(await classify(task, "w1")) == 1


def test_tags_and_names_of_labels_are_those_of_transformers():
    table = label_table(("O", "B-PER", "I-PER", "PER", "E-PER", "B-X-Y", "I-X-Y", "B-"))
    assert table.tags.tolist() == [0, 1, 1, 1, 2, 3, 3, 4]
    assert table.begins.tolist() == [False, True, False, False, False, True, False, True]
    assert table.groups == ("O", "PER", "PER", "PER", "PER", "X-Y", "X-Y", "")
    assert table.names("none") == table.labels
    assert label_table(("O", "B-PER")) is label_table(("O", "B-PER"))


def test_probabilities_of_large_logits_are_finite():
    assert softmax(np.array([[1e4, 1e4], [-1e4, 0]], np.float32)).tolist() == [[0.5, 0.5], [0.0, 1.0]]
