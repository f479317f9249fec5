"""ClassifyText, StreamClassifyText and ClassifyZeroShot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from hubwire import errors
from hubwire._arguments import check_choice, check_flag, check_text, check_texts
from hubwire._calls.common import choices, limit, pairs_of, truncation
from hubwire._calls.question import Question, StreamQuestion, check_number
from hubwire._names import FunctionName, TruncationSideName
from hubwire._stream import Item, StreamWindow
from hubwire._types import Classification
from hubwire.v1 import text_classification_pb2

_STREAM = "stream_classify_text"

ClassifyTextQuestion: TypeAlias = Question[
    text_classification_pb2.ClassifyTextRequest, text_classification_pb2.ClassifyTextResponse, list[Classification]
]
ZeroShotQuestion: TypeAlias = Question[
    text_classification_pb2.ClassifyZeroShotRequest, text_classification_pb2.ClassifyZeroShotResponse, list[Classification]
]
StreamClassifyTextQuestion: TypeAlias = StreamQuestion[
    text_classification_pb2.StreamClassifyTextRequest, text_classification_pb2.StreamClassifyTextResponse, Classification
]

FUNCTIONS: Mapping[FunctionName, text_classification_pb2.ClassificationFunction.ValueType] = {
    "sigmoid": text_classification_pb2.CLASSIFICATION_FUNCTION_SIGMOID,
    "softmax": text_classification_pb2.CLASSIFICATION_FUNCTION_SOFTMAX,
    "none": text_classification_pb2.CLASSIFICATION_FUNCTION_NONE,
}


def classify_text_options(
    *,
    top_k: int | None = None,
    labels: Iterable[str] | None = None,
    function: FunctionName | None = None,
    truncate: bool | TruncationSideName | None = None,
    max_tokens: int | None = None,
) -> text_classification_pb2.ClassifyTextOptions:
    """The options of ClassifyText and StreamClassifyText. None leaves a choice to the model."""
    options = text_classification_pb2.ClassifyTextOptions(
        top_k=limit("top_k", top_k),
        labels=choices("labels", labels, meaning="all labels"),
        truncation=truncation(truncate, max_tokens),
    )
    if function is not None:
        options.function = check_choice("function", function, FUNCTIONS)
    return options


def classify_text(
    texts: Iterable[str], pairs: Iterable[str] | None, model: str, options: text_classification_pb2.ClassifyTextOptions
) -> ClassifyTextQuestion:
    """ClassifyText: the labels of each text, or of each pair."""
    checked = check_texts("texts", texts, async_hint=_STREAM)
    request = text_classification_pb2.ClassifyTextRequest(
        model=check_text("model", model),
        texts=checked,
        text_pairs=pairs_of(checked, pairs, async_hint=_STREAM),
        options=options,
    )
    return Question(request, partial(_classifications, count=len(checked)))


def stream_classify_text(
    model: str, options: text_classification_pb2.ClassifyTextOptions, *, ordered: bool, window: StreamWindow[Any]
) -> StreamClassifyTextQuestion:
    """StreamClassifyText: the labels of each item."""
    opening = text_classification_pb2.StreamClassifyTextOptions(
        model=check_text("model", model), options=options, ordered=check_flag("ordered", ordered)
    )
    return StreamQuestion(
        opening=text_classification_pb2.StreamClassifyTextRequest(options=opening),
        window=window,
        message=_items_message,
        decode=lambda result, _: _classification(result.classification),
    )


def classify_zero_shot(
    texts: Iterable[str],
    candidate_labels: Iterable[str],
    *,
    model: str = "",
    hypothesis_template: str | None = None,
    multi_label: bool = False,
    truncate: bool | TruncationSideName | None = None,
    max_tokens: int | None = None,
) -> ZeroShotQuestion:
    """ClassifyZeroShot: all candidate labels for each text."""
    checked = check_texts("texts", texts, async_hint="")
    if hypothesis_template == "":
        raise ValueError("hypothesis_template is empty: pass a sentence with {} in it, or None for the default one")
    request = text_classification_pb2.ClassifyZeroShotRequest(
        model=check_text("model", model),
        texts=checked,
        candidate_labels=check_texts("candidate_labels", candidate_labels, async_hint=""),
        options=text_classification_pb2.ClassifyZeroShotOptions(
            hypothesis_template="" if hypothesis_template is None else check_text("hypothesis_template", hypothesis_template),
            multi_label=check_flag("multi_label", multi_label),
            truncation=truncation(truncate, max_tokens),
        ),
    )
    return Question(request, partial(_zero_shot, count=len(checked)))


def _items_message(items: Iterable[Item]) -> text_classification_pb2.StreamClassifyTextRequest:
    message = text_classification_pb2.StreamClassifyTextRequest()
    add = message.items.items.add
    for item in items:
        add(id=str(item.number), text=item.text, text_pair=item.text_pair)
    return message


def _classifications(response: text_classification_pb2.ClassifyTextResponse, *, count: int) -> list[Classification]:
    return _read_all(response.classifications, count)


def _zero_shot(response: text_classification_pb2.ClassifyZeroShotResponse, *, count: int) -> list[Classification]:
    return _read_all(response.classifications, count)


def _read_all(messages: Sequence[text_classification_pb2.Classification], count: int) -> list[Classification]:
    check_number(messages, count)
    return [_classification(message) for message in messages]


def _classification(message: text_classification_pb2.Classification) -> Classification:
    if not message.labels:
        raise errors.contract_error("the server sent no label for a text")
    scores = np.array([one.score for one in message.labels], dtype=np.float32)
    return Classification(labels=tuple(one.label for one in message.labels), scores=scores)
