"""Labels for texts: classify_text, stream_classify_text and classify_zero_shot."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any

from hubwire import errors
from hubwire._aio.core import Core
from hubwire._calls import text_classification as calls
from hubwire._names import FunctionName, TruncationSideName
from hubwire._stream import StreamWindow
from hubwire._types import Classification


class TextClassificationMethods(Core):
    """Methods of Client, which hubwire.Client documents."""

    async def classify_text(
        self,
        texts: Iterable[str],
        pairs: Iterable[str] | None = None,
        *,
        model: str = "",
        top_k: int | None = None,
        labels: Iterable[str] | None = None,
        function: FunctionName | None = None,
        truncate: bool | TruncationSideName | None = None,
        max_tokens: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Classification]:
        """Score the labels of the model for each text, as hubwire.Client.classify_text."""
        options = calls.classify_text_options(top_k=top_k, labels=labels, function=function, truncate=truncate, max_tokens=max_tokens)
        return await self._ask(self._text_classification.ClassifyText, calls.classify_text(texts, pairs, model, options), timeout_s)

    def stream_classify_text(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        model: str = "",
        top_k: int | None = None,
        labels: Iterable[str] | None = None,
        function: FunctionName | None = None,
        truncate: bool | TruncationSideName | None = None,
        max_tokens: int | None = None,
        ordered: bool = False,
        batch_size: int = 64,
        max_in_flight: int = 2048,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[tuple[Any, Classification | errors.HubwireError]]:
        """As hubwire.Client.stream_classify_text; `items` may be an async iterable too."""
        options = calls.classify_text_options(top_k=top_k, labels=labels, function=function, truncate=truncate, max_tokens=max_tokens)
        window: StreamWindow[Any] = StreamWindow(batch_size=batch_size, max_in_flight=max_in_flight, takes_pairs=True)
        question = calls.stream_classify_text(model, options, ordered=ordered, window=window)
        return self._stream(self._text_classification.StreamClassifyText, items, question, timeout_s)

    async def classify_zero_shot(
        self,
        texts: Iterable[str],
        candidate_labels: Iterable[str],
        *,
        model: str = "",
        hypothesis_template: str | None = None,
        multi_label: bool = False,
        truncate: bool | TruncationSideName | None = None,
        max_tokens: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Classification]:
        """As hubwire.Client.classify_zero_shot."""
        question = calls.classify_zero_shot(
            texts,
            candidate_labels,
            model=model,
            hypothesis_template=hypothesis_template,
            multi_label=multi_label,
            truncate=truncate,
            max_tokens=max_tokens,
        )
        return await self._ask(self._text_classification.ClassifyZeroShot, question, timeout_s)
