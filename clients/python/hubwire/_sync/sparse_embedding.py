"""Sparse vectors: embed_sparse and stream_embed_sparse."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from hubwire import errors
from hubwire._calls import sparse_embedding as calls
from hubwire._names import TruncationSideName
from hubwire._stream import StreamWindow
from hubwire._sync.core import Core
from hubwire._types import SparseVector


class SparseEmbeddingMethods(Core):
    """Methods of Client."""

    def embed_sparse(
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
        """Embed texts as sparse vectors (SPLADE): a weight for each entry of the vocabulary that a text is about. One bad text fails the
        whole call; stream_embed_sparse does not have that rule.

        Args:
            texts: at least one text, none of them empty.
            model: the name of a model with a masked-language-modelling head; "" for the default one.
            max_terms: keep the entries with the largest weights; None for all.
            return_tokens: add the vocabulary's text of each entry.
            truncate, max_tokens, timeout_s: as in `embed`.

        Returns:
            One SparseVector a text, in their order: indices, values, tokens, dimensions.
        """
        options = calls.embed_sparse_options(max_terms=max_terms, return_tokens=return_tokens, truncate=truncate, max_tokens=max_tokens)
        return self._ask(self._embedding.EmbedSparse, calls.embed_sparse(texts, model, options), timeout_s)

    def stream_embed_sparse(
        self,
        items: Iterable[Any],
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
    ) -> Generator[tuple[Any, SparseVector | errors.HubwireError]]:
        """Embed any number of texts as sparse vectors with flat memory, by the rules of `stream_embed`.

        Args:
            items, ordered, batch_size, max_in_flight, timeout_s: as in `stream_embed`.
            model, max_terms, return_tokens, truncate, max_tokens: as in `embed_sparse`.

        Yields:
            (id, SparseVector), or (id, error) where this one text failed.
        """
        options = calls.embed_sparse_options(max_terms=max_terms, return_tokens=return_tokens, truncate=truncate, max_tokens=max_tokens)
        window: StreamWindow[Any] = StreamWindow(batch_size=batch_size, max_in_flight=max_in_flight)
        question = calls.stream_embed_sparse(model, options, ordered=ordered, window=window)
        return self._stream(self._embedding.StreamEmbedSparse, items, question, timeout_s, method="stream_embed_sparse")
