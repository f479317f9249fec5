"""Documents in the order in which they answer a query, by a cross-encoder that reads each with the query."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.models.registry import ReadyModel
from hubwire_server.tasks.answer import Timings, Usage
from hubwire_server.tasks.text_classification import best_first, ready_for, sigmoid
from hubwire_server.tasks.text_task import TextTask, TextWork, batch_key
from hubwire_server.tasks.texts import Caller, Reading, Truncation, limit_tokens

RerankScoring = Literal["sigmoid", "raw"]
NEED = "one label, or two of which the second means relevant"


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankOptions:
    """How documents are ranked: see hubwire.v1.RerankOptions."""

    top_n: int = 0
    scoring: RerankScoring = "sigmoid"
    truncation: Truncation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """The order of documents for one query."""

    query: str
    documents: Sequence[str]
    model: str = ""
    options: RerankOptions = field(default_factory=RerankOptions)
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    """As in EmbedRequest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankResult:
    """The best documents, the most relevant first: indices, shape (k,), are their places in the request, scores has shape (k,)."""

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]
    model: ReadyModel
    usage: Usage
    timings: Timings


class RerankTask:
    """Ranks documents."""

    def __init__(self, texts: TextTask) -> None:
        self.texts = texts

    async def rerank(self, request: RerankRequest, caller: Caller) -> RerankResult:
        """The documents in their order, or HubwireError for the first one that cannot be read."""
        options = request.options
        model = ready_for(self.texts, request.model, Task.RERANK, NEED)
        limit = limit_tokens(model, options.truncation, "options.truncation", pair=True)
        self._check(request)
        work = TextWork(
            model=model,
            key=batch_key(model, "logits"),
            reading=Reading(limit_tokens=limit, truncation=options.truncation),
            texts=[request.query] * len(request.documents),
            pairs=request.documents,
            field="documents",
        )
        done = await self.texts.compute(work, caller, request.arrived_ns)
        scores = relevance(done.array(), options.scoring)
        order, best = best_first(scores[None], options.top_n or len(scores))
        return RerankResult(indices=order[0], scores=best[0], model=model, usage=done.usage, timings=done.timings)

    def _check(self, request: RerankRequest) -> None:
        """Raises HubwireError for a query or a document that no model would read."""
        texts = self.texts.texts
        if not request.query:
            raise HubwireError(Reason.FIELD_REQUIRED, "query is empty: say what to look for", field="query")
        if (error := texts.text_error(request.query, "query")) is not None:
            raise error
        texts.check(request.documents, "documents")
        texts.check_read_bytes(len(request.query.encode()) * len(request.documents), "query")


def relevance(logits: NDArray[np.float32], scoring: RerankScoring) -> NDArray[np.float64]:
    """The score of each document, shape (n,), from the logits of a head with one label or two, shape (n, 1) or (n, 2).

    The logit of two labels is that of the second less that of the first, whose sigmoid is the softmax of the second.
    """
    values = logits.astype(np.float64)
    raw = values[:, 0] if values.shape[1] == 1 else values[:, 1] - values[:, 0]
    return sigmoid(raw) if scoring == "sigmoid" else raw
