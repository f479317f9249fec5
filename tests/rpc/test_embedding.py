"""EmbeddingService over gRPC, with the fake model: what comes back for what is asked."""

from __future__ import annotations

import gc
import random
import time

import grpc
import numpy as np
import pytest

import hubwire
from hubwire.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc
from hubwire_server.settings import Settings
from hubwire_server.tasks.embedding import EmbedRequest
from tests.conftest import serve
from tests.rpc.conftest import read_error, read_status

TEXTS = ["w1", "w2 w3 w4", "w5 unknown w6 w7 w8 w9"]
ENCODINGS = {
    common_pb2.VECTOR_ENCODING_FLOAT32_BYTES: "<f4",
    common_pb2.VECTOR_ENCODING_FLOAT16_BYTES: "<f2",
    common_pb2.VECTOR_ENCODING_INT8_BYTES: "i1",
}


def ask(embedding, texts, **options):
    return embedding.Embed(embedding_pb2.EmbedRequest(texts=texts, options=embedding_pb2.EmbedOptions(**options)), timeout=30)


def matrix(response) -> np.ndarray:
    return np.array([vector.values for vector in response.vectors], dtype=np.float32)


def items(*entries: tuple[str, str]) -> embedding_pb2.StreamEmbedRequest:
    return embedding_pb2.StreamEmbedRequest(
        items=embedding_pb2.StreamEmbedItems(items=[embedding_pb2.StreamEmbedItem(id=id_, text=text) for id_, text in entries])
    )


def options(**fields) -> embedding_pb2.StreamEmbedRequest:
    return embedding_pb2.StreamEmbedRequest(options=embedding_pb2.StreamEmbedOptions(**fields))


def test_an_answer_carries_vectors_model_usage_and_timings(embedding):
    response = ask(embedding, TEXTS)
    assert len(response.vectors) == 3
    assert response.dimensions == 8
    assert all(len(vector.values) == 8 for vector in response.vectors)
    assert (response.model.name, response.model.fingerprint) == ("fake", "00000000000000fa")
    assert response.usage.input_tokens == 3 + 5 + 8  # with [CLS] and [SEP]
    assert response.usage.truncated_texts == 0
    timings = response.timings
    assert 0 < timings.tokenize_nanos < timings.total_nanos
    assert 0 < timings.compute_nanos < timings.total_nanos
    assert timings.queue_nanos < timings.total_nanos
    assert 0 < timings.forward_nanos < timings.compute_nanos
    assert 0 < timings.pool_nanos < timings.compute_nanos - timings.forward_nanos
    stages = (
        timings.decode_nanos,
        timings.tokenize_nanos,
        timings.queue_nanos,
        timings.transfer_nanos,
        timings.compute_nanos,
        timings.encode_nanos,
    )
    assert min(stages) > 0
    assert sum(stages) <= timings.total_nanos


def test_a_batch_of_193_texts_is_answered_by_the_same_worker(server, embedding):
    """193 is 0xC1, the one byte that msgpack does not use for a type: as a length it is as good as any."""
    worker = server.app.dispatcher.worker.pid
    assert len(ask(embedding, ["w1"] * 193).vectors) == 193
    assert server.app.dispatcher.worker.pid == worker


