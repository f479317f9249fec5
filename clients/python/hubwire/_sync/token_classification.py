"""Labelled parts of texts: classify_tokens and stream_classify_tokens."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from hubwire import errors
from hubwire._calls import token_classification as calls
from hubwire._names import AggregationName, TruncationSideName
from hubwire._stream import StreamWindow
from hubwire._sync.core import Core
from hubwire._types import Entity


class TokenClassificationMethods(Core):
    """Methods of Client."""

    def classify_tokens(
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
        """Find the labelled parts of each text: entities, parts of speech, sensitive data. One bad text fails the whole call;
        stream_classify_tokens does not have that rule.

        Args:
            texts: at least one text, none of them empty.
            words: in the place of texts: lists of words, for texts that are split already.
            model: the name of a served model; "" for the default one.
            aggregation: "none" (each token), "simple", "first", "average" or "max", as in transformers; None for "simple".
            ignored_labels: leave these out; None for "O" alone, an empty list for none.
            truncate: cut texts that are too long, as in `embed`.
            windows: read texts that are too long in overlapping parts, and join what is found in them. Not together with `truncate`.
            Where both
                are left out the server refuses long texts (TEXT_TOO_LONG).
            max_tokens: the tokens to keep, or of a window; None for the model's limit.
            stride: the tokens that neighbouring windows share; None for a quarter.
            timeout_s: as in `embed`.

        Returns:
            One list of Entity a text, in their order: label, score, start, end, text. For words, start and end count in the words joined by
            single spaces, and `words` is the range of words.
        """
        options = calls.classify_tokens_options(
            aggregation=aggregation,
            ignored_labels=ignored_labels,
            truncate=truncate,
            windows=windows,
            max_tokens=max_tokens,
            stride=stride,
        )
        return self._ask(self._token_classification.ClassifyTokens, calls.classify_tokens(texts, words, model, options), timeout_s)

    def stream_classify_tokens(
        self,
        items: Iterable[Any],
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
    ) -> Generator[tuple[Any, list[Entity] | errors.HubwireError]]:
        """Find the labelled parts of any number of texts with flat memory, by the rules of `stream_embed`.

        Args:
            items, ordered, batch_size, max_in_flight, timeout_s: as in `stream_embed`.
            model, aggregation, ignored_labels, truncate, windows, max_tokens, stride: as in `classify_tokens`.

        Yields:
            (id, list of Entity), or (id, error) where this one text failed.
        """
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
        return self._stream(self._token_classification.StreamClassifyTokens, items, question, timeout_s, method="stream_classify_tokens")
