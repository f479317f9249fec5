"""TokenizationService over gRPC, with the fake model: what comes back for what is asked."""

from __future__ import annotations

import pytest

from hubwire.v1 import common_pb2, tokenization_pb2, tokenization_pb2_grpc
from hubwire_server.models.description import Task
from tests.conftest import serve
from tests.rpc.fake_words import IDS

TEXTS = ["w1", "", "w2 w3  w4", "unknown 🦊 w5"]


@pytest.fixture
def stub(server) -> tokenization_pb2_grpc.TokenizationServiceStub:
    return tokenization_pb2_grpc.TokenizationServiceStub(server.channel)


def tokenize(stub, *texts: str, pairs=(), **options) -> tokenization_pb2.TokenizeResponse:
    request = tokenization_pb2.TokenizeRequest(texts=texts, text_pairs=pairs, options=tokenization_pb2.TokenizeOptions(**options))
    return stub.Tokenize(request, timeout=60)


def test_a_text_has_ids_words_spans_and_the_mask_of_special_tokens(stub):
    response = tokenize(stub, *TEXTS)
    assert [list(text.tokens) for text in response.texts] == [
        ["[CLS]", "w1", "[SEP]"],
        ["[CLS]", "[SEP]"],
        ["[CLS]", "w2", "w3", "w4", "[SEP]"],
        ["[CLS]", "[UNK]", "[UNK]", "w5", "[SEP]"],
    ]
    for text in response.texts:
        count = len(text.tokens)
        assert list(text.token_ids) == [IDS[token] for token in text.tokens]
        assert list(text.special_tokens_mask) == [True, *[False] * (count - 2), True]
        assert list(text.sequence_ids) == [-1, *[0] * (count - 2), -1]
        assert list(text.type_ids) == [0] * count
        assert text.token_count == count
    assert [(span.start, span.end) for span in response.texts[2].spans] == [(0, 0), (0, 2), (3, 5), (7, 9), (0, 0)]
    assert (response.model.name, response.model.fingerprint) == ("fake", "00000000000000fa")
    assert (response.usage.input_tokens, response.usage.truncated_texts) == (15, 0)
    assert 0 < response.timings.tokenize_nanos < response.timings.total_nanos
    assert response.timings.decode_nanos + response.timings.tokenize_nanos + response.timings.encode_nanos <= response.timings.total_nanos


def test_a_pair_has_two_segments(stub):
    (text,) = tokenize(stub, "w1 w2", pairs=["w3"]).texts
    assert list(text.tokens) == ["[CLS]", "w1", "w2", "[SEP]", "w3", "[SEP]"]
    assert list(text.type_ids) == [0, 0, 0, 0, 1, 1]
    assert list(text.sequence_ids) == [-1, 0, 0, -1, 1, -1]
    assert [(span.start, span.end) for span in text.spans] == [(0, 0), (0, 2), (3, 5), (0, 0), (0, 2), (0, 0)]


