"""Documents by relevance: rerank."""

from __future__ import annotations

from collections.abc import Iterable

from hubwire._calls import rerank as calls
from hubwire._names import ScoringName, TruncationSideName
from hubwire._sync.core import Core
from hubwire._types import RankedDocument


class RerankMethods(Core):
    """Methods of Client."""

    def rerank(
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
        """Order documents by how relevant they are to a query, with a cross-encoder.

        Args:
            query: what is looked for.
            documents: at least one text, none of them empty.
            model: the name of a served model; "" for the default one.
            top_n: how many documents to return; None for all.
            scoring: "sigmoid" (0 to 1) or "raw" (the logit); None for "sigmoid".
            truncate, max_tokens, timeout_s: as in `embed`; of query and document the longer one is cut first.

        Returns:
            One RankedDocument a document, the most relevant first: index in `documents`, score, document.
        """
        question = calls.rerank(query, documents, model=model, top_n=top_n, scoring=scoring, truncate=truncate, max_tokens=max_tokens)
        return self._ask(self._rerank.Rerank, question, timeout_s)
