"""hubwire.v1.TokenClassificationService: the labelled parts of texts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from hubwire.v1 import common_pb2, token_classification_pb2
from hubwire_server.services import wire
from hubwire_server.services.streaming import StreamMethod, serve_stream
from hubwire_server.status import to_status, visible
from hubwire_server.tasks.entities import Entity
from hubwire_server.tasks.stream import StreamEntry, StreamResult, StreamResults
from hubwire_server.tasks.texts import Truncation, Windows
from hubwire_server.tasks.token_classification import ClassifyTokensOptions, ClassifyTokensRequest, TokenClassificationTask, TokenPlan

if TYPE_CHECKING:
    from hubwire_server._native import AggregationStrategy

NAME = "hubwire.v1.TokenClassificationService"

AGGREGATIONS: Mapping[int, AggregationStrategy] = {
    token_classification_pb2.AGGREGATION_UNSPECIFIED: "simple",
    token_classification_pb2.AGGREGATION_NONE: "none",
    token_classification_pb2.AGGREGATION_SIMPLE: "simple",
    token_classification_pb2.AGGREGATION_FIRST: "first",
    token_classification_pb2.AGGREGATION_AVERAGE: "average",
    token_classification_pb2.AGGREGATION_MAX: "max",
}
NO_OPTIONS = ClassifyTokensOptions()
"""The options of a request that gives none."""
INLINE_ENCODE_ENTITIES = 500
"""Up to so many entities are written on the event loop, which takes about 1 ms; above, in a thread."""


class TokenClassificationService:
    """Serves token classification."""

    def __init__(self, task: TokenClassificationTask) -> None:
        self._task = task

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods of the service, for bytes."""
        methods: dict[str, Any] = {
            "ClassifyTokens": grpc.unary_unary_rpc_method_handler(self.classify_tokens),
            "StreamClassifyTokens": grpc.stream_stream_rpc_method_handler(self.stream_classify_tokens),
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    async def classify_tokens(self, data: bytes, context: wire.Context) -> bytes:
        """TokenClassificationService.ClassifyTokens."""
        arrived_ns = time.perf_counter_ns()
        message = wire.parse(token_classification_pb2.ClassifyTokensRequest, data)
        request = ClassifyTokensRequest(
            texts=list(message.texts),
            split_texts=[list(words.words) for words in message.split_texts],
            model=message.model,
            options=classify_options(message.options, "options") if message.HasField("options") else NO_OPTIONS,
            arrived_ns=arrived_ns,
        )
        result = await self._task.classify(request, wire.caller(context))
        computed_ns = time.perf_counter_ns()

        def encode() -> bytes:
            classifications = [classification(entities) for entities in result.entities]
            return token_classification_pb2.ClassifyTokensResponse(classifications=classifications).SerializeToString()

        large = sum(map(len, result.entities)) > INLINE_ENCODE_ENTITIES
        encoded = await asyncio.to_thread(encode) if large else encode()
        result.timings.finish(arrived_ns, computed_ns)
        return encoded + wire.answer_rest(
            token_classification_pb2.ClassifyTokensResponse, model=result.model, usage=result.usage, timings=result.timings
        )

    async def stream_classify_tokens(self, requests: AsyncIterator[bytes], context: wire.Context) -> AsyncIterator[bytes]:
        """TokenClassificationService.StreamClassifyTokens."""
        method = StreamMethod(
            request=token_classification_pb2.StreamClassifyTokensRequest,
            plan=lambda options: self._task.plan(options.model, classify_options(options.options, "options.options"), path="options."),
            entries=lambda items: [StreamEntry(item.id, item.text) for item in items.items],
            response=_stream_response,
        )
        async for response in serve_stream(method, self._task.texts, requests, context):
            yield response


def classify_options(message: token_classification_pb2.ClassifyTokensOptions, path: str) -> ClassifyTokensOptions:
    """The options of a request; path is where they are in it. Raises HubwireError for an unknown enum number."""
    long_text: Truncation | Windows | None = None
    match message.WhichOneof("long_text"):
        case "truncation":
            long_text = wire.truncation(message, path)
        case "windows":
            long_text = wire.windows(message.windows)
    return ClassifyTokensOptions(
        aggregation=wire.enum_value(AGGREGATIONS, message.aggregation, f"{path}.aggregation"),
        ignored_labels=tuple(message.ignored_labels.labels) if message.HasField("ignored_labels") else NO_OPTIONS.ignored_labels,
        long_text=long_text,
        offset_unit=wire.enum_value(wire.OFFSET_UNITS, message.offset_unit, f"{path}.offset_unit"),
    )


def classification(entities: Sequence[Entity]) -> token_classification_pb2.TokenClassification:
    """The labelled parts of one text as a message."""
    entity, span = token_classification_pb2.Entity, common_pb2.Span
    # An argument that is None takes as long as one that is not.
    return token_classification_pb2.TokenClassification(
        entities=[
            entity(label=label, score=score, span=span(start=start, end=end), text=text)
            if words is None
            else entity(label=label, score=score, span=span(start=start, end=end), text=text, words=span(start=words[0], end=words[1]))
            for label, score, start, end, text, words in entities
        ]
    )


def _stream_response(results: StreamResults, plan: TokenPlan) -> bytes:
    """One message of results."""
    start = time.perf_counter_ns()
    encoded = token_classification_pb2.StreamClassifyTokensResponse(
        results=[_stream_result(result) for result in results.results]
    ).SerializeToString()
    results.timings.finish(results.arrived_ns, start)
    return encoded + wire.answer_rest(
        token_classification_pb2.StreamClassifyTokensResponse, model=plan.model, usage=results.usage, timings=results.timings
    )


def _stream_result(result: StreamResult) -> token_classification_pb2.StreamClassifyTokensResult:
    """The answer to one item: its labelled parts, or its own error."""
    if result.error is not None:
        status = to_status(visible(result.error, f"{NAME}/StreamClassifyTokens, one text"))
        return token_classification_pb2.StreamClassifyTokensResult(id=result.id, error=status)
    return token_classification_pb2.StreamClassifyTokensResult(id=result.id, classification=classification(result.value))
