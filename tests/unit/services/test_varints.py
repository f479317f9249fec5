"""Arrays as varints, against the protobuf library."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubwire.v1 import common_pb2, embedding_pb2, tokenization_pb2
from hubwire_server.services.tokenization import encode_spans
from hubwire_server.services.varints import packed, varint, varints

EDGES = [127, 128, 2**14 - 1, 2**14, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**32 - 1]
"""Where a varint begins to take a byte more."""
NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1), st.sampled_from(EDGES))


@given(st.lists(st.lists(NUMBERS, max_size=20), min_size=1, max_size=5))
def test_rows_of_numbers_are_packed_as_protobuf_packs_them(rows):
    offsets = np.concatenate([[0], np.cumsum(list(map(len, rows)))]).astype(np.int64)
    encoded = varints(np.array([number for row in rows for number in row], dtype=np.uint32)).rows(offsets)
    for row, data in zip(rows, encoded, strict=True):
        assert packed(1, data) == tokenization_pb2.TokenIds(token_ids=row).SerializeToString()


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_spans_are_what_protobuf_reads(spans):
    offsets = np.array([0, 0, len(spans)], dtype=np.int64)
    nothing, data = encode_spans(3, np.array(spans, dtype=np.uint32), offsets)
    assert nothing == b""
    read = tokenization_pb2.TokenizedText.FromString(data)
    assert [(span.start, span.end) for span in read.spans] == spans


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int32, np.int64])
def test_any_type_of_numbers_will_do(dtype):
    values = np.array([0, 1, 1, 0], dtype=dtype)
    assert varints(values).data == bytes([0, 1, 1, 0])


@given(st.integers(0, 2**31))
def test_one_number(value):
    assert varint(value) == varints(np.array([value])).data


def test_a_field_without_data_is_there_only_where_it_counts():
    span = common_pb2.Span(start=1)
    assert packed(1, b"") == b""
    assert packed(1, b"", empty=True) == embedding_pb2.EmbedSparseResponse(vectors=[{}]).SerializeToString()
    assert packed(1, span.SerializeToString()) == b"\x0a\x02\x08\x01"
