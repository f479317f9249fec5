"""Response messages to numpy arrays that own their memory. An answer that breaks the contract is an InternalError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hubwire import errors
from hubwire._names import EncodingName
from hubwire._types import TokenEmbeddings
from hubwire.v1 import common_pb2, embedding_pb2, model_pb2

_DTYPES: dict[EncodingName, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int8": np.dtype("i1"),
    "binary": np.dtype("u1"),
}


def embeddings(response: embedding_pb2.EmbedResponse, encoding: EncodingName, count: int) -> npt.NDArray[Any]:
    """The vectors of `count` texts: (count, dimensions) float32, or (count, ceil(dimensions / 8)) uint8 for "binary"."""
    if len(response.vectors) != count:
        raise errors.contract_error(f"the server sent {len(response.vectors)} vectors for {count} texts")
    return _matrix(response.vectors, _row_items(response.dimensions, encoding), encoding)


def outcome(result: embedding_pb2.StreamEmbedResult, dimensions: int, encoding: EncodingName) -> npt.NDArray[Any] | errors.HubwireError:
    """One item of a stream: (dimensions,) float32, or (ceil(dimensions / 8),) uint8 for "binary"; or the item's own error."""
    if result.HasField("error"):
        return errors.from_status(result.error)
    if not result.HasField("vector"):
        raise errors.contract_error("the server answered an item with neither a vector nor an error")
    row: npt.NDArray[Any] = _matrix([result.vector], _row_items(dimensions, encoding), encoding)[0]
    return row


def token_embeddings(response: embedding_pb2.EmbedTokensResponse, encoding: EncodingName, count: int) -> list[TokenEmbeddings]:
    """The tokens of `count` texts."""
    if len(response.embeddings) != count:
        raise errors.contract_error(f"the server sent the tokens of {len(response.embeddings)} texts for {count} texts")
    return [_tokens(message, response.dimensions, encoding) for message in response.embeddings]


def model(message: model_pb2.GetModelResponse | model_pb2.LoadModelResponse) -> model_pb2.Model:
    """The model of a response that must hold one."""
    if not message.HasField("model"):
        raise errors.contract_error("the server sent no model")
    return message.model


def _tokens(message: embedding_pb2.TokenEmbeddings, dimensions: int, encoding: EncodingName) -> TokenEmbeddings:
    token_ids = np.array(message.token_ids, dtype=np.int64)
    spans = np.array([(span.start, span.end) for span in message.spans], dtype=np.int64).reshape(-1, 2)
    mask = np.array(message.special_tokens_mask, dtype=np.bool_)
    if not len(token_ids) == len(spans) == len(mask):
        raise errors.contract_error(f"the server sent {len(token_ids)} tokens with {len(spans)} spans and {len(mask)} mask values")
    # The rows of one text share one Vector, and under int8 one scale.
    shape = (len(token_ids), _row_items(dimensions, encoding))
    vectors = _matrix([message.vectors], shape[0] * shape[1], encoding).reshape(shape)
    return TokenEmbeddings(vectors=vectors, token_ids=token_ids, spans=spans, special_tokens_mask=mask)


def _row_items(dimensions: int, encoding: EncodingName) -> int:
    """How many array items a vector takes: bytes under "binary", else values."""
    return (dimensions + 7) // 8 if encoding == "binary" else dimensions


def _matrix(vectors: Sequence[common_pb2.Vector], items: int, encoding: EncodingName) -> npt.NDArray[Any]:
    """One row of `items` array items for each vector."""
    dtype = _DTYPES[encoding]
    for message in vectors:
        if len(message.data) != items * dtype.itemsize:
            raise errors.contract_error(
                f"the server sent {len(message.data)} bytes for a vector of {items * dtype.itemsize} bytes ({encoding})"
            )
    # One copy, into memory that the caller owns: an array over the message's bytes could not be written to.
    rows = np.frombuffer(bytearray().join(message.data for message in vectors), dtype).reshape(len(vectors), items)
    if encoding == "binary":
        return rows
    restored: npt.NDArray[np.float32] = rows.astype(np.float32, copy=False)
    if encoding == "int8":
        restored *= np.array([message.scale for message in vectors], dtype=np.float32)[:, np.newaxis]
    return restored
