"""Labelled parts of texts: classify_tokens and stream_classify_tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any

from hubwire import errors
from hubwire._aio.core import Core
from hubwire._calls import token_classification as calls
from hubwire._names import AggregationName, TruncationSideName
from hubwire._stream import StreamWindow
from hubwire._types import Entity


class TokenClassificationMethods(Core):
    """Methods of Client, which hubwire.Client documents."""

    async def classify_tokens(
        self,
        texts: Iterable[str] | None = None,
        *,
        words: Iterable[Iterable[str]] | None = None,
        model: str = "",
        aggregation: AggregationName | None = None,
        ignored_labels: Iterable[str] | None = None,
        truncate: bool | TruncationSideName | None = None,
        windows: bool = False,
        max_tokens: int | None = None,
        stride: int | None = None,
        timeout_s: float | None = None,
    ) -> list[list[Entity]]:
        """Find the labelled parts of each text: entities, parts of speech, sensitive data, as hubwire.Client.classify_tokens."""
        options = calls.classify_tokens_options(
            aggregation=aggregation,
            ignored_labels=ignored_labels,
            truncate=truncate,
            windows=windows,
            max_tokens=max_tokens,
            stride=stride,
        )
        return await self._ask(self._token_classification.ClassifyTokens, calls.classify_tokens(texts, words, model, options), timeout_s)

    def stream_classify_tokens(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        model: str = "",
        aggregation: AggregationName | None = None,
        ignored_labels: Iterable[str] | None = None,
        truncate: bool | TruncationSideName | None = None,
        windows: bool = False,
        max_tokens: int | None = None,
        stride: int | None = None,
        ordered: bool = False,
        batch_size: int = 64,
        max_in_flight: int = 2048,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[tuple[Any, list[Entity] | errors.HubwireError]]:
        """As hubwire.Client.stream_classify_tokens; `items` may be an async iterable too."""
        options = calls.classify_tokens_options(
            aggregation=aggregation,
            ignored_labels=ignored_labels,
            truncate=truncate,
            windows=windows,
            max_tokens=max_tokens,
            stride=stride,
        )
        window: StreamWindow[Any] = StreamWindow(batch_size=batch_size, max_in_flight=max_in_flight)
        question = calls.stream_classify_tokens(model, options, ordered=ordered, window=window)
        return self._stream(self._token_classification.StreamClassifyTokens, items, question, timeout_s)
