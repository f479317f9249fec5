"""TokenClassificationService over gRPC, with the fake model: what comes back for what is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hubwire.v1 import token_classification_pb2 as pb
from hubwire.v1 import token_classification_pb2_grpc as pb_grpc
from hubwire_server.models.description import Task
from hubwire_server.services import token_classification
from tests.conftest import serve
from tests.rpc.conftest import read_status

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TEXTS = ["w1 w2 w3", "🦊 w4 é\u0301", "w5"]
Stub = pb_grpc.TokenClassificationServiceStub


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with serve(task=Task.TOKEN_CLASSIFICATION, description={"labels": LABELS}) as running:
        yield Stub(running.channel)


def classify(stub: Stub, *texts: str, split=(), **options) -> pb.ClassifyTokensResponse:
    request = pb.ClassifyTokensRequest(
        texts=texts, split_texts=[pb.Words(words=words) for words in split], options=pb.ClassifyTokensOptions(**options)
    )
    return stub.ClassifyTokens(request, timeout=30)


def every_token(stub: Stub, *texts: str, **options) -> pb.ClassifyTokensResponse:
    return classify(stub, *texts, aggregation="AGGREGATION_NONE", ignored_labels={}, **options)


def test_an_answer_says_who_answered_what_it_cost_and_how_long_it_took(stub):
    response = every_token(stub, *TEXTS)
    assert [[entity.text for entity in found.entities] for found in response.classifications] == [text.split() for text in TEXTS]
    assert {entity.label for found in response.classifications for entity in found.entities} <= set(LABELS)
    assert (response.model.name, response.model.fingerprint) == ("fake", "00000000000000fa")
    assert (response.usage.input_tokens, response.usage.truncated_texts) == (sum(len(text.split()) + 2 for text in TEXTS), 0)
    timings = response.timings
    assert 0 < timings.tokenize_nanos < timings.total_nanos
    assert timings.decode_nanos + timings.compute_nanos + timings.encode_nanos < timings.total_nanos
    assert timings.encode_nanos > 0


def test_an_entity_has_words_where_the_caller_split_the_text(stub):
    (found,) = classify(stub, split=[["w1", "w2"]], aggregation="AGGREGATION_NONE", ignored_labels={}).classifications
    assert [(entity.text, entity.span.start, entity.span.end, entity.words.start, entity.words.end) for entity in found.entities] == [
        ("w1", 0, 2, 0, 1),
        ("w2", 3, 5, 1, 2),
    ]
    (plain,) = every_token(stub, "w1 w2").classifications
    assert not any(entity.HasField("words") for entity in plain.entities)
    assert [entity.score for entity in plain.entities] == [entity.score for entity in found.entities]


def test_the_default_aggregation_is_simple_and_leaves_out_the_label_o(stub):
    texts = [f"w{index} w{index + 1} w{index + 2}" for index in range(60)]
    default = classify(stub, *texts).classifications
    assert default == classify(stub, *texts, aggregation="AGGREGATION_SIMPLE", ignored_labels={"labels": ["O"]}).classifications
    labels = {entity.label for found in default for entity in found.entities}
    assert labels == {"PER", "LOC"}
    everything = classify(stub, *texts, ignored_labels={}).classifications
    assert {entity.label for found in everything for entity in found.entities} == {"O", "PER", "LOC"}


@pytest.mark.parametrize("unit", ["OFFSET_UNIT_CODE_POINT", "OFFSET_UNIT_UTF8_BYTE", "OFFSET_UNIT_UTF16_UNIT"])
def test_spans_are_in_the_unit_of_the_request(stub, unit):
    encoding, size = {"P": ("utf-32-le", 4), "8": ("utf-8", 1), "1": ("utf-16-le", 2)}["P" if "POINT" in unit else unit[15]]
    for text, found in zip(TEXTS, every_token(stub, *TEXTS, offset_unit=unit).classifications, strict=True):
        encoded = text.encode(encoding)
        cut = [encoded[entity.span.start * size : entity.span.end * size].decode(encoding) for entity in found.entities]
        assert cut == [entity.text for entity in found.entities] == text.split()


def test_texts_that_are_cut_are_counted(stub):
    response = every_token(stub, " ".join(["w1"] * 99), "w1", truncation={"max_tokens": 5})
    assert [len(found.entities) for found in response.classifications] == [3, 1]
    assert (response.usage.input_tokens, response.usage.truncated_texts) == (8, 1)


def test_a_large_answer_is_written_in_a_thread_as_a_small_one_is(stub, monkeypatch):
    texts = [f"w{index} w{index + 1}" for index in range(50)]
    small = every_token(stub, *texts).classifications
    monkeypatch.setattr(token_classification, "INLINE_ENCODE_ENTITIES", 10)
    assert every_token(stub, *texts).classifications == small


@pytest.mark.parametrize("ordered", [True, False])
def test_a_stream_answers_every_item_once_and_one_that_fails_spoils_no_other(stub, ordered):
    texts = [f"w{index} w{index * 2 + 1}" for index in range(40)]
    bad = {7: "", 12: "nan", 20: " ".join(["w1"] * 99)}
    sent = [bad.get(index, text) for index, text in enumerate(texts)]
    options = pb.StreamClassifyTokensOptions(options=pb.ClassifyTokensOptions(ignored_labels={}), ordered=ordered)
    items = [pb.StreamClassifyTokensItem(id=str(index), text=text) for index, text in enumerate(sent)]
    requests = [pb.StreamClassifyTokensRequest(options=options)]
    requests += [pb.StreamClassifyTokensRequest(items={"items": items[low : low + 7]}) for low in range(0, 40, 7)]
    responses = list(stub.StreamClassifyTokens(iter(requests), timeout=60))
    results = [result for response in responses for result in response.results]
    assert all(response.model.name == "fake" and response.timings.total_nanos for response in responses)
    assert sorted(int(result.id) for result in results) == list(range(40))
    assert not ordered or [int(result.id) for result in results] == list(range(40))
    by_id = {int(result.id): result for result in results}
    reasons = {index: read_status(by_id[index].error).reason for index in bad}
    assert reasons == {7: "TEXT_EMPTY", 12: "OUTPUT_NOT_FINITE", 20: "TEXT_TOO_LONG"}
    assert {read_status(by_id[index].error).field for index in (7, 20)} == {"text"}
    expected = classify(stub, *(text for index, text in enumerate(texts) if index not in bad), ignored_labels={}).classifications
    assert [by_id[index].classification for index in range(40) if index not in bad] == list(expected)
