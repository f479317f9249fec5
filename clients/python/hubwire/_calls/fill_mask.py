"""FillMask."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TypeAlias

import numpy as np

from hubwire._arguments import check_text, check_texts
from hubwire._calls.common import OFFSET_UNIT, choices, limit, truncation
from hubwire._calls.question import Question, check_number
from hubwire._names import TruncationSideName
from hubwire._types import MaskPrediction
from hubwire.v1 import fill_mask_pb2

FillMaskQuestion: TypeAlias = Question[fill_mask_pb2.FillMaskRequest, fill_mask_pb2.FillMaskResponse, list[list[MaskPrediction]]]


def fill_mask(
    texts: Iterable[str],
    *,
    model: str = "",
    top_k: int | None = None,
    targets: Iterable[str] | None = None,
    truncate: bool | TruncationSideName | None = None,
    max_tokens: int | None = None,
) -> FillMaskQuestion:
    """FillMask: the best tokens for each mask of each text."""
    checked = check_texts("texts", texts, async_hint="")
    request = fill_mask_pb2.FillMaskRequest(
        model=check_text("model", model),
        texts=checked,
        options=fill_mask_pb2.FillMaskOptions(
            top_k=limit("top_k", top_k),
            targets=choices("targets", targets, meaning="the whole vocabulary"),
            truncation=truncation(truncate, max_tokens),
            offset_unit=OFFSET_UNIT,
        ),
    )
    return Question(request, partial(_filled, count=len(checked)))


def _filled(response: fill_mask_pb2.FillMaskResponse, *, count: int) -> list[list[MaskPrediction]]:
    check_number(response.texts, count)
    return [[_prediction(mask) for mask in text.masks] for text in response.texts]


def _prediction(message: fill_mask_pb2.MaskPrediction) -> MaskPrediction:
    return MaskPrediction(
        start=message.span.start,
        end=message.span.end,
        tokens=tuple(one.token for one in message.tokens),
        token_ids=np.array([one.token_id for one in message.tokens], dtype=np.int64),
        scores=np.array([one.score for one in message.tokens], dtype=np.float32),
        sequences=tuple(one.sequence for one in message.tokens),
    )
