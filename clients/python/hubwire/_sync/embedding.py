"""Vectors: embed, stream_embed and embed_tokens."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, Literal, Unpack, overload

from hubwire import errors
from hubwire._calls import embedding as calls
from hubwire._names import EncodingName, FloatEncoding, PoolingName, TruncationSideName
from hubwire._stream import IdT, StreamWindow
from hubwire._sync.core import Core
from hubwire._types import EmbedOptions, Matrix, PackedMatrix, StreamOptions, TokenEmbeddings


class EmbeddingMethods(Core):
    """Methods of Client."""

    @overload
    def embed(self, texts: Iterable[str], *, encoding: FloatEncoding = "float32", **options: Unpack[EmbedOptions]) -> Matrix: ...
    @overload
    def embed(self, texts: Iterable[str], *, encoding: Literal["binary"], **options: Unpack[EmbedOptions]) -> PackedMatrix: ...
    def embed(
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
        """Embed texts: one vector each, in their order. One bad text fails the whole call; stream_embed does not have that rule.

        Args:
            texts: at least one text, none of them empty. One bare str is a TypeError: pass a list.
            model: the name of a served model; "" for the default one.
            pooling: "mean", "max", "cls", "last_token", "mean_sqrt_len" or "weighted_mean"; None for the model's own.
            normalize: scale vectors to length 1; None for what the model does itself.
            truncate: True or "right" keeps the beginning of a text that is too long, "left" its end. None and False let the server refuse
                it (TEXT_TOO_LONG).
            max_tokens: the tokens to keep, special tokens included; None for the model's limit. Needs `truncate`.
            dimensions: keep the first values of each vector (Matryoshka); None for all.
            encoding: what travels. "float32", "float16" (half the bytes, about 3 digits) and "int8" (a quarter, one scale a vector) come
                back as float32; "binary" comes back as it travels.
            prompt_name: one of the model's own prompts ("query", "document"); None for its default one.
            prompt: a prompt by value; "" for none at all. Not together with `prompt_name`.
            timeout_s: seconds for this call; None for the client's timeout, math.inf for no limit.

        Returns:
            (n, dimensions) float32; for "binary" (n, ceil(dimensions / 8)) uint8, one bit a value, set where the value is above zero, as
            numpy.packbits gives.
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
        return self._ask(self._embedding.Embed, calls.embed(texts, model, options, encoding), timeout_s)

    @overload
    def stream_embed(
        self, items: Iterable[str], *, encoding: FloatEncoding = "float32", **options: Unpack[StreamOptions]
    ) -> Generator[tuple[int, Matrix | errors.HubwireError]]: ...
    @overload
    def stream_embed(
        self, items: Iterable[tuple[IdT, str]], *, encoding: FloatEncoding = "float32", **options: Unpack[StreamOptions]
    ) -> Generator[tuple[IdT, Matrix | errors.HubwireError]]: ...
    @overload
    def stream_embed(
        self, items: Iterable[str], *, encoding: Literal["binary"], **options: Unpack[StreamOptions]
    ) -> Generator[tuple[int, PackedMatrix | errors.HubwireError]]: ...
    @overload
    def stream_embed(
        self, items: Iterable[tuple[IdT, str]], *, encoding: Literal["binary"], **options: Unpack[StreamOptions]
    ) -> Generator[tuple[IdT, PackedMatrix | errors.HubwireError]]: ...
    def stream_embed(
        self,
        items: Iterable[Any],
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
    ) -> Generator[tuple[Any, Any]]:
        """Embed any number of texts with flat memory, as their results are asked for.

        The iterable is read on a thread of its own, and no further than `max_in_flight` items ahead of the results that were handed over.
        What it raises is raised here, after the results of the items before. Closing the generator early cancels the call. The stream is
        not repeated when it breaks.

        Args:
            items: texts, whose ids are then 0, 1, 2, ...; or tuples of an id and a text. Ids come back as they are, may be of any type and
                may repeat.
            ordered: results in the order of the items; else each as soon as it is ready.
            batch_size: the most items in one message. A message takes what is there, and does not wait to be full.
            max_in_flight: the most items that were read and not yet answered.
            timeout_s: seconds for the whole stream; None for no limit, whatever the client's timeout.
            model, pooling, normalize, truncate, max_tokens, dimensions, encoding, prompt_name, prompt: as in `embed`.

        Yields:
            (id, vector): (dimensions,) float32, or for "binary" (ceil(dimensions / 8),) uint8; or (id, error) where this one text failed: a
            HubwireError that is handed over, not raised, and does not end the stream.
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
        return self._stream(self._embedding.StreamEmbed, items, question, timeout_s, method="stream_embed")

    def embed_tokens(
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
        """Embed every token of each text. `normalize` scales each token's vector to length 1; None leaves them as they are. The other
        arguments are those of `embed`.

        Returns:
            One TokenEmbeddings a text, in their order: vectors (t, dimensions), token_ids, spans in code points, special_tokens_mask.
        """
        question = calls.embed_tokens(texts, model=model, normalize=normalize, truncate=truncate, max_tokens=max_tokens, encoding=encoding)
        return self._ask(self._embedding.EmbedTokens, question, timeout_s)
