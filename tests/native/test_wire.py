"""Protobuf bytes of vectors, read back through the generated stubs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hubwire.v1 import common_pb2, embedding_pb2
from hubwire_server._native import NativeError, convert, encode_matrix, encode_stream_results, encode_vectors

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
    assert common_pb2.Vector.FromString(encode_matrix(empty)) == common_pb2.Vector()


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


def test_ids_and_rows_of_different_numbers_are_refused() -> None:
    with pytest.raises(NativeError) as caught:
        encode_stream_results(["a"], np.ones((2, 3), np.float32))
    assert caught.value.reason == "shape_mismatch"


@pytest.mark.parametrize("field", [0, 19000, 1 << 29])
def test_a_number_that_is_no_field_is_refused(field: int) -> None:
    with pytest.raises(NativeError) as caught:
        encode_vectors(np.ones((1, 1), np.float32), field=field)
    assert caught.value.reason == "out_of_range"
