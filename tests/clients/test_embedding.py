"""Embed and EmbedTokens through both clients: what goes out, and what comes back."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest

import hubwire
from hubwire import _names
from hubwire._calls import embedding as calls
from hubwire._stream import StreamWindow
from hubwire.v1 import common_pb2, embedding_pb2

DIMENSIONS = 10
TEXTS = ["one", "two words", "drei Wörter 🌍"]


@pytest.fixture
def expected(numbers):
    return np.stack([numbers(text) for text in TEXTS])


@pytest.mark.parametrize(
    ("encoding", "tolerance", "on_the_wire"),
    [
        pytest.param("float32", 0, common_pb2.VECTOR_ENCODING_FLOAT32_BYTES, id="float32 comes back exactly"),
        pytest.param("float16", 1e-3, common_pb2.VECTOR_ENCODING_FLOAT16_BYTES, id="float16 comes back to three digits"),
        pytest.param("int8", 1 / 127, common_pb2.VECTOR_ENCODING_INT8_BYTES, id="int8 comes back to one part in 127"),
    ],
)
def test_float_encodings_are_restored(client, fake, expected, encoding, tolerance, on_the_wire):
    vectors = client.embed(TEXTS, encoding=encoding)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=tolerance)
    assert fake.requests[0].options.encoding == on_the_wire
    vectors *= 2  # the caller owns the memory


def test_binary_comes_back_packed(client, expected):
    vectors = client.embed(TEXTS, encoding="binary")
    assert vectors.shape == (len(TEXTS), 2)
    assert vectors.dtype == np.uint8
    np.testing.assert_array_equal(vectors, np.packbits(expected > 0, axis=1))


def test_one_text_gives_one_row(client):
    assert client.embed(["one"]).shape == (1, DIMENSIONS)


def test_texts_may_be_any_iterable(client):
    assert client.embed(text for text in TEXTS).shape == (len(TEXTS), DIMENSIONS)


async def _async_texts():
    yield "one"


@pytest.mark.parametrize(
    ("texts", "advice"),
    [
        pytest.param("one text", r"pass \[text\]", id="a str"),
        pytest.param(b"bytes", r"pass \[text\]", id="bytes"),
        pytest.param(bytearray(b"bytes"), r"pass \[text\]", id="a bytearray"),
        pytest.param(None, "an iterable of texts, not NoneType", id="nothing"),
        pytest.param(3, "an iterable of texts, not int", id="a number"),
        pytest.param({"one", "two"}, "a set, which has no order: pass a list", id="a set"),
        pytest.param(frozenset({"one"}), "a frozenset, which has no order", id="a frozenset"),
        pytest.param({"id": "one"}, r"not a dict: pass its (values|items)\(\)", id="a dict"),
    ],
)
@pytest.mark.parametrize("method", ["embed", "embed_tokens", "stream_embed"])
def test_what_is_no_list_of_texts_is_refused_with_advice(client, fake, method, texts, advice):
    with pytest.raises(TypeError, match=advice):
        getattr(client, method)(texts)
    assert not fake.requests


@pytest.mark.parametrize("method", ["embed", "embed_tokens"])
def test_an_async_iterable_is_for_streams(client, fake, method):
    with pytest.raises(TypeError, match=r"hubwire\.aio\.Client\.stream_embed takes those"):
        getattr(client, method)(_async_texts())
    assert not fake.requests


def test_an_async_iterable_is_for_the_asyncio_client(fake):
    with hubwire.Client(fake.address) as client, pytest.raises(TypeError, match=r"hubwire\.aio\.Client\.stream_embed takes those"):
        client.stream_embed(_async_texts())


def test_the_order_of_a_dict_is_an_order(client):
    texts = {"a": "one", "b": "two"}
    assert client.embed(texts.values()).shape == (2, DIMENSIONS)
    assert client.embed(dict.fromkeys(texts.values()).keys()).shape == (2, DIMENSIONS)
    assert {name for name, _ in client.stream_embed(texts.items())} == {"a", "b"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({}, {}, id="nothing is asked for"),
        pytest.param({"pooling": "cls"}, {"pooling": embedding_pb2.POOLING_CLS}, id="pooling"),
        pytest.param({"normalize": True}, {"normalize": True}, id="normalize"),
        pytest.param({"normalize": False}, {"normalize": False}, id="not normalizing is not the default"),
        pytest.param({"truncate": False}, {}, id="no truncation"),
        pytest.param({"truncate": True}, {"truncation": {"side": common_pb2.TRUNCATION_SIDE_RIGHT}}, id="truncation is at the right"),
        pytest.param({"truncate": "left"}, {"truncation": {"side": common_pb2.TRUNCATION_SIDE_LEFT}}, id="truncation at the left"),
        pytest.param(
            {"truncate": "right", "max_tokens": 7},
            {"truncation": {"side": common_pb2.TRUNCATION_SIDE_RIGHT, "max_tokens": 7}},
            id="truncation to a number of tokens",
        ),
        pytest.param({"dimensions": 4}, {"dimensions": 4}, id="dimensions"),
        pytest.param({"dimensions": np.int64(4)}, {"dimensions": 4}, id="dimensions as numpy counts them"),
        pytest.param({"prompt_name": "query"}, {"prompt_name": "query"}, id="a prompt by name"),
        pytest.param({"prompt": "find: "}, {"prompt": "find: "}, id="a prompt by value"),
        pytest.param({"prompt": ""}, {"prompt": ""}, id="an empty prompt is sent, it means none"),
    ],
)
@pytest.mark.parametrize("method", ["embed", "stream_embed"])
def test_options_reach_the_server(client, fake, method, options, message):
    results = getattr(client, method)(["one"], model="small", **options)
    list(results)
    sent = fake.requests[0] if method == "embed" else fake.requests[0].options
    assert sent.model == "small"
    expected = embedding_pb2.EmbedOptions(encoding=common_pb2.VECTOR_ENCODING_FLOAT32_BYTES, **message)
    assert sent.options == expected


def test_every_pooling_name_is_the_name_of_the_contract():
    names = {"POOLING_" + name.upper() for name in get_args(_names.PoolingName)}
    assert names == set(embedding_pb2.Pooling.keys()) - {"POOLING_UNSPECIFIED"}
    for name in get_args(_names.PoolingName):
        assert calls.embed_options(pooling=name).pooling == embedding_pb2.Pooling.Value("POOLING_" + name.upper())


def test_every_encoding_can_be_sent_and_read():
    for name in get_args(_names.EncodingName):
        assert name in calls._DTYPES
        assert calls.embed_options(encoding=name).encoding


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        pytest.param({"pooling": "median"}, ValueError, "pooling must be one of mean, max", id="an unknown pooling"),
        pytest.param({"encoding": "float64"}, ValueError, "encoding must be one of float32", id="an unknown encoding"),
        pytest.param({"truncate": "middle"}, ValueError, "truncate must be one of right, left", id="an unknown side"),
        pytest.param({"max_tokens": 5}, ValueError, "pass truncate=True", id="max_tokens without truncation"),
        pytest.param({"prompt": "a", "prompt_name": "b"}, ValueError, "not both", id="two prompts"),
        pytest.param({"dimensions": -1}, ValueError, "dimensions must be between", id="negative dimensions"),
        pytest.param({"dimensions": 1.5}, TypeError, "dimensions must be an int", id="dimensions that are no int"),
        pytest.param({"dimensions": True}, TypeError, "dimensions must be an int", id="dimensions that are a bool"),
        pytest.param({"timeout_s": -1}, ValueError, "timeout_s must be 0 or more", id="a negative timeout"),
        pytest.param({"timeout_s": float("nan")}, ValueError, "timeout_s must be 0 or more", id="a timeout of NaN"),
        pytest.param({"timeout_s": "3"}, TypeError, "timeout_s must be a number of seconds or None, not '3'", id="a timeout of text"),
        pytest.param({"model": 3}, TypeError, "model must be a str, not int", id="a model that is no text"),
        pytest.param({"model": None}, TypeError, "model must be a str, not NoneType", id="no model"),
        pytest.param({"normalize": "yes"}, TypeError, "normalize must be True or False, not 'yes'", id="normalize that is no bool"),
        pytest.param({"pooling": 3}, TypeError, "pooling must be one of mean, max", id="a pooling that is no text"),
        pytest.param({"encoding": ["int8"]}, TypeError, "encoding must be one of float32", id="a list of encodings"),
        pytest.param({"truncate": 1}, TypeError, "truncate must be one of right, left", id="truncate that is a number"),
        pytest.param({"prompt": 3}, TypeError, "prompt must be a str", id="a prompt that is no text"),
        pytest.param({"prompt_name": 3}, TypeError, "prompt_name must be a str", id="a prompt name that is no text"),
        pytest.param({"prompt": "\ud800"}, ValueError, "prompt cannot be sent", id="a prompt with a lone surrogate"),
    ],
)
@pytest.mark.parametrize("method", ["embed", "stream_embed"])
def test_wrong_arguments_are_refused_before_anything_is_sent(client, fake, method, options, error, text):
    with pytest.raises(error, match=text):
        getattr(client, method)(["one"], **options)
    assert not fake.requests


def test_a_text_that_is_no_text_is_named(client):
    with pytest.raises(TypeError, match=r"texts\[1\] must be a str, not NoneType"):
        client.embed(["one", None])


@pytest.mark.parametrize("method", ["embed", "embed_tokens"])
def test_a_text_that_utf8_cannot_hold_is_named(client, fake, method):
    with pytest.raises(ValueError, match=r"^texts\[1\] cannot be sent: its character 3 is the lone surrogate U\+D800$"):
        getattr(client, method)(["one", "tw\xf6\ud800"])
    assert not fake.requests


def test_numpys_bool_is_a_bool(client, fake):
    client.embed(["one"], normalize=np.bool_(False))
    assert fake.requests[0].options.HasField("normalize")
    assert not fake.requests[0].options.normalize


def test_tokens_carry_ids_spans_and_mask(client, fake, numbers):
    first, second = client.embed_tokens(["ab", "c"], model="small", normalize=True, truncate="left", max_tokens=5)
    assert isinstance(first, hubwire.TokenEmbeddings)
    np.testing.assert_array_equal(first.vectors, np.stack([numbers("[CLS]"), numbers("a"), numbers("b")]))
    assert first.vectors.dtype == np.float32
    np.testing.assert_array_equal(first.token_ids, [0, 1, 2])
    np.testing.assert_array_equal(first.spans, [[0, 0], [0, 1], [1, 2]])
    np.testing.assert_array_equal(first.special_tokens_mask, [True, False, False])
    assert second.vectors.shape == (2, DIMENSIONS)
    assert fake.requests[0] == embedding_pb2.EmbedTokensRequest(
        model="small",
        texts=["ab", "c"],
        options=embedding_pb2.EmbedTokensOptions(
            normalize=True,
            encoding=common_pb2.VECTOR_ENCODING_FLOAT32_BYTES,
            truncation=common_pb2.Truncation(side=common_pb2.TRUNCATION_SIDE_LEFT, max_tokens=5),
            offset_unit=common_pb2.OFFSET_UNIT_CODE_POINT,
        ),
    )


@pytest.mark.parametrize("normalize", [None, False, True])
def test_only_what_was_asked_about_tokens_is_sent(client, fake, normalize):
    client.embed_tokens(["ab"], normalize=normalize)
    assert fake.requests[0].options == embedding_pb2.EmbedTokensOptions(
        normalize=normalize, encoding=common_pb2.VECTOR_ENCODING_FLOAT32_BYTES, offset_unit=common_pb2.OFFSET_UNIT_CODE_POINT
    )


@pytest.mark.parametrize(("encoding", "tolerance"), [("float16", 1e-3), ("int8", 1 / 127)])
def test_tokens_are_restored_from_smaller_encodings(client, numbers, encoding, tolerance):
    (tokens,) = client.embed_tokens(["ab"], encoding=encoding)
    expected = np.stack([numbers("[CLS]"), numbers("a"), numbers("b")])
    np.testing.assert_allclose(tokens.vectors, expected, rtol=0, atol=tolerance)


def test_binary_tokens_are_rows_of_whole_bytes(client, numbers):
    (tokens,) = client.embed_tokens(["ab"], encoding="binary")
    expected = np.packbits(np.stack([numbers("[CLS]"), numbers("a"), numbers("b")]) > 0, axis=1)
    np.testing.assert_array_equal(tokens.vectors, expected)


def read_vectors(response):
    return calls.embed(["one"], "", calls.embed_options(), "float32").decode(response)


def read_result(result):
    window = StreamWindow(batch_size=1, max_in_flight=1)
    question = calls.stream_embed("", calls.embed_options(), "float32", ordered=False, window=window)
    return question.outcome(result, embedding_pb2.StreamEmbedResponse(dimensions=1))


def read_tokens(response, encoding="float32"):
    question = calls.embed_tokens(["one"], model="", normalize=None, truncate=None, max_tokens=None, encoding=encoding)
    return question.decode(response)


@pytest.mark.parametrize(
    "decode",
    [
        pytest.param(
            lambda: read_vectors(embedding_pb2.EmbedResponse(dimensions=2)),
            id="fewer vectors than texts",
        ),
        pytest.param(
            lambda: read_vectors(embedding_pb2.EmbedResponse(vectors=[{"data": b"123"}], dimensions=1)),
            id="a vector of the wrong size",
        ),
        pytest.param(
            lambda: read_vectors(embedding_pb2.EmbedResponse(vectors=[{"values": [1.0]}], dimensions=1)),
            id="a vector in another encoding",
        ),
        pytest.param(
            lambda: read_result(embedding_pb2.StreamEmbedResult(id="0")),
            id="a result with no outcome",
        ),
        pytest.param(
            lambda: read_tokens(embedding_pb2.EmbedTokensResponse(embeddings=[{"token_ids": [1]}])),
            id="a token without a span",
        ),
        pytest.param(
            lambda: read_tokens(embedding_pb2.EmbedTokensResponse()),
            id="fewer texts than were sent",
        ),
    ],
)
def test_an_answer_that_breaks_the_contract_is_an_internal_error(decode):
    with pytest.raises(hubwire.InternalError, match="the server"):
        decode()


def test_no_tokens_and_no_texts_are_empty_arrays():
    response = embedding_pb2.EmbedTokensResponse(embeddings=[{}], dimensions=4)
    for encoding, width in zip(get_args(_names.EncodingName), itertools.chain([4, 4, 4, 1]), strict=True):
        (tokens,) = read_tokens(response, encoding)
        assert tokens.vectors.shape == (0, width)
        assert tokens.spans.shape == (0, 2)


def test_the_client_names_itself_and_sends_metadata(connect, fake):
    connect(metadata={"Authorization": "Bearer secret"}).embed(["one"])
    assert fake.metadata["user-agent"].startswith(f"hubwire-python/{hubwire.__version__} ")
    assert fake.metadata["authorization"] == "Bearer secret"


def test_answers_above_grpcs_default_limit_arrive(client, numbers):
    texts = ["a", "b", "c"]
    vectors = client.embed(texts, dimensions=1_000_000)
    assert vectors.nbytes == 12_000_000
    np.testing.assert_array_equal(vectors, np.stack([numbers(text, 1_000_000) for text in texts]))
