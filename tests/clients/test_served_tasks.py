"""Every understanding task through both clients to the real server, with the fake model behind it: client and server mean the same.

What the answers must be is tested where they are computed (tests/rpc, tests/parity); that client and server mean the same is tested here.
"""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest

import hubwire
from hubwire.cli import main
from hubwire_server.models.description import Task
from tests.clients.conftest import AioDoor
from tests.conftest import serve

CONTEXT = "w1 w2 w3 w4 w5 w6 w7 w8"


@pytest.fixture(scope="module")
def addresses():
    """The address of a server for each task, started when it is asked for."""
    with ExitStack() as stack:
        started: dict[Task, str] = {}

        def address(task: Task) -> str:
            if task not in started:
                labels = {"labels": ["contradiction", "entailment"]} if task is Task.ZERO_SHOT_CLASSIFICATION else {}
                labels = {"labels": ["O", "B-X", "I-X"]} if task is Task.TOKEN_CLASSIFICATION else labels
                started[task] = stack.enter_context(serve(task=task, description=labels)).address
            return started[task]

        yield address


@pytest.fixture(params=["sync", "aio"])
def door(request, addresses):
    """A function that opens a client of the server for a task, for each of both doors."""
    with ExitStack() as stack:

        def open_client(task: Task):
            kind = hubwire.Client if request.param == "sync" else AioDoor
            client = kind(addresses(task))
            stack.callback(client.close)
            return client

        yield open_client


def test_text_classification(door):
    client = door(Task.TEXT_CLASSIFICATION)
    texts = ["w1 w2", "w3", "w4 w5 w6"]
    found = client.classify_text(texts)
    for one in found:
        assert set(one.labels) == {"NEGATIVE", "POSITIVE"}
        assert one.scores.sum() == pytest.approx(1)
        assert one.scores[0] >= one.scores[1]
    streamed = dict(client.stream_classify_text(texts))
    assert [str(streamed[number]) for number in range(3)] == [str(one) for one in found]
    (best,) = client.classify_text(["w1 w2"], top_k=1)
    assert best.labels == found[0].labels[:1]
    paired, alone = client.classify_text(["w1", "w1"], ["w2", "w3"])
    assert paired.score != alone.score
    streamed = dict(client.stream_classify_text([("a", ("w1", "w2")), ("b", ("w1", "w3"))]))
    assert (streamed["a"].score, streamed["b"].score) == (paired.score, alone.score)
    with pytest.raises(hubwire.InvalidArgumentError) as caught:
        client.classify_text(["w1"], labels=["JOY"])
    assert caught.value.reason == "LABEL_NOT_FOUND"
    assert "POSITIVE" in caught.value.metadata["available"]


def test_zero_shot_classification(door):
    client = door(Task.ZERO_SHOT_CLASSIFICATION)
    (one,) = client.classify_zero_shot(["w1 w2"], ["w3", "w4", "w5"], hypothesis_template="w9 {}")
    assert set(one.labels) == {"w3", "w4", "w5"}
    assert one.scores.sum() == pytest.approx(1)
    (several,) = client.classify_zero_shot(["w1 w2"], ["w3", "w4", "w5"], multi_label=True)
    assert all(0 < score < 1 for score in several.scores)
    with pytest.raises(hubwire.InvalidArgumentError) as caught:
        client.classify_zero_shot(["w1"], ["w3", "w3"])
    assert (caught.value.reason, caught.value.field) == ("VALUE_REPEATED", "candidate_labels[1]")


def test_token_classification(door):
    client = door(Task.TOKEN_CLASSIFICATION)
    texts = ["🌍 w1 w2 w3 w4", "w5 w6"]
    found = client.classify_tokens(texts, aggregation="none", ignored_labels=[])
    for text, entities in zip(texts, found, strict=True):
        assert [text[one.start : one.end] for one in entities] == [one.text for one in entities] == text.split()
        assert all(one.words is None for one in entities)
    streamed = dict(client.stream_classify_tokens(texts, aggregation="none", ignored_labels=[]))
    assert [streamed[0], streamed[1]] == found
    (of_words,) = client.classify_tokens(words=[["w1", "w2"]], aggregation="none", ignored_labels=[])
    assert [one.words for one in of_words] == [(0, 1), (1, 2)]
    long = " ".join(["w1 w2 w3"] * 40)
    with pytest.raises(hubwire.InvalidArgumentError) as caught:
        client.classify_tokens([long])
    assert caught.value.reason == "TEXT_TOO_LONG"
    (entities,) = client.classify_tokens([long], windows=True, stride=4, ignored_labels=[])
    assert all(long[one.start : one.end] == one.text for one in entities)
    assert entities[-1].end == len(long)


def test_question_answering(door):
    client = door(Task.QUESTION_ANSWERING)
    first, second = client.answer_questions(["w9 w8", "w7"], CONTEXT, top_k=3)
    for one in (first, second):
        assert 0 < len(one.answers) <= 3
        assert [CONTEXT[answer.start : answer.end] for answer in one.answers] == [answer.text for answer in one.answers]
        scores = [answer.score for answer in one.answers]
        assert scores == sorted(scores, reverse=True)
    with pytest.raises(hubwire.InvalidArgumentError) as caught:
        client.answer_questions(["w1", "w2"], ["w1", "w2", "w3"])
    assert caught.value.reason == "COUNT_MISMATCH"


