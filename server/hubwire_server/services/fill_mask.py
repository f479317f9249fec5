"""hubwire.v1.FillMaskService."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import grpc

from hubwire.v1 import common_pb2, fill_mask_pb2
from hubwire_server.services import wire
from hubwire_server.tasks.fill_mask import FillMaskOptions, FillMaskRequest, FillMaskResult, FillMaskTask

NAME = "hubwire.v1.FillMaskService"

NO_OPTIONS = FillMaskOptions()
"""The options of a request that gives none."""
INLINE_ENCODE_TOKENS = 800
"""Up to so many candidates are written on the event loop, which takes about 1 ms; above, in a thread."""


class FillMaskService:
    """Serves the fill-mask task."""

    def __init__(self, task: FillMaskTask) -> None:
        self._task = task

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods of the service, for bytes."""
        methods: dict[str, Any] = {"FillMask": grpc.unary_unary_rpc_method_handler(self.fill_mask)}
        return grpc.method_handlers_generic_handler(NAME, methods)

    async def fill_mask(self, data: bytes, context: wire.Context) -> bytes:
        """FillMaskService.FillMask."""
        arrived_ns = time.perf_counter_ns()
        message = wire.parse(fill_mask_pb2.FillMaskRequest, data)
        request = FillMaskRequest(
            texts=list(message.texts),
            model=message.model,
            options=fill_mask_options(message.options) if message.HasField("options") else NO_OPTIONS,
            arrived_ns=arrived_ns,
        )
        result = await self._task.fill_mask(request, wire.caller(context))
        computed_ns = time.perf_counter_ns()
        encoded = await asyncio.to_thread(_encode, result) if result.ids.size > INLINE_ENCODE_TOKENS else _encode(result)
        result.timings.finish(arrived_ns, computed_ns)
        return encoded + wire.answer_rest(fill_mask_pb2.FillMaskResponse, model=result.model, usage=result.usage, timings=result.timings)


def fill_mask_options(message: fill_mask_pb2.FillMaskOptions) -> FillMaskOptions:
    """The options of a request. Raises HubwireError for an unknown enum number."""
    return FillMaskOptions(
        top_k=message.top_k,
        targets=tuple(message.targets),
        truncation=wire.truncation(message, "options"),
        offset_unit=wire.enum_value(wire.OFFSET_UNITS, message.offset_unit, "options.offset_unit"),
    )


def _encode(result: FillMaskResult) -> bytes:
    """The masks of all texts as bytes of `texts`."""
    mask_token, k = fill_mask_pb2.MaskToken, result.ids.shape[1]
    candidates = [
        mask_token(token=token, token_id=token_id, score=score, sequence=sequence)
        for token, token_id, score, sequence in zip(
            result.tokens, result.ids.ravel().tolist(), result.scores.ravel().tolist(), result.sequences, strict=True
        )
    ]
    masks = [
        fill_mask_pb2.MaskPrediction(span=common_pb2.Span(start=start, end=end), tokens=candidates[index * k : (index + 1) * k])
        for index, (start, end) in enumerate(result.spans.tolist())
    ]
    offsets = result.mask_offsets.tolist()
    texts = [fill_mask_pb2.FilledText(masks=masks[low:high]) for low, high in pairwise(offsets)]
    return fill_mask_pb2.FillMaskResponse(texts=texts).SerializeToString()
