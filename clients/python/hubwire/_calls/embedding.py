"""Embed, StreamEmbed and EmbedTokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hubwire import errors
from hubwire._arguments import check_choice, check_flag, check_text, check_texts, check_uint32
from hubwire._calls.common import OFFSET_UNIT, optional_flag, spans_array, truncation
from hubwire._calls.question import Question, StreamQuestion, check_number
from hubwire._names import EncodingName, PoolingName, TruncationSideName
from hubwire._stream import Item, StreamWindow
from hubwire._types import TokenEmbeddings
from hubwire.v1 import common_pb2, embedding_pb2

_STREAM = "stream_embed"

EmbedQuestion: TypeAlias = Question[embedding_pb2.EmbedRequest, embedding_pb2.EmbedResponse, npt.NDArray[Any]]
EmbedTokensQuestion: TypeAlias = Question[embedding_pb2.EmbedTokensRequest, embedding_pb2.EmbedTokensResponse, list[TokenEmbeddings]]
StreamEmbedQuestion: TypeAlias = StreamQuestion[embedding_pb2.StreamEmbedRequest, embedding_pb2.StreamEmbedResponse, npt.NDArray[Any]]

POOLINGS: Mapping[PoolingName, embedding_pb2.Pooling.ValueType] = {
    "mean": embedding_pb2.POOLING_MEAN,
    "max": embedding_pb2.POOLING_MAX,
    "cls": embedding_pb2.POOLING_CLS,
    "last_token": embedding_pb2.POOLING_LAST_TOKEN,
    "mean_sqrt_len": embedding_pb2.POOLING_MEAN_SQRT_LEN,
    "weighted_mean": embedding_pb2.POOLING_WEIGHTED_MEAN,
}
# float32 travels as bytes: numpy reads a vector of them at once, and a repeated float one by one.
_ENCODINGS: Mapping[EncodingName, common_pb2.VectorEncoding.ValueType] = {
    "float32": common_pb2.VECTOR_ENCODING_FLOAT32_BYTES,
    "float16": common_pb2.VECTOR_ENCODING_FLOAT16_BYTES,
    "int8": common_pb2.VECTOR_ENCODING_INT8_BYTES,
    "binary": common_pb2.VECTOR_ENCODING_BINARY_BYTES,
}
_DTYPES: Mapping[EncodingName, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int8": np.dtype("i1"),
    "binary": np.dtype("u1"),
}


def embed_options(
    *,
    pooling: PoolingName | None = None,
    normalize: bool | None = None,
    truncate: bool | TruncationSideName | None = None,
    max_tokens: int | None = None,
    dimensions: int | None = None,
    encoding: EncodingName = "float32",
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> embedding_pb2.EmbedOptions:
    """The options of Embed and StreamEmbed. None leaves a choice to the model."""
    options = embedding_pb2.EmbedOptions(
        encoding=check_choice("encoding", encoding, _ENCODINGS),
        normalize=optional_flag("normalize", normalize),
        truncation=truncation(truncate, max_tokens),
    )
    if pooling is not None:
        options.pooling = check_choice("pooling", pooling, POOLINGS)
    if dimensions is not None:
        options.dimensions = check_uint32("dimensions", dimensions)
    if prompt_name is not None and prompt is not None:
        raise ValueError("pass prompt_name or prompt, not both")
    if prompt_name is not None:
        options.prompt_name = check_text("prompt_name", prompt_name)
    if prompt is not None:
        options.prompt = check_text("prompt", prompt)
    return options


def embed(texts: Iterable[str], model: str, options: embedding_pb2.EmbedOptions, encoding: EncodingName) -> EmbedQuestion:
    """Embed: (n, dimensions) float32, or (n, ceil(dimensions / 8)) uint8 for "binary"."""
    checked = check_texts("texts", texts, async_hint=_STREAM)
    request = embedding_pb2.EmbedRequest(model=check_text("model", model), texts=checked, options=options)
    return Question(request, partial(_vectors, encoding=encoding, count=len(checked)))


def stream_embed(
    model: str, options: embedding_pb2.EmbedOptions, encoding: EncodingName, *, ordered: bool, window: StreamWindow[Any]
) -> StreamEmbedQuestion:
    """StreamEmbed: a row of `embed` for each item."""
    opening = embedding_pb2.StreamEmbedOptions(model=check_text("model", model), options=options, ordered=check_flag("ordered", ordered))
    return StreamQuestion(
        opening=embedding_pb2.StreamEmbedRequest(options=opening),
        window=window,
        message=_items_message,
        decode=partial(_vector, encoding=encoding),
    )


def embed_tokens(
    texts: Iterable[str],
    *,
    model: str,
    normalize: bool | None,
    truncate: bool | TruncationSideName | None,
    max_tokens: int | None,
    encoding: EncodingName,
) -> EmbedTokensQuestion:
    """EmbedTokens: the tokens of each text."""
    checked = check_texts("texts", texts, async_hint=_STREAM)
    request = embedding_pb2.EmbedTokensRequest(
        model=check_text("model", model),
        texts=checked,
        options=embedding_pb2.EmbedTokensOptions(
            normalize=optional_flag("normalize", normalize),
            encoding=check_choice("encoding", encoding, _ENCODINGS),
            truncation=truncation(truncate, max_tokens),
            offset_unit=OFFSET_UNIT,
        ),
    )
    return Question(request, partial(_token_embeddings, encoding=encoding, count=len(checked)))


def add_items(message: embedding_pb2.StreamEmbedItems, items: Iterable[Item]) -> None:
    """Put texts with their numbers into a message, as both streams of embeddings carry them."""
    add = message.items.add
    for item in items:
        add(id=str(item.number), text=item.text)


def _items_message(items: Iterable[Item]) -> embedding_pb2.StreamEmbedRequest:
    message = embedding_pb2.StreamEmbedRequest()
    add_items(message.items, items)
    return message


def _vectors(response: embedding_pb2.EmbedResponse, *, encoding: EncodingName, count: int) -> npt.NDArray[Any]:
    check_number(response.vectors, count)
    return _matrix(response.vectors, _row_items(response.dimensions, encoding), encoding)


def _vector(
    result: embedding_pb2.StreamEmbedResult, response: embedding_pb2.StreamEmbedResponse, *, encoding: EncodingName
) -> npt.NDArray[Any]:
    row: npt.NDArray[Any] = _matrix([result.vector], _row_items(response.dimensions, encoding), encoding)[0]
    return row


def _token_embeddings(response: embedding_pb2.EmbedTokensResponse, *, encoding: EncodingName, count: int) -> list[TokenEmbeddings]:
    check_number(response.embeddings, count)
    return [_tokens(message, response.dimensions, encoding) for message in response.embeddings]


def _tokens(message: embedding_pb2.TokenEmbeddings, dimensions: int, encoding: EncodingName) -> TokenEmbeddings:
    token_ids = np.array(message.token_ids, dtype=np.int64)
    spans = spans_array(message.spans)
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