def test_a_text_has_the_same_vector_alone_and_in_any_batch(embedding):
    together = matrix(ask(embedding, TEXTS))
    alone = np.concatenate([matrix(ask(embedding, [text])) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("pooling", embedding_pb2.Pooling.values())
def test_each_pooling_is_that_of_the_token_vectors(embedding, pooling):
    tokens = embedding.EmbedTokens(embedding_pb2.EmbedTokensRequest(texts=[TEXTS[2]]), timeout=30).embeddings[0]
    hidden = np.array(tokens.vectors.values, dtype=np.float64).reshape(-1, 8)
    weights = np.arange(1, len(hidden) + 1)[:, None]
    expected = {
        "POOLING_UNSPECIFIED": hidden.mean(0),
        "POOLING_MEAN": hidden.mean(0),
        "POOLING_MAX": hidden.max(0),
        "POOLING_CLS": hidden[0],
        "POOLING_LAST_TOKEN": hidden[-1],
        "POOLING_MEAN_SQRT_LEN": hidden.sum(0) / np.sqrt(len(hidden)),
        "POOLING_WEIGHTED_MEAN": (hidden * weights).sum(0) / weights.sum(),
    }[embedding_pb2.Pooling.Name(pooling)]
    np.testing.assert_allclose(matrix(ask(embedding, [TEXTS[2]], pooling=pooling))[0], expected, atol=1e-5)


def test_normalize_and_dimensions_cut_first_and_scale_then(embedding):
    full = matrix(ask(embedding, TEXTS)).astype(np.float64)
    cut = matrix(ask(embedding, TEXTS, dimensions=3))
    np.testing.assert_allclose(cut, full[:, :3], atol=1e-6)
    scaled = matrix(ask(embedding, TEXTS, dimensions=3, normalize=True))
    np.testing.assert_allclose(scaled, full[:, :3] / np.linalg.norm(full[:, :3], axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=common_pb2.VectorEncoding.Name)
def test_byte_encodings_hold_the_same_vectors(embedding, encoding):
    full = matrix(ask(embedding, TEXTS))
    response = ask(embedding, TEXTS, encoding=encoding)
    for row, vector in zip(full, response.vectors, strict=True):
        assert list(vector.values) == []
        values = np.frombuffer(vector.data, ENCODINGS[encoding]).astype(np.float32)
        if encoding == common_pb2.VECTOR_ENCODING_INT8_BYTES:
            assert vector.scale == pytest.approx(np.abs(row).max() / 127)
            values *= vector.scale
        tolerance = {"<f4": 0, "<f2": 2e-3, "i1": vector.scale / 2 + 1e-6}[ENCODINGS[encoding]]
        np.testing.assert_allclose(values, row, atol=tolerance)


def test_the_binary_encoding_is_numpys_packbits(embedding):
    full = matrix(ask(embedding, TEXTS))
    response = ask(embedding, TEXTS, encoding=common_pb2.VECTOR_ENCODING_BINARY_BYTES)
    assert [vector.data for vector in response.vectors] == [np.packbits(row > 0).tobytes() for row in full]


def test_a_prompt_by_name_and_by_value_is_the_text_before_the_text(embedding):
    expected = matrix(ask(embedding, ["w1 w2 w3"]))
    np.testing.assert_array_equal(matrix(ask(embedding, ["w3"], prompt_name="query")), expected)
    np.testing.assert_array_equal(matrix(ask(embedding, ["w3"], prompt="w1 w2 ")), expected)


def test_a_default_prompt_is_used_and_the_empty_prompt_turns_it_off_and_its_tokens_can_stay_out_of_pooling():
    with serve(description={"default_prompt_name": "query", "include_prompt": False}) as server:
        stub = server.channel.unary_unary("/hubwire.v1.EmbeddingService/Embed")

        def call(text, **fields):
            request = embedding_pb2.EmbedRequest(texts=[text], options=embedding_pb2.EmbedOptions(**fields))
            return matrix(embedding_pb2.EmbedResponse.FromString(stub(request.SerializeToString())))[0]

        tokens = embedding_pb2.EmbedTokensResponse.FromString(
            server.channel.unary_unary("/hubwire.v1.EmbeddingService/EmbedTokens")(
                embedding_pb2.EmbedTokensRequest(texts=["w1 w2 w3"]).SerializeToString()
            )
        )
        hidden = np.array(tokens.embeddings[0].vectors.values).reshape(-1, 8)
        np.testing.assert_allclose(call("w3"), hidden[3:].mean(0), atol=1e-6)  # without [CLS], w1, w2
        np.testing.assert_allclose(call("w1 w2 w3", prompt=""), hidden.mean(0), atol=1e-6)


@pytest.mark.parametrize(("side", "kept"), [(0, "w1 w2 w3"), (1, "w1 w2 w3"), (2, "w4 w5 w6")])
def test_truncation_keeps_the_asked_end_and_is_counted(embedding, side, kept):
    response = ask(embedding, ["w1 w2 w3 w4 w5 w6", "w1"], truncation={"side": side, "max_tokens": 5})
    assert response.usage.truncated_texts == 1
    assert response.usage.input_tokens == 5 + 3
    np.testing.assert_array_equal(matrix(response)[0], matrix(ask(embedding, [kept]))[0])


def test_truncation_without_a_number_cuts_at_the_models_limit(embedding):
    texts = [f"w{index}" for index in range(100)]
    response = ask(embedding, [" ".join(texts)], truncation={})
    assert response.usage.input_tokens == 32
    np.testing.assert_array_equal(matrix(response), matrix(ask(embedding, [" ".join(texts[:30])])))


@pytest.mark.parametrize(
    ("unit", "encode"),
    [
        (common_pb2.OFFSET_UNIT_UNSPECIFIED, lambda text: text),
        (common_pb2.OFFSET_UNIT_CODE_POINT, lambda text: text),
        (common_pb2.OFFSET_UNIT_UTF8_BYTE, lambda text: text.encode()),
        (common_pb2.OFFSET_UNIT_UTF16_UNIT, lambda text: text.encode("utf-16-le")),
    ],
)
def test_spans_slice_the_text_in_the_unit_that_was_asked_for(embedding, unit, encode):
    text = "w1 né 😀x ẹ́ w2"
    response = embedding.EmbedTokens(embedding_pb2.EmbedTokensRequest(texts=[text], options={"offset_unit": unit}), timeout=30)
    (entry,) = response.embeddings
    assert list(entry.special_tokens_mask) == [True] + [False] * 5 + [True]
    width = 2 if unit == common_pb2.OFFSET_UNIT_UTF16_UNIT else 1
    data = encode(text)
    words = [data[span.start * width : span.end * width] for span in entry.spans[1:-1]]
    assert words == [encode(word) for word in text.split()]
    assert list(entry.token_ids[1:2]) == [9]  # w1
    assert len(entry.vectors.values) == 7 * 8


def test_token_vectors_come_normalized_and_in_bytes_when_asked(embedding):
    asked = embedding_pb2.EmbedTokensOptions(normalize=True, encoding=common_pb2.VECTOR_ENCODING_FLOAT32_BYTES)
    request = embedding_pb2.EmbedTokensRequest(texts=["w1 w2"], options=asked)
    (entry,) = embedding.EmbedTokens(request, timeout=30).embeddings
    np.testing.assert_allclose(np.linalg.norm(np.frombuffer(entry.vectors.data, "<f4").reshape(-1, 8), axis=1), 1, atol=1e-6)


def test_a_stream_answers_each_item_once_and_bad_ones_with_their_own_status(embedding):
    entries = [(str(index), f"w{index % 900}") for index in range(300)]
    entries[7] = ("7", "")
    entries[50] = ("50", "w1 " * 100)
    entries[99] = ("99", "w1 nan")
    requests = [options()] + [items(*entries[low : low + 13]) for low in range(0, 300, 13)]
    responses = list(embedding.StreamEmbed(iter(requests), timeout=60))
    results = {result.id: result for response in responses for result in response.results}
    assert sum(len(response.results) for response in responses) == 300
    assert set(results) == {id_ for id_, _ in entries}
    errors = {id_: read_status(result.error) for id_, result in results.items() if result.WhichOneof("outcome") == "error"}
    assert {id_: (error.reason, error.code, error.field) for id_, error in errors.items()} == {
        "7": ("TEXT_EMPTY", "INVALID_ARGUMENT", "text"),
        "50": ("TEXT_TOO_LONG", "INVALID_ARGUMENT", "text"),
        "99": ("OUTPUT_NOT_FINITE", "INTERNAL", ""),
    }
    expected = matrix(ask(embedding, ["w5", "w250"]))
    np.testing.assert_allclose([results["5"].vector.values, results["250"].vector.values], expected, atol=1e-6)
    assert sum(response.usage.input_tokens for response in responses) == 297 * 3
    assert all(response.dimensions == 8 and response.model.name == "fake" for response in responses)


def test_an_ordered_stream_answers_in_the_order_of_the_items(embedding):
    rng = random.Random(0)
    entries = [(str(index), " ".join(["w1"] * rng.randint(1, 28)) if index % 50 else "") for index in range(600)]
    requests = [options(ordered=True)] + [items(*entries[low : low + 100]) for low in range(0, 600, 100)]
    answered = [result.id for response in embedding.StreamEmbed(iter(requests), timeout=60) for result in response.results]
    assert answered == [id_ for id_, _ in entries]


def test_a_stream_takes_the_options_of_embed(embedding):
    asked = embedding_pb2.EmbedOptions(dimensions=4, normalize=True, encoding=common_pb2.VECTOR_ENCODING_FLOAT32_BYTES)
    (response,) = embedding.StreamEmbed(iter([options(options=asked), items(("a", "w1"))]), timeout=30)
    data = response.results[0].vector.data
    assert data == ask(embedding, ["w1"], dimensions=4, normalize=True, encoding=2).vectors[0].data
    assert response.dimensions == 4


def test_values_that_float16_cannot_hold_are_refused_item_by_item():
    """int8 and float32 hold what the model gives; a float16 that overflows is the text's own error."""
    with serve(description={"pooling": ["mean_sqrt_len_tokens"], "scale": 1e5}) as server:
        stub = server.channel.stream_stream("/hubwire.v1.EmbeddingService/StreamEmbed")
        asked = embedding_pb2.EmbedOptions(encoding=common_pb2.VECTOR_ENCODING_FLOAT16_BYTES)
        requests = [options(options=asked), items(("a", "w1"), ("b", "w2"))]
        answers = [embedding_pb2.StreamEmbedResponse.FromString(data) for data in stub(iter(m.SerializeToString() for m in requests))]
        results = [result for answer in answers for result in answer.results]
        assert {read_status(result.error).reason for result in results} == {"OUTPUT_NOT_FINITE"}
        assert {result.id for result in results} == {"a", "b"}


def test_an_empty_stream_ends_cleanly(embedding):
    assert list(embedding.StreamEmbed(iter([]), timeout=30)) == []
    assert list(embedding.StreamEmbed(iter([options()]), timeout=30)) == []


def test_a_stream_that_breaks_its_rules_answers_what_it_accepted_first(embedding):
    call = embedding.StreamEmbed(iter([options(), items(("a", "w1")), options()]), timeout=30)
    answered = []
    with pytest.raises(grpc.RpcError) as caught:
        for response in call:
            answered += [result.id for result in response.results]
    assert answered == ["a"]
    assert read_error(caught.value).reason == "STREAM_OUT_OF_ORDER"


def test_a_caller_that_does_not_read_is_not_read_from():
    """The window closes, and the server stops reading: what it holds stays bounded however much the caller would send."""
    with serve() as server:
        sent = 0

        def requests():
            nonlocal sent
            yield options().SerializeToString()
            for index in range(20_000):
                sent += 100
                yield items(*((f"{index}-{n}", f"w{n} " + "x" * 500) for n in range(100))).SerializeToString()

        call = server.channel.stream_stream("/hubwire.v1.EmbeddingService/StreamEmbed")(requests())
        next(call)
        before = -1
        while sent != before:
            before = sent
            time.sleep(0.5)
        assert sent < 500_000  # of two million: what fits the windows of HTTP/2, with vectors as short as these
        assert server.app.dispatcher.used_tokens < 5_000
        call.cancel()
        deadline = time.monotonic() + 10
        while server.app.dispatcher.used_tokens:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_stream_waits_for_room_where_a_single_call_is_refused():
    with serve(settings=Settings(max_waiting_tokens=64, shutdown_grace_s=0.2)) as server:
        stub = server.channel.stream_stream("/hubwire.v1.EmbeddingService/StreamEmbed")
        requests = [options(), *(items(*((f"{low + n}", "w1 w2") for n in range(50))) for low in range(0, 500, 50))]
        answers = [embedding_pb2.StreamEmbedResponse.FromString(data) for data in stub(iter(m.SerializeToString() for m in requests))]
        assert len({result.id for answer in answers for result in answer.results if result.HasField("vector")}) == 500


def test_concurrent_callers_share_batches_and_each_gets_its_own_vectors(embedding):
    futures = [
        embedding.Embed.future(embedding_pb2.EmbedRequest(texts=[f"w{index}", f"w{index} w{index + 1}"]), timeout=60)
        for index in range(200)
    ]
    expected = matrix(ask(embedding, [f"w{index}" for index in range(200)]))
    for index, future in enumerate(futures):
        np.testing.assert_allclose(matrix(future.result())[0], expected[index], atol=1e-6)


def test_calls_that_failed_leave_no_request_behind_for_the_collector(server):
    with hubwire.Client(server.address, max_attempts=1) as client:
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                with pytest.raises(hubwire.HubwireError):
                    client.embed(["w1", "nan"])
            left = sum(type(one) is EmbedRequest for one in gc.get_objects())
        finally:
            gc.enable()
    assert left <= 1, "the last call may not be over yet"


def test_a_prompt_that_stays_out_of_pooling_is_nothing_to_callers_without_one_in_the_same_batch():
    with serve(description={"include_prompt": False}) as server:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(server.channel)
        prompted = embedding_pb2.EmbedRequest(texts=["w5 w6"], options=embedding_pb2.EmbedOptions(prompt="w1 w2 "))
        plain = embedding_pb2.EmbedRequest(texts=["w7"])
        alone = [stub.Embed(request, timeout=30).vectors[0].values for request in (prompted, plain)]
        # The first one keeps the worker busy, so that the others wait and then share a batch.
        busy = stub.Embed.future(embedding_pb2.EmbedRequest(texts=["slow"]), timeout=30)
        while server.app.dispatcher.used_tokens == 0:
            assert not busy.done()
        together = [stub.Embed.future(request, timeout=30) for request in (prompted, plain)]
        assert [list(call.result().vectors[0].values) for call in together] == [list(values) for values in alone]
        # In one batch they have one time of computation.
        times = {call.result().timings.compute_nanos for call in together}
        assert len(times) == 1