def test_fill_mask(door):
    client = door(Task.FILL_MASK)
    ((only,), (first, second)) = client.fill_mask(["w1 [MASK] w2", "[MASK] w3 [MASK]"], top_k=4)
    assert (only.start, only.end) == (3, 9)
    assert len(only.tokens) == len(only.sequences) == 4
    assert list(only.scores) == sorted(only.scores, reverse=True)
    assert only.token_ids.shape == (4,)
    assert (first.start, second.start) == (0, 10)
    with pytest.raises(hubwire.InvalidArgumentError) as caught:
        client.fill_mask(["w1"])
    assert (caught.value.reason, caught.value.metadata["mask_token"]) == ("MASK_NOT_FOUND", "[MASK]")
    ((limited,),) = client.fill_mask(["w1 [MASK]"], targets=["w5", "w6"])
    assert set(limited.tokens) == {"w5", "w6"}


def test_rerank(door):
    client = door(Task.RERANK)
    documents = ["w1 w2", "w3", "w4 w5", "w6"]
    ranked = client.rerank("w9", documents)
    assert sorted(one.index for one in ranked) == [0, 1, 2, 3]
    assert all(one.document == documents[one.index] for one in ranked)
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    assert client.rerank("w9", documents, top_n=2) == ranked[:2]
    raw = client.rerank("w9", documents, scoring="raw")
    assert [one.index for one in raw] == [one.index for one in ranked]


def test_sparse_embedding(door):
    client = door(Task.SPARSE_EMBEDDING)
    texts = ["w1 w2", "w3"]
    vectors = client.embed_sparse(texts, return_tokens=True)
    for one in vectors:
        assert len(one.indices) == len(one.values) == len(one.tokens) > 0
        assert (np.diff(one.indices) > 0).all()
        assert (one.values > 0).all()
        assert one.indices[-1] < one.dimensions
    streamed = dict(client.stream_embed_sparse(texts, max_terms=3))
    assert [len(streamed[number].indices) for number in range(2)] == [3, 3]


@pytest.mark.parametrize("task", [Task.EMBEDDING, Task.TEXT_CLASSIFICATION])
def test_tokenization(door, task):
    client = door(task)
    one, pair = client.tokenize(["w1  w2", "w3"], ["", "w4"])
    assert pair.tokens == ("[CLS]", "w3", "[SEP]", "w4", "[SEP]")
    assert pair.sequence_ids.tolist() == [-1, 0, -1, 1, -1]
    (alone,) = client.tokenize(["w1  w2"])
    assert alone.spans.tolist() == [[0, 0], [0, 2], [4, 6], [0, 0]]
    assert alone.special_tokens_mask.tolist() == [True, False, False, True]
    (ids,) = client.tokenize(["w1  w2"], ids_only=True)
    np.testing.assert_array_equal(ids.token_ids, alone.token_ids)
    (cut,) = client.tokenize(["w1 w2 w3"], truncate=True, max_tokens=3)
    assert (cut.token_ids.shape, cut.token_count) == ((3,), 5)
    assert client.detokenize([alone.token_ids, pair.token_ids]) == ["w1 w2", "w3 w4"]
    assert client.count_tokens(["w1  w2", ""]).tolist() == [4, 2]
    assert one.token_count == len(one.token_ids)


def test_a_model_of_another_task_is_refused(door):
    with pytest.raises(hubwire.HubwireError) as caught:
        door(Task.TEXT_CLASSIFICATION).fill_mask(["w1 [MASK]"])
    assert caught.value.reason in {"MODEL_NOT_FOUND", "OPTION_NOT_SUPPORTED"}


def test_pipelines_are_listed(door):
    tasks = {one.name: one.service for one in door(Task.EMBEDDING).list_pipelines()}
    assert tasks["image-classification"] == ""
    assert tasks["text-classification"] == "hubwire.v1.TextClassificationService"


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        (Task.TEXT_CLASSIFICATION, ["classify", "w1 w2"]),
        (Task.ZERO_SHOT_CLASSIFICATION, ["classify", "w1 w2", "--candidate-label", "w3", "--candidate-label", "w4"]),
        (Task.TOKEN_CLASSIFICATION, ["tokens", "w1 w2"]),
        (Task.QUESTION_ANSWERING, ["answer", "w1 w2", "--context", CONTEXT]),
        (Task.FILL_MASK, ["fill", "w1 [MASK]"]),
        (Task.RERANK, ["rerank", "--query", "w1", "w2", "w3"]),
        (Task.EMBEDDING, ["tokenize", "w1 w2"]),
        (Task.EMBEDDING, ["pipeline", "--list"]),
    ],
)
def test_every_command_prints_what_the_server_answers(addresses, capsys, monkeypatch, task, arguments):
    monkeypatch.setenv("HUBWIRE_ADDRESS", addresses(task))
    monkeypatch.setenv("GRPC_VERBOSITY", "NONE")
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert err == ""
