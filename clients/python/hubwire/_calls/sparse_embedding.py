"""EmbedSparse and StreamEmbedSparse, which are methods of EmbeddingService."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from hubwire import errors
from hubwire._arguments import check_flag, check_text, check_texts
from hubwire._calls.common import limit, truncation
from hubwire._calls.embedding import add_items
from hubwire._calls.question import Question, StreamQuestion, check_number
from hubwire._names import TruncationSideName
from hubwire._stream import Item, StreamWindow
from hubwire._types import SparseVector
from hubwire.v1 import embedding_pb2

EmbedSparseQuestion: TypeAlias = Question[embedding_pb2.EmbedSparseRequest, embedding_pb2.EmbedSparseResponse, list[SparseVector]]
StreamEmbedSparseQuestion: TypeAlias = StreamQuestion[
    embedding_pb2.StreamEmbedSparseRequest, embedding_pb2.StreamEmbedSparseResponse, SparseVector
]


def embed_sparse_options(
    *, max_terms: int | None, return_tokens: bool, truncate: bool | TruncationSideName | None, max_tokens: int | None
) -> embedding_pb2.EmbedSparseOptions:
    """The options of EmbedSparse and StreamEmbedSparse."""
    return embedding_pb2.EmbedSparseOptions(
        max_terms=limit("max_terms", max_terms),
        return_tokens=check_flag("return_tokens", return_tokens),
        truncation=truncation(truncate, max_tokens),
    )


def embed_sparse(texts: Iterable[str], model: str, options: embedding_pb2.EmbedSparseOptions) -> EmbedSparseQuestion:
    """EmbedSparse: a vector a text."""
    checked = check_texts("texts", texts, async_hint="stream_embed_sparse")
    request = embedding_pb2.EmbedSparseRequest(model=check_text("model", model), texts=checked, options=options)
    return Question(request, partial(_vectors, count=len(checked)))


def stream_embed_sparse(
    model: str, options: embedding_pb2.EmbedSparseOptions, *, ordered: bool, window: StreamWindow[Any]
) -> StreamEmbedSparseQuestion:
    """StreamEmbedSparse: a vector an item."""
    opening = embedding_pb2.StreamEmbedSparseOptions(
        model=check_text("model", model), options=options, ordered=check_flag("ordered", ordered)
    )
    return StreamQuestion(
        opening=embedding_pb2.StreamEmbedSparseRequest(options=opening),
        window=window,
        message=_items_message,
        decode=lambda result, response: _vector(result.vector, response.dimensions),
    )


def _items_message(items: Iterable[Item]) -> embedding_pb2.StreamEmbedSparseRequest:
    message = embedding_pb2.StreamEmbedSparseRequest()
    add_items(message.items, items)
    return message


def _vectors(response: embedding_pb2.EmbedSparseResponse, *, count: int) -> list[SparseVector]:
    check_number(response.vectors, count)
    return [_vector(message, response.dimensions) for message in response.vectors]


def _vector(message: embedding_pb2.SparseVector, dimensions: int) -> SparseVector:
    indices, values = np.array(message.indices, dtype=np.int64), np.array(message.values, dtype=np.float32)
    if len(indices) != len(values) or len(message.tokens) not in (0, len(indices)):
        raise errors.contract_error(f"the server sent {len(indices)} indices with {len(values)} values and {len(message.tokens)} tokens")
    return SparseVector(indices=indices, values=values, tokens=tuple(message.tokens), dimensions=dimensions)
