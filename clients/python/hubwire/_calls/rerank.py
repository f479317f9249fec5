"""Rerank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TypeAlias

from hubwire import errors
from hubwire._arguments import check_choice, check_text, check_texts
from hubwire._calls.common import limit, truncation
from hubwire._calls.question import Question
from hubwire._names import ScoringName, TruncationSideName
from hubwire._types import RankedDocument
from hubwire.v1 import rerank_pb2

RerankQuestion: TypeAlias = Question[rerank_pb2.RerankRequest, rerank_pb2.RerankResponse, list[RankedDocument]]

SCORINGS: Mapping[ScoringName, rerank_pb2.RerankScoring.ValueType] = {
    "sigmoid": rerank_pb2.RERANK_SCORING_SIGMOID,
    "raw": rerank_pb2.RERANK_SCORING_RAW,
}


def rerank(
    query: str,
    documents: Iterable[str],
    *,
    model: str = "",
    top_n: int | None = None,
    scoring: ScoringName | None = None,
    truncate: bool | TruncationSideName | None = None,
    max_tokens: int | None = None,
) -> RerankQuestion:
    """Rerank: documents, the most relevant first. Their texts are not sent back: they are here."""
    checked = check_texts("documents", documents, async_hint="")
    options = rerank_pb2.RerankOptions(top_n=limit("top_n", top_n), truncation=truncation(truncate, max_tokens))
    if scoring is not None:
        options.scoring = check_choice("scoring", scoring, SCORINGS)
    request = rerank_pb2.RerankRequest(
        model=check_text("model", model), query=check_text("query", query), documents=checked, options=options
    )
    return Question(request, partial(_ranked, documents=checked))


def _ranked(response: rerank_pb2.RerankResponse, *, documents: list[str]) -> list[RankedDocument]:
    unknown = [one.index for one in response.documents if one.index >= len(documents)]
    if unknown:
        raise errors.contract_error(f"the server ranked document {unknown[0]} of {len(documents)}")
    return [RankedDocument(index=one.index, score=one.score, document=documents[one.index]) for one in response.documents]