@pytest.mark.parametrize(
    ("unit", "cut"),
    [
        (common_pb2.OFFSET_UNIT_CODE_POINT, lambda text, start, end: text[start:end]),
        (common_pb2.OFFSET_UNIT_UTF8_BYTE, lambda text, start, end: text.encode()[start:end].decode()),
        (common_pb2.OFFSET_UNIT_UTF16_UNIT, lambda text, start, end: text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le")),
    ],
)
def test_spans_cut_the_words_out_of_the_text_in_each_unit(stub, unit, cut):
    text = "👩‍👩‍👧‍👦 e\u0301te\u0301 שלום 𝒳𝒴 w1 " + "日本 " * 5
    (answer,) = tokenize(stub, text, offset_unit=unit).texts
    assert [cut(text, span.start, span.end) for span in answer.spans[1:-1]] == text.split()


def test_spans_and_ids_of_several_bytes_arrive(stub):
    text = " ".join(["w999", "x" * 200, "w500", "y" * 20_000, "w0"])
    (answer,) = tokenize(stub, text).texts
    assert [text[span.start : span.end] for span in answer.spans[1:-1]] == text.split()
    assert list(answer.token_ids) == [1, IDS["w999"], 0, IDS["w500"], 0, IDS["w0"], 2]


def test_truncation_cuts_either_end_and_says_how_long_the_text_was(stub):
    for side, words in ((common_pb2.TRUNCATION_SIDE_RIGHT, ["w0", "w1"]), (common_pb2.TRUNCATION_SIDE_LEFT, ["w8", "w9"])):
        response = tokenize(stub, " ".join(f"w{index}" for index in range(10)), "w1", truncation={"side": side, "max_tokens": 4})
        assert list(response.texts[0].tokens) == ["[CLS]", *words, "[SEP]"]
        assert [text.token_count for text in response.texts] == [12, 3]
        assert response.usage.truncated_texts == 1


def test_nothing_is_cut_unless_the_caller_says_so(stub):
    response = tokenize(stub, "w1 " * 500)
    assert len(response.texts[0].token_ids) == 502  # the model reads 32
    assert len(tokenize(stub, "w1 " * 500, truncation={}).texts[0].token_ids) == 32


def test_special_tokens_and_everything_but_ids_can_be_left_out(stub):
    response = tokenize(stub, *TEXTS, skip_special_tokens=True, ids_only=True)
    assert [list(text.token_ids) for text in response.texts] == [
        [IDS["w1"]],
        [],
        [IDS[f"w{number}"] for number in (2, 3, 4)],
        [0, 0, IDS["w5"]],
    ]
    for text in response.texts:
        assert [field.name for field, _ in text.ListFields()] == (["token_ids", "token_count"] if text.token_ids else [])


def test_a_large_request_gives_what_each_text_gives_alone(stub):
    texts = [f"w{index} unknown " * (index % 30) for index in range(1_000)]
    together = tokenize(stub, *texts)
    for index in range(0, 1_000, 83):
        assert together.texts[index] == tokenize(stub, texts[index]).texts[0]


def test_ids_become_text_again(stub):
    texts = ["w1 w2", "", "w3"]
    ids = [tokenization_pb2.TokenIds(token_ids=text.token_ids) for text in tokenize(stub, *texts).texts]
    assert list(stub.Detokenize(tokenization_pb2.DetokenizeRequest(texts=ids), timeout=60).texts) == texts
    kept = stub.Detokenize(tokenization_pb2.DetokenizeRequest(texts=ids, keep_special_tokens=True), timeout=60)
    assert list(kept.texts) == ["[CLS] w1 w2 [SEP]", "[CLS] [SEP]", "[CLS] w3 [SEP]"]
    assert kept.model.name == "fake"


def test_many_ids_become_text_again(stub):
    ids = [tokenization_pb2.TokenIds(token_ids=[IDS[f"w{index}"]] * 50) for index in range(1_000)]
    answer = stub.Detokenize(tokenization_pb2.DetokenizeRequest(texts=ids), timeout=60)
    assert list(answer.texts) == [" ".join([f"w{index}"] * 50) for index in range(1_000)]


def test_counts_are_those_of_the_tokens(stub):
    request = tokenization_pb2.CountTokensRequest(texts=[*TEXTS, "w1 " * 500])
    answer = stub.CountTokens(request, timeout=60)
    assert list(answer.token_counts) == [3, 2, 5, 5, 502]
    assert (answer.max_tokens, answer.model.name) == (32, "fake")
    pairs = tokenization_pb2.CountTokensRequest(texts=["w1", "w1 w2"], text_pairs=["w3", ""], skip_special_tokens=True)
    assert list(stub.CountTokens(pairs, timeout=60).token_counts) == [2, 2]


@pytest.mark.parametrize("task", [Task.TOKEN_CLASSIFICATION, Task.FILL_MASK])
def test_a_model_of_any_task_will_do(task):
    with serve(task=task) as server:
        stub = tokenization_pb2_grpc.TokenizationServiceStub(server.channel)
        assert len(tokenize(stub, "w1").texts) == 1
