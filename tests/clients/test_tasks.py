"""The understanding tasks through both clients: what goes out, what comes back, and what is refused before it goes out."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from google.protobuf import json_format

import hubwire
from hubwire import _names
from hubwire._calls import model, rerank, text_classification, token_classification
from hubwire._stream import StreamWindow
from hubwire.v1 import (
    common_pb2,
    embedding_pb2,
    fill_mask_pb2,
    model_pb2,
    question_answering_pb2,
    rerank_pb2,
    text_classification_pb2,
    token_classification_pb2,
    tokenization_pb2,
)

CUT = {"side": common_pb2.TRUNCATION_SIDE_LEFT, "max_tokens": 7}
WINDOWS = {"stride": 3, "max_tokens": 7}
UNIT = {"offset_unit": common_pb2.OFFSET_UNIT_CODE_POINT}
CUTTING = {"truncate": "left", "max_tokens": 7}
CONTEXT = "Ada was born in London 🌍"

ClassifyText, ClassifyZeroShot = text_classification_pb2.ClassifyTextRequest, text_classification_pb2.ClassifyZeroShotRequest
ClassifyTokens = token_classification_pb2.ClassifyTokensRequest
Answer, Fill, Rank = question_answering_pb2.AnswerQuestionsRequest, fill_mask_pb2.FillMaskRequest, rerank_pb2.RerankRequest
Tokenize, Count = tokenization_pb2.TokenizeRequest, tokenization_pb2.CountTokensRequest

# A method, its arguments, its options, and the request that they make.
REQUESTS = [
    ("classify_text", [["a"]], {}, ClassifyText(texts=["a"], options={})),
    ("classify_text", [["a"], ["b"]], {"model": "m"}, ClassifyText(model="m", texts=["a"], text_pairs=["b"], options={})),
    (
        "classify_text",
        [["a"]],
        {"top_k": 2, "labels": ["x", "y"], "function": "softmax", **CUTTING},
        ClassifyText(
            texts=["a"],
            options={
                "top_k": 2,
                "labels": ["x", "y"],
                "function": text_classification_pb2.CLASSIFICATION_FUNCTION_SOFTMAX,
                "truncation": CUT,
            },
        ),
    ),
    ("classify_zero_shot", [["a"], ["x"]], {}, ClassifyZeroShot(texts=["a"], candidate_labels=["x"], options={})),
    (
        "classify_zero_shot",
        [["a"], ["x", "y"]],
        {"model": "m", "hypothesis_template": "It is {}.", "multi_label": True, **CUTTING},
        ClassifyZeroShot(
            model="m",
            texts=["a"],
            candidate_labels=["x", "y"],
            options={"hypothesis_template": "It is {}.", "multi_label": True, "truncation": CUT},
        ),
    ),
    ("classify_tokens", [["a"]], {}, ClassifyTokens(texts=["a"], options=UNIT)),
    (
        "classify_tokens",
        [],
        {"words": [["a", "b"], ["c"]], "model": "m", "ignored_labels": []},
        ClassifyTokens(model="m", split_texts=[{"words": ["a", "b"]}, {"words": ["c"]}], options={**UNIT, "ignored_labels": {}}),
    ),
    (
        "classify_tokens",
        [["a"]],
        {"aggregation": "max", "ignored_labels": ["O", "X"], **CUTTING},
        ClassifyTokens(
            texts=["a"],
            options={
                **UNIT,
                "aggregation": token_classification_pb2.AGGREGATION_MAX,
                "ignored_labels": {"labels": ["O", "X"]},
                "truncation": CUT,
            },
        ),
    ),
    (
        "classify_tokens",
        [["a"]],
        {"windows": True, "stride": 3, "max_tokens": 7},
        ClassifyTokens(texts=["a"], options={**UNIT, "windows": WINDOWS}),
    ),
    ("classify_tokens", [["a"]], {"windows": True}, ClassifyTokens(texts=["a"], options={**UNIT, "windows": {}})),
    ("answer_questions", [["a"], "one"], {}, Answer(questions=["a"], contexts=["one"], options=UNIT)),
    (
        "answer_questions",
        [["a", "b"], ["one", "two"]],
        {"model": "m", "top_k": 2, "max_answer_tokens": 9, "stride": 3, "max_tokens": 7, "allow_no_answer": True},
        Answer(
            model="m",
            questions=["a", "b"],
            contexts=["one", "two"],
            options={**UNIT, "top_k": 2, "max_answer_tokens": 9, "windows": WINDOWS, "allow_no_answer": True},
        ),
    ),
    ("fill_mask", [["a [MASK]"]], {}, Fill(texts=["a [MASK]"], options=UNIT)),
    (
        "fill_mask",
        [["a [MASK]"]],
        {"model": "m", "top_k": 3, "targets": ["x"], **CUTTING},
        Fill(model="m", texts=["a [MASK]"], options={**UNIT, "top_k": 3, "targets": ["x"], "truncation": CUT}),
    ),
    ("rerank", ["q", ["a", "b"]], {}, Rank(query="q", documents=["a", "b"], options={})),
    (
        "rerank",
        ["q", ["a"]],
        {"model": "m", "top_n": 1, "scoring": "raw", **CUTTING},
        Rank(
            model="m",
            query="q",
            documents=["a"],
            options={"top_n": 1, "scoring": rerank_pb2.RERANK_SCORING_RAW, "truncation": CUT},
        ),
    ),
    ("embed_sparse", [["a"]], {}, embedding_pb2.EmbedSparseRequest(texts=["a"], options={})),
    (
        "embed_sparse",
        [["a"]],
        {"model": "m", "max_terms": 5, "return_tokens": True, **CUTTING},
        embedding_pb2.EmbedSparseRequest(model="m", texts=["a"], options={"max_terms": 5, "return_tokens": True, "truncation": CUT}),
    ),
    ("tokenize", [["a"]], {}, Tokenize(texts=["a"], options=UNIT)),
    (
        "tokenize",
        [["a"], ["b"]],
        {"model": "m", "skip_special_tokens": True, "ids_only": True, **CUTTING},
        Tokenize(
            model="m",
            texts=["a"],
            text_pairs=["b"],
            options={**UNIT, "skip_special_tokens": True, "ids_only": True, "truncation": CUT},
        ),
    ),
    ("detokenize", [[[1, 2], (3,)]], {}, tokenization_pb2.DetokenizeRequest(texts=[{"token_ids": [1, 2]}, {"token_ids": [3]}])),
    (
        "detokenize",
        [[np.array([1, 2])]],
        {"model": "m", "keep_special_tokens": True},
        tokenization_pb2.DetokenizeRequest(model="m", texts=[{"token_ids": [1, 2]}], keep_special_tokens=True),
    ),
    ("count_tokens", [["a", ""]], {}, Count(texts=["a", ""])),
    (
        "count_tokens",
        [["a"], ["b"]],
        {"model": "m", "skip_special_tokens": True},
        Count(model="m", texts=["a"], text_pairs=["b"], skip_special_tokens=True),
    ),
]


@pytest.mark.parametrize(
    ("method", "arguments", "options", "request_message"), REQUESTS, ids=[f"{name} {sorted(options)}" for name, _, options, _ in REQUESTS]
)
def test_arguments_become_the_request(client, fake, method, arguments, options, request_message):
    # The fake answers without the details that ids_only leaves out, and cuts nothing.
    getattr(client, method)(*arguments, **options)
    assert json_format.MessageToDict(fake.requests[0]) == json_format.MessageToDict(request_message)
    assert fake.requests == [request_message]


STREAMS = [
    ("stream_classify_text", {"top_k": 2, "function": "none"}, {"top_k": 2, "function": "CLASSIFICATION_FUNCTION_NONE"}),
    ("stream_classify_tokens", {"aggregation": "first"}, {"aggregation": "AGGREGATION_FIRST", "offset_unit": "OFFSET_UNIT_CODE_POINT"}),
    ("stream_embed_sparse", {"max_terms": 4, "return_tokens": True}, {"max_terms": 4, "return_tokens": True}),
]


@pytest.mark.parametrize(("method", "options", "message"), STREAMS, ids=[one[0] for one in STREAMS])
def test_the_options_of_a_stream_open_it(client, fake, method, options, message):
    assert list(getattr(client, method)([], model="m", ordered=True, **options)) == []
    opening = json_format.MessageToDict(fake.requests[0].options, preserving_proto_field_name=True)
    assert opening == {"model": "m", "ordered": True, "options": message}


@pytest.mark.parametrize("method", [one[0] for one in STREAMS])
def test_an_item_that_fails_is_handed_over_and_the_stream_goes_on(client, fake, method):
    results = dict(getattr(client, method)([("good", "A text"), ("bad", ""), ("better", "Another")], batch_size=2))
    assert set(results) == {"good", "bad", "better"}
    assert isinstance(results["bad"], hubwire.InvalidArgumentError)
    assert (results["bad"].reason, results["bad"].field) == ("TEXT_EMPTY", "text")
    assert not isinstance(results["good"], hubwire.HubwireError)
    assert [len(message.items.items) for message in fake.requests[1:]] in ([2, 1], [1, 2], [1, 1, 1])


@pytest.mark.parametrize(
    ("stream", "unary"),
    [
        ("stream_classify_text", "classify_text"),
        ("stream_classify_tokens", "classify_tokens"),
        ("stream_embed_sparse", "embed_sparse"),
    ],
)
def test_a_stream_gives_what_the_call_gives(client, stream, unary):
    texts = [f"Text number {number}" for number in range(200)]
    results = dict(getattr(client, stream)(texts))
    assert [str(results[number]) for number in range(200)] == [str(one) for one in getattr(client, unary)(texts)]


def test_labels_come_with_their_scores(client):
    first, second = client.classify_text(["ab", "a much longer text"])
    assert isinstance(first, hubwire.Classification)
    assert (first.labels, first.label) == (("short", "long"), "short")
    assert (first.scores.dtype, first.scores.shape) == (np.float32, (2,))
    assert first.score == float(first.scores[0]) == pytest.approx(np.exp(-0.2))
    assert second.label == "long"


def test_pairs_belong_to_their_texts(client, fake):
    alone, paired = client.classify_text(["ab", "ab"], ["", "a long second text"])
    assert (alone.label, paired.label) == ("short", "long")
    results = dict(client.stream_classify_text([("x", "ab"), ("y", ("ab", "a long second text")), ("z", ("ab", ""))]))
    assert [results[name].label for name in "xyz"] == ["short", "long", "short"]
    sent = {item.text_pair if item.HasField("text_pair") else None for message in fake.requests[1:] for item in message.items.items}
    assert sent == {None, "a long second text", ""}


@pytest.mark.parametrize(
    ("method", "item", "expected"),
    [
        ("stream_classify_text", ("id", ("a", 3)), "a str or a tuple of id and str, or id and a pair of str"),
        ("stream_classify_text", ("id", ("a", "b", "c")), "a str or a tuple of id and str, or id and a pair of str"),
        ("stream_classify_text", ("id", ["a", "b"]), "a str or a tuple of id and str, or id and a pair of str"),
        ("stream_classify_tokens", ("id", ("a", "b")), "a str or a tuple of id and str, not"),
        ("stream_embed_sparse", ("id", ("a", "b")), "a str or a tuple of id and str, not"),
    ],
)
def test_an_item_that_is_no_text_and_no_pair_is_a_type_error(client, method, item, expected):
    with pytest.raises(TypeError, match=f"item 0 must be {expected}"):
        list(getattr(client, method)([item]))


def test_both_texts_of_a_pair_count_towards_the_size_of_a_message():
    window = StreamWindow(batch_size=10, max_in_flight=10, takes_pairs=True)
    for number in range(3):
        window.add((number, ("a" * 400_000, "ä" * 100_000)))
    assert [len(window.take()), len(window.take()), len(window.take())] == [1, 1, 1]


def test_zero_shot_scores_every_candidate(client):
    (found,) = client.classify_zero_shot(["a"], ["sport", "politics"])
    assert found.labels == ("sport", "politics")
    np.testing.assert_allclose(found.scores, [1 / 2, 1 / 3])


def test_entities_are_parts_of_their_text(client):
    text = "🌍 Ada met Grace"
    ((ada, grace),) = client.classify_tokens([text])
    assert ada == hubwire.Entity(label="NAME", score=0.75, start=2, end=5, text="Ada")
    assert text[grace.start : grace.end] == grace.text == "Grace"


def test_entities_of_words_name_the_words(client):
    ((ada,), ()) = client.classify_tokens(words=[["hello", "Ada"], ["nobody"]])
    assert (ada.words, ada.start, ada.end) == ((1, 2), 6, 9)


def test_answers_are_parts_of_their_context(client):
    found, lost = client.answer_questions(["London", "Paris"], CONTEXT)
    assert isinstance(found, hubwire.QuestionAnswers)
    (answer,) = found.answers
    assert answer == hubwire.Answer(text="London", score=0.5, start=16, end=22)
    assert CONTEXT[answer.start : answer.end] == answer.text
    assert (lost.answers, lost.no_answer_score) == ((), 0.25)
    (none,) = client.answer_questions(["Paris"], [CONTEXT], allow_no_answer=True)
    assert none.answers == (hubwire.Answer(text="", score=0.25, start=0, end=0),)


def test_masks_are_filled(client):
    ((first, second), (only,)) = client.fill_mask(["[MASK] and [MASK]", "no [MASK]"])
    assert (first.start, first.end, second.start) == (0, 6, 11)
    assert (first.tokens, first.sequences[1]) == (("one", "two"), "two and [MASK]")
    assert (first.token_ids.tolist(), first.scores.tolist(), first.scores.dtype) == ([100, 101], [0.5, 0.25], np.float32)
    assert only.sequences == ("no one", "no two")


def test_documents_come_back_with_their_text(client, fake):
    best, second = client.rerank("q", ["ab", "abcd", "a"], top_n=2)
    assert best == hubwire.RankedDocument(index=1, score=pytest.approx(0.04), document="abcd")
    assert (second.index, second.document) == (0, "ab")
    assert not fake.requests[0].options.return_documents


def test_sparse_vectors_are_arrays(client):
    (vector,) = client.embed_sparse(["abba!"], return_tokens=True)
    assert vector.indices.tolist() == [ord("!"), ord("a"), ord("b")]
    assert (vector.values.tolist(), vector.values.dtype) == ([1.0, 2.0, 2.0], np.float32)
    assert (vector.tokens, vector.dimensions) == (("!", "a", "b"), 0x110000)
    (plain,) = client.embed_sparse(["abba!"])
    assert plain.tokens == ()


def test_tokens_carry_everything(client):
    (one,) = client.tokenize(["ab"])
    assert (one.token_ids.tolist(), one.tokens, one.token_count) == ([0, 97, 98, 1], ("<s>", "a", "b", "</s>"), 4)
    assert one.spans.tolist() == [[0, 0], [0, 1], [1, 2], [0, 0]]
    assert one.special_tokens_mask.tolist() == [True, False, False, True]
    assert one.sequence_ids.tolist() == [-1, 0, 0, -1]
    assert one.type_ids.tolist() == [0, 0, 0, 0]
    (ids,) = client.tokenize(["ab"], ids_only=True)
    assert (ids.token_ids.tolist(), ids.tokens, ids.spans.shape) == ([0, 97, 98, 1], (), (0, 2))


def test_tokens_become_texts_and_are_counted(client):
    assert client.detokenize([[0, 97, 98, 1], []]) == ["ab", ""]
    counts = client.count_tokens(["ab", ""])
    assert (counts.tolist(), counts.dtype) == ([4, 2], np.int64)


WRONG = [
    ("classify_text", [["a"], []], {}, ValueError, "pairs must have a text for each of the 1 texts, not 0"),
    ("classify_text", [["a"], "b"], {}, TypeError, r"pairs must be a list of texts, not one str: pass \[text\]"),
    ("classify_text", [["a"]], {"labels": []}, ValueError, "labels is empty: pass None for all labels"),
    ("classify_text", [["a"]], {"labels": "x"}, TypeError, "labels must be a list of texts, not one str"),
    ("classify_text", [["a"]], {"top_k": 0}, ValueError, "top_k must be between 1 and 4294967295, not 0"),
    ("classify_text", [["a"]], {"top_k": True}, TypeError, "top_k must be an int, not bool"),
    ("classify_text", [["a"]], {"function": "tanh"}, ValueError, "function must be one of sigmoid, softmax, none"),
    ("classify_text", [["a"]], {"max_tokens": 3}, ValueError, "pass truncate=True"),
    ("stream_classify_text", [["a"]], {"function": "tanh"}, ValueError, "function must be one of sigmoid"),
    ("stream_classify_text", ["a"], {}, TypeError, "items must be a list of texts, not one str"),
    ("classify_zero_shot", [["a"], "x"], {}, TypeError, "candidate_labels must be a list of texts, not one str"),
    ("classify_zero_shot", [["a"], ["x"]], {"hypothesis_template": ""}, ValueError, "hypothesis_template is empty"),
    ("classify_zero_shot", [["a"], ["x"]], {"multi_label": 1}, TypeError, "multi_label must be True or False"),
    ("classify_tokens", [], {}, ValueError, "pass texts, or words"),
    ("classify_tokens", [["a"]], {"words": [["a"]]}, ValueError, "pass texts, or words"),
    ("classify_tokens", [], {"words": "ab"}, TypeError, "words must be a list of lists of words, not one str"),
    ("classify_tokens", [], {"words": ["ab"]}, TypeError, r"words\[0\] must be a list of texts, not one str"),
    ("classify_tokens", [["a"]], {"aggregation": "mean"}, ValueError, "aggregation must be one of none, simple"),
    ("classify_tokens", [["a"]], {"truncate": True, "windows": True}, ValueError, "pass truncate or windows, not both"),
    ("classify_tokens", [["a"]], {"stride": 3}, ValueError, "pass windows=True as well"),
    ("classify_tokens", [["a"]], {"max_tokens": 3}, ValueError, "max_tokens needs truncate=True or windows=True"),
    ("classify_tokens", [["a"]], {"windows": True, "stride": -1}, ValueError, "stride must be between 0"),
    ("answer_questions", ["a", "b"], {}, TypeError, "questions must be a list of texts, not one str"),
    ("answer_questions", [["a"], [3]], {}, TypeError, r"contexts\[0\] must be a str, not int"),
    ("answer_questions", [["a"], "b"], {"top_k": 0}, ValueError, "top_k must be between 1"),
    ("fill_mask", [["a"]], {"targets": []}, ValueError, "targets is empty: pass None for the whole vocabulary"),
    ("rerank", [["q"], ["a"]], {}, TypeError, "query must be a str, not list"),
    ("rerank", ["q", "a"], {}, TypeError, "documents must be a list of texts, not one str"),
    ("rerank", ["q", ["a"]], {"scoring": "softmax"}, ValueError, "scoring must be one of sigmoid, raw"),
    ("embed_sparse", [["a"]], {"max_terms": 0}, ValueError, "max_terms must be between 1"),
    ("embed_sparse", [["\ud800"]], {}, ValueError, r"texts\[0\] cannot be sent"),
    ("tokenize", [["a"], ["b", "c"]], {}, ValueError, "pairs must have a text for each of the 1 texts, not 2"),
    ("detokenize", ["12"], {}, TypeError, "token_ids must be a list of lists of token ids, not one str"),
    ("detokenize", [["12"]], {}, TypeError, r"token_ids\[0\] must be a list of token ids, not str"),
    ("detokenize", [[3]], {}, TypeError, r"token_ids\[0\] must be a list of token ids, not int"),
    ("detokenize", [[[-1]]], {}, ValueError, r"token_ids\[0\]\[0\] must be between 0 and"),
    ("detokenize", [[np.array([-1])]], {}, ValueError, r"token_ids\[0\] must hold numbers between 0 and"),
    ("detokenize", [[np.array([0.5])]], {}, TypeError, r"token_ids\[0\] must be one row of token ids, not an array of shape \(1,\)"),
    ("detokenize", [[np.zeros((2, 2), int)]], {}, TypeError, r"token_ids\[0\] must be one row of token ids"),
    ("load_model", ["org/model"], {"task": "singing"}, ValueError, "task must be one of embedding, sparse_embedding"),
    ("load_model", ["org/model"], {"pipeline_task": None}, TypeError, "pipeline_task must be a str, not NoneType"),
]


@pytest.mark.parametrize(("method", "arguments", "options", "error", "text"), WRONG)
def test_wrong_arguments_are_refused_before_anything_is_sent(client, fake, method, arguments, options, error, text):
    with pytest.raises(error, match=text):
        getattr(client, method)(*arguments, **options)
    assert not fake.requests


async def _async_texts():
    yield "one"


@pytest.mark.parametrize(
    ("method", "advice"),
    [
        ("classify_text", r"hubwire\.aio\.Client\.stream_classify_text takes those"),
        ("classify_tokens", r"hubwire\.aio\.Client\.stream_classify_tokens takes those"),
        ("embed_sparse", r"hubwire\.aio\.Client\.stream_embed_sparse takes those"),
        ("fill_mask", "collect it into a list first"),
    ],
)
def test_an_async_iterable_is_refused_with_advice(client, fake, method, advice):
    with pytest.raises(TypeError, match=advice):
        getattr(client, method)(_async_texts())
    assert not fake.requests


@pytest.mark.parametrize("method", [one[0] for one in STREAMS])
async def test_an_async_iterable_is_streamed_by_the_asyncio_client(fake, method):
    async with hubwire.aio.Client(fake.address) as client:
        assert [number async for number, _ in getattr(client, method)(_async_texts())] == [0]


@pytest.mark.parametrize(
    ("names", "messages", "prefix", "enum"),
    [
        (_names.FunctionName, text_classification.FUNCTIONS, "CLASSIFICATION_FUNCTION_", text_classification_pb2.ClassificationFunction),
        (_names.AggregationName, token_classification.AGGREGATIONS, "AGGREGATION_", token_classification_pb2.Aggregation),
        (_names.ScoringName, rerank.SCORINGS, "RERANK_SCORING_", rerank_pb2.RerankScoring),
        (_names.TaskName, model.TASKS, "TASK_", model_pb2.Task),
    ],
)
def test_every_name_is_a_name_of_the_contract(names, messages, prefix, enum):
    assert set(get_args(names)) == set(messages)
    assert {prefix + name.upper(): number for name, number in messages.items()} == {
        name: number for name, number in enum.items() if not name.endswith("_UNSPECIFIED")
    }


def test_a_model_is_loaded_for_a_task(client, fake):
    client.load_model("org/model", task="rerank")
    client.load_model("org/model", pipeline_task="image-classification")
    assert fake.requests == [
        model_pb2.LoadModelRequest(source="org/model", task=model_pb2.TASK_RERANK),
        model_pb2.LoadModelRequest(source="org/model", pipeline_task="image-classification"),
    ]
