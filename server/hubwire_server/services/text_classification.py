"""hubwire.v1.TextClassificationService: labels of the model's head, and labels of the caller's choice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
import numpy as np

from hubwire.v1 import text_classification_pb2
from hubwire_server.services import wire
from hubwire_server.services.streaming import StreamMethod, serve_stream
from hubwire_server.status import to_status, visible
from hubwire_server.tasks.stream import StreamEntry, StreamResults
from hubwire_server.tasks.text_classification import (
    ClassificationFunction,
    ClassifyOptions,
    ClassifyPlan,
    ClassifyTextRequest,
    ClassifyTextResult,
    RankedLabels,
    TextClassificationTask,
)
from hubwire_server.tasks.zero_shot import DEFAULT_TEMPLATE, ClassifyZeroShotRequest, ZeroShotOptions, ZeroShotTask

NAME = "hubwire.v1.TextClassificationService"

FUNCTIONS: Mapping[int, ClassificationFunction] = {
    text_classification_pb2.CLASSIFICATION_FUNCTION_UNSPECIFIED: "",
    text_classification_pb2.CLASSIFICATION_FUNCTION_SIGMOID: "sigmoid",
    text_classification_pb2.CLASSIFICATION_FUNCTION_SOFTMAX: "softmax",
    text_classification_pb2.CLASSIFICATION_FUNCTION_NONE: "none",
}
NO_OPTIONS = ClassifyOptions()
"""The options of a request that gives none."""
INLINE_ENCODE_LABELS = 2_000
"""Up to so many labels are written on the event loop, which takes about 1 ms; above, in a thread."""


class TextClassificationService:
    """Serves text classification and zero-shot classification."""

    def __init__(self, task: TextClassificationTask, zero_shot: ZeroShotTask) -> None:
        self._task = task
        self._zero_shot = zero_shot

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods of the service, for bytes."""
        methods: dict[str, Any] = {
            "ClassifyText": grpc.unary_unary_rpc_method_handler(self.classify_text),
            "StreamClassifyText": grpc.stream_stream_rpc_method_handler(self.stream_classify_text),
            "ClassifyZeroShot": grpc.unary_unary_rpc_method_handler(self.classify_zero_shot),
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    async def classify_text(self, data: bytes, context: wire.Context) -> bytes:
        """TextClassificationService.ClassifyText."""
        arrived_ns = time.perf_counter_ns()
        message = wire.parse(text_classification_pb2.ClassifyTextRequest, data)
        request = ClassifyTextRequest(
            texts=list(message.texts),
            pairs=list(message.text_pairs),
            model=message.model,
            options=classify_options(message.options, "options") if message.HasField("options") else NO_OPTIONS,
            arrived_ns=arrived_ns,
        )
        result = await self._task.classify(request, wire.caller(context))
        return await _answer(text_classification_pb2.ClassifyTextResponse, result, arrived_ns)

    async def stream_classify_text(self, requests: AsyncIterator[bytes], context: wire.Context) -> AsyncIterator[bytes]:
        """TextClassificationService.StreamClassifyText."""
        method = StreamMethod(
            request=text_classification_pb2.StreamClassifyTextRequest,
            # A stream may hold pairs among its texts.
            plan=lambda options: self._task.plan(
                options.model, classify_options(options.options, "options.options"), path="options.", pair=True
            ),
            entries=text_entries,
            response=_stream_response,
        )
        async for response in serve_stream(method, self._task.texts, requests, context):
            yield response

    async def classify_zero_shot(self, data: bytes, context: wire.Context) -> bytes:
        """TextClassificationService.ClassifyZeroShot."""
        arrived_ns = time.perf_counter_ns()
        message = wire.parse(text_classification_pb2.ClassifyZeroShotRequest, data)
        options = message.options
        request = ClassifyZeroShotRequest(
            texts=list(message.texts),
            labels=list(message.candidate_labels),
            model=message.model,
            options=ZeroShotOptions(
                hypothesis_template=options.hypothesis_template or DEFAULT_TEMPLATE,
                multi_label=options.multi_label,
                truncation=wire.truncation(options, "options"),
            ),
            arrived_ns=arrived_ns,
        )
        result = await self._zero_shot.classify(request, wire.caller(context))
        return await _answer(text_classification_pb2.ClassifyZeroShotResponse, result, arrived_ns)


def text_entries(items: text_classification_pb2.StreamClassifyTextItems) -> list[StreamEntry]:
    """The texts and pairs of a message of a stream."""
    return [StreamEntry(item.id, item.text, item.text_pair if item.HasField("text_pair") else None) for item in items.items]


def classify_options(message: text_classification_pb2.ClassifyTextOptions, path: str) -> ClassifyOptions:
    """The options of a request; path is where they are in it. Raises HubwireError for an unknown enum number."""
    return ClassifyOptions(
        top_k=message.top_k,
        labels=tuple(message.labels),
        function=wire.enum_value(FUNCTIONS, message.function, f"{path}.function"),
        truncation=wire.truncation(message, path),
    )


async def _answer(answer: Callable[..., Any], result: ClassifyTextResult, arrived_ns: int) -> bytes:
    """The bytes of an answer, of a type that has classifications."""
    computed_ns = time.perf_counter_ns()

    def encode() -> bytes:
        encoded: bytes = answer(classifications=_classifications(result.ranked)).SerializeToString()
        return encoded

    encoded = await asyncio.to_thread(encode) if result.ranked.scores.size > INLINE_ENCODE_LABELS else encode()
    result.timings.finish(arrived_ns, computed_ns)
    return encoded + wire.answer_rest(answer, model=result.model, usage=result.usage, timings=result.timings)


def _classifications(ranked: RankedLabels) -> list[text_classification_pb2.Classification]:
    """The labels of each text as messages."""
    labels = ranked.labels
    label_score = text_classification_pb2.LabelScore
    return [
        text_classification_pb2.Classification(
            labels=[label_score(label=labels[column], score=score) for column, score in zip(columns, scores, strict=True)]
        )
        for columns, scores in zip(ranked.columns.tolist(), ranked.scores.tolist(), strict=True)
    ]


def _stream_response(results: StreamResults, plan: ClassifyPlan) -> bytes:
    """One message of results. All of their labels are ranked together."""
    start = time.perf_counter_ns()
    logits = [result.value for result in results.results if result.error is None]
    classifications = iter(_classifications(plan.rank(np.stack(logits))) if logits else ())
    message = text_classification_pb2.StreamClassifyTextResponse(
        results=[
            text_classification_pb2.StreamClassifyTextResult(id=result.id, classification=next(classifications))
            if result.error is None
            else text_classification_pb2.StreamClassifyTextResult(
                id=result.id, error=to_status(visible(result.error, f"{NAME}/StreamClassifyText, one text"))
            )
            for result in results.results
        ]
    )
    encoded = message.SerializeToString()
    results.timings.finish(results.arrived_ns, start)
    return encoded + wire.answer_rest(
        text_classification_pb2.StreamClassifyTextResponse, model=plan.model, usage=results.usage, timings=results.timings
    )
