"""hubwire.v1.RerankService."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import grpc

from hubwire.v1 import rerank_pb2
from hubwire_server.services import wire
from hubwire_server.tasks.rerank import RerankOptions, RerankRequest, RerankScoring, RerankTask

NAME = "hubwire.v1.RerankService"

SCORINGS: Mapping[int, RerankScoring] = {
    rerank_pb2.RERANK_SCORING_UNSPECIFIED: "sigmoid",
    rerank_pb2.RERANK_SCORING_SIGMOID: "sigmoid",
    rerank_pb2.RERANK_SCORING_RAW: "raw",
}


class RerankService:
    """Serves the rerank task."""

    def __init__(self, task: RerankTask) -> None:
        self._task = task

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods of the service, for bytes."""
        methods: dict[str, Any] = {"Rerank": grpc.unary_unary_rpc_method_handler(self.rerank)}
        return grpc.method_handlers_generic_handler(NAME, methods)

    async def rerank(self, data: bytes, context: wire.Context) -> bytes:
        """RerankService.Rerank."""
        arrived_ns = time.perf_counter_ns()
        message = wire.parse(rerank_pb2.RerankRequest, data)
        options = message.options
        documents = list(message.documents)
        request = RerankRequest(
            query=message.query,
            documents=documents,
            model=message.model,
            options=RerankOptions(
                top_n=options.top_n,
                scoring=wire.enum_value(SCORINGS, options.scoring, "options.scoring"),
                truncation=wire.truncation(options, "options"),
            ),
            arrived_ns=arrived_ns,
        )
        result = await self._task.rerank(request, wire.caller(context))
        computed_ns = time.perf_counter_ns()
        ranked = [
            rerank_pb2.RankedDocument(index=index, score=score, document=documents[index] if options.return_documents else "")
            for index, score in zip(result.indices.tolist(), result.scores.tolist(), strict=True)
        ]
        encoded = rerank_pb2.RerankResponse(documents=ranked).SerializeToString()
        result.timings.finish(arrived_ns, computed_ns)
        return encoded + wire.answer_rest(rerank_pb2.RerankResponse, model=result.model, usage=result.usage, timings=result.timings)
