"""ClassifyTokens and StreamClassifyTokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

from hubwire._arguments import check_choice, check_flag, check_iterable, check_text, check_texts
from hubwire._calls.common import OFFSET_UNIT, truncation, windows
from hubwire._calls.question import Question, StreamQuestion, check_number
from hubwire._names import AggregationName, TruncationSideName
from hubwire._stream import Item, StreamWindow
from hubwire._types import Entity
from hubwire.v1 import token_classification_pb2

_STREAM = "stream_classify_tokens"

ClassifyTokensQuestion: TypeAlias = Question[
    token_classification_pb2.ClassifyTokensRequest, token_classification_pb2.ClassifyTokensResponse, list[list[Entity]]
]
StreamClassifyTokensQuestion: TypeAlias = StreamQuestion[
    token_classification_pb2.StreamClassifyTokensRequest, token_classification_pb2.StreamClassifyTokensResponse, list[Entity]
]

AGGREGATIONS: Mapping[AggregationName, token_classification_pb2.Aggregation.ValueType] = {
    "none": token_classification_pb2.AGGREGATION_NONE,
    "simple": token_classification_pb2.AGGREGATION_SIMPLE,
    "first": token_classification_pb2.AGGREGATION_FIRST,
    "average": token_classification_pb2.AGGREGATION_AVERAGE,
    "max": token_classification_pb2.AGGREGATION_MAX,
}


def classify_tokens_options(
    *,
    aggregation: AggregationName | None = None,
    ignored_labels: Iterable[str] | None = None,
    truncate: bool | TruncationSideName | None = None,
    windows: bool = False,
    max_tokens: int | None = None,
    stride: int | None = None,
) -> token_classification_pb2.ClassifyTokensOptions:
    """The options of ClassifyTokens and StreamClassifyTokens."""
    options = token_classification_pb2.ClassifyTokensOptions(offset_unit=OFFSET_UNIT)
    if aggregation is not None:
        options.aggregation = check_choice("aggregation", aggregation, AGGREGATIONS)
    if ignored_labels is not None:
        # An empty set is sent too: it leaves nothing out, where no set at all leaves out "O".
        labels = check_texts("ignored_labels", ignored_labels, async_hint="")
        options.ignored_labels.CopyFrom(token_classification_pb2.LabelSet(labels=labels))
    _set_long_text(options, truncate, check_flag("windows", windows), max_tokens, stride)
    return options


def classify_tokens(
    texts: Iterable[str] | None,
    words: Iterable[Iterable[str]] | None,
    model: str,
    options: token_classification_pb2.ClassifyTokensOptions,
) -> ClassifyTokensQuestion:
    """ClassifyTokens: the entities of each text, or of each list of words."""
    if (texts is None) == (words is None):
        raise ValueError("pass texts, or words for texts that are split already, and not both")
    request = token_classification_pb2.ClassifyTokensRequest(model=check_text("model", model), options=options)
    if texts is not None:
        request.texts.extend(check_texts("texts", texts, async_hint=_STREAM))
    for index, part in enumerate(check_iterable("words", () if words is None else words, async_hint="", of="lists of words")):
        request.split_texts.add(words=check_texts(f"words[{index}]", part, async_hint=""))
    return Question(request, partial(_classifications, count=len(request.texts) + len(request.split_texts)))


def stream_classify_tokens(
    model: str, options: token_classification_pb2.ClassifyTokensOptions, *, ordered: bool, window: StreamWindow[Any]
) -> StreamClassifyTokensQuestion:
    """StreamClassifyTokens: the entities of each item."""
    opening = token_classification_pb2.StreamClassifyTokensOptions(
        model=check_text("model", model), options=options, ordered=check_flag("ordered", ordered)
    )
    return StreamQuestion(
        opening=token_classification_pb2.StreamClassifyTokensRequest(options=opening),
        window=window,
        message=_items_message,
        decode=lambda result, _: _entities(result.classification),
    )


def _set_long_text(
    options: token_classification_pb2.ClassifyTokensOptions,
    truncate: bool | TruncationSideName | None,
    in_windows: bool,
    max_tokens: int | None,
    stride: int | None,
) -> None:
    """What happens to long texts: they are cut, read in windows, or refused."""
    if in_windows:
        if truncate:
            raise ValueError("pass truncate or windows, not both")
        options.windows.CopyFrom(windows(stride, max_tokens))
        return
    if stride is not None:
        raise ValueError("stride is what windows share: pass windows=True as well")
    if max_tokens is not None and not truncate:
        raise ValueError("max_tokens needs truncate=True or windows=True")
    cut = truncation(truncate, max_tokens)
    if cut is not None:
        options.truncation.CopyFrom(cut)


def _items_message(items: Iterable[Item]) -> token_classification_pb2.StreamClassifyTokensRequest:
    message = token_classification_pb2.StreamClassifyTokensRequest()
    add = message.items.items.add
    for item in items:
        add(id=str(item.number), text=item.text)
    return message


def _classifications(response: token_classification_pb2.ClassifyTokensResponse, *, count: int) -> list[list[Entity]]:
    check_number(response.classifications, count)
    return [_entities(message) for message in response.classifications]


def _entities(message: token_classification_pb2.TokenClassification) -> list[Entity]:
    return [
        Entity(
            label=one.label,
            score=one.score,
            start=one.span.start,
            end=one.span.end,
            text=one.text,
            words=(one.words.start, one.words.end) if one.HasField("words") else None,
        )
        for one in message.entities
    ]
