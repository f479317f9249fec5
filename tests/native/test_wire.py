"""Protobuf bytes of vectors, read back through the generated stubs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hubwire.v1 import common_pb2, embedding_pb2
from hubwire_server._native import (
    NativeError,
    Tokenizer,
    convert,
    encode_matrix,
    encode_stream_results,
    encode_token_embeddings,
    encode_vectors,
)

ENCODINGS = ["float", "float32_bytes", "float16_bytes", "int8_bytes", "binary_bytes"]
VECTORS = arrays(
    np.float32,
    st.tuples(st.integers(0, 4), st.sampled_from([1, 3, 8, 31, 33, 384])),
    elements=st.floats(-60000, 60000, width=32, allow_subnormal=False),
)


def vector(row: np.ndarray, encoding: str, **options: Any) -> common_pb2.Vector:
    """One vector as a message, made of what `convert` gives."""
    name = encoding.removesuffix("_bytes")
    values, scales = convert(row[None, :], encoding="float32" if name == "float" else name, **options)
    if encoding == "float":
        return common_pb2.Vector(values=values[0].tolist())
    data = values[0].astype(values.dtype.newbyteorder("<")).tobytes()
    return common_pb2.Vector(data=data, scale=0.0 if scales is None else scales[0])


class Tokens(NamedTuple):
    """The arguments of encode_token_embeddings."""

    vectors: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    spans: np.ndarray
    special_tokens_mask: np.ndarray


def tokens(lengths: list[int], width: int, seed: int) -> Tokens:
    """The tokens of texts of so many tokens each, with numbers of every length on the wire."""
    random = np.random.default_rng(seed)
    count = sum(lengths)
    numbers = random.integers(0, 2 ** random.integers(0, 33, size=(count, 3)), dtype=np.uint64)
    return Tokens(
        vectors=random.normal(size=(count, width)).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        ids=(numbers[:, 0] // 2).astype(np.int32),
        spans=numbers[:, 1:].astype(np.uint32),
        special_tokens_mask=random.random(count) < 0.3,
    )


def token_embeddings(batch: Tokens, encoding: str, normalize: bool = False) -> embedding_pb2.EmbedTokensResponse:
    """The embeddings as messages, made of what `convert` gives."""
    name = encoding.removesuffix("_bytes")
    response = embedding_pb2.EmbedTokensResponse()
    for low, high in pairwise(batch.offsets.tolist()):
        rows = batch.vectors[low:high]
        if name == "int8":
            # One scale for all rows, which are scaled to length 1 before it is taken.
            rows = convert(rows, normalize=normalize)[0]
            values, scales = convert(rows.reshape(1, -1), encoding="int8") if rows.size else (rows, [0.0])
            message = common_pb2.Vector(data=values.tobytes(), scale=scales[0])
        else:
            message = common_pb2.Vector()
            for row in rows:
                part = vector(row, encoding, normalize=normalize)
                message.values.extend(part.values)
                message.data += part.data
        response.embeddings.add(
            vectors=message,
            token_ids=batch.ids[low:high].tolist(),
            spans=[common_pb2.Span(start=start, end=end) for start, end in batch.spans[low:high].tolist()],
            special_tokens_mask=batch.special_tokens_mask[low:high].tolist(),
        )
    return response


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_vectors_are_read_back_as_they_were_converted(encoding: str) -> None:
    @settings(deadline=None)
    @given(VECTORS, st.booleans(), st.booleans())
    def check(vectors: np.ndarray, normalize: bool, cut: bool) -> None:
        options = {"normalize": normalize, "dimensions": max(1, vectors.shape[1] // 2) if cut else None}
        data = encode_vectors(vectors, field=embedding_pb2.EmbedResponse.VECTORS_FIELD_NUMBER, encoding=encoding, **options)
        wanted = embedding_pb2.EmbedResponse(vectors=[vector(row, encoding, **options) for row in vectors])
        assert embedding_pb2.EmbedResponse.FromString(data) == wanted

    check()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_stream_results_are_read_back_with_their_ids(encoding: str) -> None:
    @settings(deadline=None)
    @given(VECTORS, st.booleans(), st.data())
    def check(vectors: np.ndarray, normalize: bool, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=len(vectors), max_size=len(vectors)))
        found = encode_stream_results(ids, vectors, normalize=normalize, encoding=encoding)
        wanted = embedding_pb2.StreamEmbedResponse()
        for id_, row in zip(ids, vectors, strict=True):
            wanted.results.add(id=id_, vector=vector(row, encoding, normalize=normalize))
        assert embedding_pb2.StreamEmbedResponse.FromString(found) == wanted

    check()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("encoding", ["float", "float32_bytes", "float16_bytes"])
def test_a_matrix_is_read_back_row_after_row(encoding: str, normalize: bool) -> None:
    vectors = np.random.default_rng(1).normal(size=(7, 33)).astype(np.float32)
    found = common_pb2.Vector.FromString(encode_matrix(vectors, normalize=normalize, encoding=encoding))
    rows = [vector(row, encoding, normalize=normalize) for row in vectors]
    assert list(found.values) == [value for row in rows for value in row.values]
    assert found.data == b"".join(row.data for row in rows)


def test_a_matrix_of_int8_has_one_scale() -> None:
    vectors = np.random.default_rng(2).normal(size=(7, 33)).astype(np.float32)
    found = common_pb2.Vector.FromString(encode_matrix(vectors, encoding="int8_bytes"))
    wanted, scales = convert(vectors.reshape(1, -1), encoding="int8")
    assert found.scale == scales[0]
    np.testing.assert_array_equal(np.frombuffer(found.data, np.int8), wanted[0])


def test_a_matrix_of_bits_pads_every_row() -> None:
    vectors = np.random.default_rng(3).normal(size=(7, 33)).astype(np.float32)
    found = common_pb2.Vector.FromString(encode_matrix(vectors, encoding="binary_bytes"))
    np.testing.assert_array_equal(np.frombuffer(found.data, np.uint8).reshape(7, 5), np.packbits(vectors > 0, axis=1))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_token_embeddings_are_the_bytes_that_protobuf_writes(encoding: str) -> None:
    @settings(deadline=None)
    @given(st.lists(st.sampled_from([0, 1, 2, 5, 130]), max_size=5), st.sampled_from([1, 8, 33, 384]), st.integers(0, 1000), st.booleans())
    def check(lengths: list[int], width: int, seed: int, normalize: bool) -> None:
        batch = tokens(lengths, width, seed)
        found = encode_token_embeddings(*batch, normalize=normalize, encoding=encoding)
        assert found == token_embeddings(batch, encoding, normalize).SerializeToString()

    check()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_token_embeddings_are_read_back_whatever_their_values(encoding: str) -> None:
    @settings(deadline=None)
    @given(VECTORS, st.booleans(), st.data())
    def check(vectors: np.ndarray, normalize: bool, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, len(vectors)))
        batch = tokens([first, 0, len(vectors) - first], 1, seed=1)._replace(vectors=vectors)
        found = encode_token_embeddings(*batch, normalize=normalize, encoding=encoding)
        assert embedding_pb2.EmbedTokensResponse.FromString(found) == token_embeddings(batch, encoding, normalize)

    check()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("normalize", [False, True])
def test_the_vector_of_a_text_is_its_matrix(encoding: str, normalize: bool) -> None:
    batch = tokens([3, 0, 7], 33, seed=2)
    found = embedding_pb2.EmbedTokensResponse.FromString(encode_token_embeddings(*batch, normalize=normalize, encoding=encoding))
    matrices = [encode_matrix(batch.vectors[low:high], normalize=normalize, encoding=encoding) for low, high in pairwise(batch.offsets)]
    assert [entry.vectors.SerializeToString() for entry in found.embeddings] == matrices


def test_the_tokens_of_a_ragged_batch_are_written_as_they_are(tokenizer: Tokenizer) -> None:
    ragged = tokenizer.encode(["Hello, world!", "", "Grüße aus Köln"], spans="code_point")
    vectors = np.random.default_rng(7).normal(size=(len(ragged.ids), 384)).astype(np.float32)
    assert ragged.spans is not None
    assert ragged.special_tokens_mask is not None
    batch = Tokens(vectors, ragged.offsets, ragged.ids, ragged.spans, ragged.special_tokens_mask)
    assert encode_token_embeddings(*batch) == token_embeddings(batch, "float").SerializeToString()


def test_token_embeddings_of_a_long_batch_are_read_back() -> None:
    # Enough for the GIL to be released, both while sizes are computed and while bytes are written.
    batch = tokens([60000, 0, 60000], 8, seed=3)
    assert encode_token_embeddings(*batch) == token_embeddings(batch, "float").SerializeToString()


def test_token_arrays_need_not_lie_row_after_row() -> None:
    batch = tokens([4, 0, 6], 5, seed=4)
    scattered = Tokens(np.asfortranarray(batch.vectors), *(np.repeat(array, 2, axis=0)[::2] for array in batch[1:]))
    assert encode_token_embeddings(*scattered) == encode_token_embeddings(*batch)


def test_a_mark_is_true_whatever_its_byte() -> None:
    batch = tokens([4], 1, seed=5)
    marks = np.array([0, 1, 2, 255], np.uint8).view(np.bool_)
    found = encode_token_embeddings(*batch._replace(special_tokens_mask=marks))
    wanted = token_embeddings(batch._replace(special_tokens_mask=np.array([False, True, True, True])), "float")
    assert found == wanted.SerializeToString()


def test_the_bytes_can_stand_before_and_after_the_rest_of_the_message() -> None:
    vectors = np.random.default_rng(4).normal(size=(3, 384)).astype(np.float32)
    rest = embedding_pb2.EmbedResponse(dimensions=384, model=common_pb2.ServedModel(name="m")).SerializeToString()
    data = encode_vectors(vectors, field=1)
    before, after = (embedding_pb2.EmbedResponse.FromString(message) for message in (data + rest, rest + data))
    assert before == after
    assert (before.dimensions, before.model.name, len(before.vectors)) == (384, "m", 3)
    np.testing.assert_array_equal(np.array([row.values for row in before.vectors], np.float32), vectors)


def test_the_bytes_are_those_that_protobuf_writes() -> None:
    vectors = np.random.default_rng(5).normal(size=(3, 384)).astype(np.float32)
    for encoding in ENCODINGS:
        wanted = embedding_pb2.EmbedResponse(vectors=[vector(row, encoding) for row in vectors])
        assert encode_vectors(vectors, field=1, encoding=encoding) == wanted.SerializeToString()


def test_a_long_message_is_read_back() -> None:
    vectors = np.random.default_rng(6).normal(size=(2, 1 << 20)).astype(np.float32)
    found = embedding_pb2.EmbedResponse.FromString(encode_vectors(vectors, field=1, encoding="float32_bytes"))
    assert [row.data for row in found.vectors] == [row.tobytes() for row in vectors]


def test_no_rows_give_no_bytes() -> None:
    empty = np.zeros((0, 8), np.float32)
    assert encode_vectors(empty, field=1) == b""
    assert encode_stream_results([], empty) == b""
    assert all(encode_matrix(empty, encoding=encoding) == b"" for encoding in ENCODINGS)
    assert encode_token_embeddings(*tokens([], 8, seed=0)) == b""


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("normalize", [False, True])
def test_a_value_that_is_not_finite_is_refused_with_its_row(encoding: str, normalize: bool) -> None:
    vectors = np.ones((3, 4), np.float32)
    vectors[2, 3] = np.nan
    calls = [
        lambda: encode_vectors(vectors, field=1, encoding=encoding, normalize=normalize),
        lambda: encode_stream_results(["a", "b", "c"], vectors, encoding=encoding, normalize=normalize),
        lambda: encode_matrix(vectors, encoding=encoding, normalize=normalize),
    ]
    for call in calls:
        with pytest.raises(NativeError) as caught:
            call()
        assert (caught.value.reason, caught.value.index) == ("not_finite", 2)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("normalize", [False, True])
def test_a_value_of_a_token_that_is_not_finite_is_refused_with_its_text(encoding: str, normalize: bool) -> None:
    batch = tokens([3, 0, 2, 4], 5, seed=6)
    batch.vectors[4, 2] = np.inf
    with pytest.raises(NativeError) as caught:
        encode_token_embeddings(*batch, normalize=normalize, encoding=encoding)
    assert (caught.value.reason, caught.value.index) == ("not_finite", 2)


@pytest.mark.parametrize(
    ("name", "value", "reason", "index"),
    [
        ("vectors", np.ones((4, 2), np.float32), "shape_mismatch", None),
        ("vectors", np.ones(6, np.float32), "shape_mismatch", None),
        ("ids", np.zeros(2, np.int32), "shape_mismatch", None),
        ("spans", np.zeros((4, 2), np.uint32), "shape_mismatch", None),
        ("spans", np.zeros((3, 3), np.uint32), "shape_mismatch", None),
        ("spans", np.zeros(6, np.uint32), "shape_mismatch", None),
        ("special_tokens_mask", np.zeros(0, np.bool_), "shape_mismatch", None),
        ("offsets", np.zeros(0, np.int64), "offsets_out_of_order", 0),
        ("offsets", np.array([1, 3]), "offsets_out_of_order", 0),
        ("offsets", np.array([0, 2, 1, 3]), "offsets_out_of_order", 2),
        ("offsets", np.array([0, 2]), "offsets_out_of_order", 1),
        ("ids", np.array([1, 2, -1], np.int32), "out_of_range", 1),
    ],
)
def test_tokens_that_do_not_fit_are_refused(name: str, value: np.ndarray, reason: str, index: int | None) -> None:
    batch = tokens([1, 2], 2, seed=7)._replace(**{name: value})
    with pytest.raises(NativeError) as caught:
        encode_token_embeddings(*batch)
    assert (caught.value.reason, caught.value.index) == (reason, index)


@pytest.mark.parametrize("name", Tokens._fields)
def test_token_arrays_of_another_type_are_refused(name: str) -> None:
    batch = tokens([1, 2], 2, seed=8)
    with pytest.raises(TypeError, match=name):
        encode_token_embeddings(*batch._replace(**{name: getattr(batch, name).astype(np.int16)}))


def test_token_embeddings_of_an_unknown_encoding_are_refused() -> None:
    with pytest.raises(NativeError) as caught:
        encode_token_embeddings(*tokens([1], 2, seed=9), encoding="int4")
    assert caught.value.reason == "invalid_argument"


def test_ids_and_rows_of_different_numbers_are_refused() -> None:
    with pytest.raises(NativeError) as caught:
        encode_stream_results(["a"], np.ones((2, 3), np.float32))
    assert caught.value.reason == "shape_mismatch"


@pytest.mark.parametrize("field", [0, 19000, 1 << 29])
def test_a_number_that_is_no_field_is_refused(field: int) -> None:
    with pytest.raises(NativeError) as caught:
        encode_vectors(np.ones((1, 1), np.float32), field=field)
    assert caught.value.reason == "out_of_range"
