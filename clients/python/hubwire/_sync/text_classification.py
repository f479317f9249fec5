"""Labels for texts: classify_text, stream_classify_text and classify_zero_shot."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from hubwire import errors
from hubwire._calls import text_classification as calls
from hubwire._names import FunctionName, TruncationSideName
from hubwire._stream import StreamWindow
from hubwire._sync.core import Core
from hubwire._types import Classification


class TextClassificationMethods(Core):
    """Methods of Client."""

    def classify_text(
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
        """Score the labels of the model for each text. One bad text fails the whole call; stream_classify_text does not have that rule.

        Args:
            texts: at least one text, none of them empty.
            pairs: the second text of each pair, for models that compare two texts; None for single texts.
            model: the name of a served model; "" for the default one.
            top_k: how many labels to return for each text; None for all.
            labels: restrict the answer to these labels; scores are what they would be without it. None for all.
            function: "sigmoid", "softmax" or "none" (the logits); None for what the model's problem_type asks for.
            truncate, max_tokens, timeout_s: as in `embed`; of a pair the longer text is cut first.

        Returns:
            One Classification a text, in their order: labels and scores, the highest first.
        """
        options = calls.classify_text_options(top_k=top_k, labels=labels, function=function, truncate=truncate, max_tokens=max_tokens)
        return self._ask(self._text_classification.ClassifyText, calls.classify_text(texts, pairs, model, options), timeout_s)

    def stream_classify_text(
        self,
        items: Iterable[Any],
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
    ) -> Generator[tuple[Any, Classification | errors.HubwireError]]:
        """Classify any number of texts or pairs with flat memory, by the rules of `stream_embed`.

        Args:
            items: texts, whose ids are then 0, 1, 2, ...; or tuples of an id and a text; or tuples of an id and a tuple of two texts.
            ordered, batch_size, max_in_flight, timeout_s: as in `stream_embed`.
            model, top_k, labels, function, truncate, max_tokens: as in `classify_text`.

        Yields:
            (id, Classification), or (id, error) where this one item failed.
        """
        options = calls.classify_text_options(top_k=top_k, labels=labels, function=function, truncate=truncate, max_tokens=max_tokens)
        window: StreamWindow[Any] = StreamWindow(batch_size=batch_size, max_in_flight=max_in_flight, takes_pairs=True)
        question = calls.stream_classify_text(model, options, ordered=ordered, window=window)
        return self._stream(self._text_classification.StreamClassifyText, items, question, timeout_s, method="stream_classify_text")

    def classify_zero_shot(
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
        """Score labels that the model was not trained for, with a natural language inference model. It costs one text pair for each text
        and label.

        Args:
            texts: at least one text, none of them empty.
            candidate_labels: at least one label.
            model: the name of a served model; "" for the default one for zero-shot classification.
            hypothesis_template: the sentence that each label is put into, at "{}"; None for "This example is {}.".
            multi_label: score each label on its own; else the scores of a text sum to 1.
            truncate, max_tokens, timeout_s: as in `embed`; texts are cut, never labels.

        Returns:
            One Classification a text, in their order, with all candidate labels.
        """
        question = calls.classify_zero_shot(
            texts,
            candidate_labels,
            model=model,
            hypothesis_template=hypothesis_template,
            multi_label=multi_label,
            truncate=truncate,
            max_tokens=max_tokens,
        )
        return self._ask(self._text_classification.ClassifyZeroShot, question, timeout_s)
