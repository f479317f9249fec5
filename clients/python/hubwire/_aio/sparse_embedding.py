"""Sparse vectors: embed_sparse and stream_embed_sparse."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any

from hubwire import errors
from hubwire._aio.core import Core
from hubwire._calls import sparse_embedding as calls
from hubwire._names import TruncationSideName
from hubwire._stream import StreamWindow
from hubwire._types import SparseVector


class SparseEmbeddingMethods(Core):
    """Methods of Client, which hubwire.Client documents."""

    async def embed_sparse(
        self,
        texts: Iterable[str],
        *,
        model: str = "",
        max_terms: int | None = None,
        return_tokens: bool = False,
        truncate: bool | TruncationSideName | None = None,
        max_tokens: int | None = None,
        timeout_s: float | None = None,
    ) -> list[SparseVector]:
        """As hubwire.Client.embed_sparse."""
        options = calls.embed_sparse_options(max_terms=max_terms, return_tokens=return_tokens, truncate=truncate, max_tokens=max_tokens)
        return await self._ask(self._embedding.EmbedSparse, calls.embed_sparse(texts, model, options), timeout_s)

    def stream_embed_sparse(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        model: str = "",
        max_terms: int | None = None,
        return_tokens: bool = False,
        truncate: bool | TruncationSideName | None = None,
        max_tokens: int | None = None,
        ordered: bool = False,
        batch_size: int = 64,
        max_in_flight: int = 2048,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[tuple[Any, SparseVector | errors.HubwireError]]:
        """As hubwire.Client.stream_embed_sparse; `items` may be an async iterable too."""
        options = calls.embed_sparse_options(max_terms=max_terms, return_tokens=return_tokens, truncate=truncate, max_tokens=max_tokens)
        window: StreamWindow[Any] = StreamWindow(batch_size=batch_size, max_in_flight=max_in_flight)
        question = calls.stream_embed_sparse(model, options, ordered=ordered, window=window)
        return self._stream(self._embedding.StreamEmbedSparse, items, question, timeout_s)
