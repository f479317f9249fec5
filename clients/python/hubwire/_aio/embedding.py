"""Vectors: embed, stream_embed and embed_tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any, Literal, Unpack, overload

from hubwire import errors
from hubwire._aio.core import Core
from hubwire._calls import embedding as calls
from hubwire._names import EncodingName, FloatEncoding, PoolingName, TruncationSideName
from hubwire._stream import IdT, StreamWindow
from hubwire._types import EmbedOptions, Matrix, PackedMatrix, StreamOptions, TokenEmbeddings


class EmbeddingMethods(Core):
    """Methods of Client, which hubwire.Client documents."""

    @overload
    async def embed(self, texts: Iterable[str], *, encoding: FloatEncoding = "float32", **options: Unpack[EmbedOptions]) -> Matrix: ...
    @overload
    async def embed(self, texts: Iterable[str], *, encoding: Literal["binary"], **options: Unpack[EmbedOptions]) -> PackedMatrix: ...
    async def embed(
        self,
        texts: Iterable[str],
        *,
        model: str = "",
        pooling: PoolingName | None = None,
        normalize: bool | None = None,
        truncate: bool | TruncationSideName | None = None,
        max_tokens: int | None = None,
        dimensions: int | None = None,
        encoding: EncodingName = "float32",
        prompt_name: str | None = None,
        prompt: str | None = None,
        timeout_s: float | None = None,
    ) -> Matrix | PackedMatrix:
        """Embed texts, as hubwire.Client.embed: (n, dimensions) float32, or for "binary" (n, ceil(dimensions / 8)) uint8."""
        options = calls.embed_options(
            pooling=pooling,
            normalize=normalize,
            truncate=truncate,
            max_tokens=max_tokens,
            dimensions=dimensions,
            encoding=encoding,
            prompt_name=prompt_name,
            prompt=prompt,
        )
        return await self._ask(self._embedding.Embed, calls.embed(texts, model, options, encoding), timeout_s)

    @overload
    def stream_embed(
        self, items: Iterable[str] | AsyncIterable[str], *, encoding: FloatEncoding = "float32", **options: Unpack[StreamOptions]
    ) -> AsyncGenerator[tuple[int, Matrix | errors.HubwireError]]: ...
    @overload
    def stream_embed(
        self,
        items: Iterable[tuple[IdT, str]] | AsyncIterable[tuple[IdT, str]],
        *,
        encoding: FloatEncoding = "float32",
        **options: Unpack[StreamOptions],
    ) -> AsyncGenerator[tuple[IdT, Matrix | errors.HubwireError]]: ...
    @overload
    def stream_embed(
        self, items: Iterable[str] | AsyncIterable[str], *, encoding: Literal["binary"], **options: Unpack[StreamOptions]
    ) -> AsyncGenerator[tuple[int, PackedMatrix | errors.HubwireError]]: ...
    @overload
    def stream_embed(
        self,
        items: Iterable[tuple[IdT, str]] | AsyncIterable[tuple[IdT, str]],
        *,
        encoding: Literal["binary"],
        **options: Unpack[StreamOptions],
    ) -> AsyncGenerator[tuple[IdT, PackedMatrix | errors.HubwireError]]: ...
    def stream_embed(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        model: str = "",
        pooling: PoolingName | None = None,
        normalize: bool | None = None,
        truncate: bool | TruncationSideName | None = None,
        max_tokens: int | None = None,
        dimensions: int | None = None,
        encoding: EncodingName = "float32",
        prompt_name: str | None = None,
        prompt: str | None = None,
        ordered: bool = False,
        batch_size: int = 64,
        max_in_flight: int = 2048,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[tuple[Any, Any]]:
        """Embed any number of texts with flat memory, as hubwire.Client.stream_embed.

        `items` may be an async iterable too. A plain one is read on the event loop, so pass an async one where reading waits (files,
        sockets, databases). An async generator that is left early ends when it is collected; `contextlib.aclosing` ends it, and cancels the
        call, at once.
        """
        options = calls.embed_options(
            pooling=pooling,
            normalize=normalize,
            truncate=truncate,
            max_tokens=max_tokens,
            dimensions=dimensions,
            encoding=encoding,
            prompt_name=prompt_name,
            prompt=prompt,
        )
        window: StreamWindow[Any] = StreamWindow(batch_size=batch_size, max_in_flight=max_in_flight)
        question = calls.stream_embed(model, options, encoding, ordered=ordered, window=window)
        return self._stream(self._embedding.StreamEmbed, items, question, timeout_s)

    async def embed_tokens(
        self,
        texts: Iterable[str],
        *,
        model: str = "",
        normalize: bool | None = None,
        truncate: bool | TruncationSideName | None = None,
        max_tokens: int | None = None,
        encoding: EncodingName = "float32",
        timeout_s: float | None = None,
    ) -> list[TokenEmbeddings]:
        """Embed every token of each text, as hubwire.Client.embed_tokens."""
        question = calls.embed_tokens(texts, model=model, normalize=normalize, truncate=truncate, max_tokens=max_tokens, encoding=encoding)
        return await self._ask(self._embedding.EmbedTokens, question, timeout_s)
