"""Documents by relevance: rerank."""

from __future__ import annotations

from collections.abc import Iterable

from hubwire._aio.core import Core
from hubwire._calls import rerank as calls
from hubwire._names import ScoringName, TruncationSideName
from hubwire._types import RankedDocument


class RerankMethods(Core):
    """Methods of Client, which hubwire.Client documents."""

    async def rerank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        model: str = "",
        top_n: int | None = None,
        scoring: ScoringName | None = None,
        truncate: bool | TruncationSideName | None = None,
        max_tokens: int | None = None,
        timeout_s: float | None = None,
    ) -> list[RankedDocument]:
        """Order documents by how relevant they are to a query, with a cross-encoder, as hubwire.Client.rerank."""
        question = calls.rerank(query, documents, model=model, top_n=top_n, scoring=scoring, truncate=truncate, max_tokens=max_tokens)
        return await self._ask(self._rerank.Rerank, question, timeout_s)
