"""hubwire.v1.EmbeddingService. Requests and responses are bytes here: vectors are written by the Rust core, straight into them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import grpc
import numpy as np

from hubwire.v1 import embedding_pb2
from hubwire_server._native import NativeError, encode_stream_results, encode_token_embeddings, encode_vectors
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.services import wire
from hubwire_server.services.streaming import StreamMethod, serve_stream
from hubwire_server.status import to_status, visible
from hubwire_server.tasks.embedding import (
    EmbeddingTask,
    EmbedOptions,
    EmbedPlan,
    EmbedRequest,
    EmbedTokensRequest,
    VectorFormat,
)
from hubwire_server.tasks.stream import StreamEntry, StreamResult, StreamResults

NAME = "hubwire.v1.EmbeddingService"
VECTORS_FIELD = embedding_pb2.EmbedResponse.VECTORS_FIELD_NUMBER

POOLINGS: Mapping[int, str] = {
    embedding_pb2.POOLING_UNSPECIFIED: "",
    embedding_pb2.POOLING_MEAN: "mean",
    embedding_pb2.POOLING_MAX: "max",
    embedding_pb2.POOLING_CLS: "cls",
    embedding_pb2.POOLING_LAST_TOKEN: "lasttoken",
    embedding_pb2.POOLING_MEAN_SQRT_LEN: "mean_sqrt_len_tokens",
    embedding_pb2.POOLING_WEIGHTED_MEAN: "weightedmean",
}
NO_OPTIONS = EmbedOptions()
"""The options of a request that gives none."""
INLINE_ENCODE_VALUES = 262_144
"""Up to so many values token vectors are encoded on the event loop, which takes less than 1 ms; above, in a thread, without the GIL."""


class EmbeddingService:
    """Serves the embedding task. more is further methods by name: those for sparse vectors (sparse_embedding.py)."""

    def __init__(self, task: EmbeddingTask, more: Mapping[str, Any]) -> None:
        self._task = task
        self._more = more

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods of the service, for bytes."""
        methods: dict[str, Any] = {
            "Embed": grpc.unary_unary_rpc_method_handler(self.embed),
            "StreamEmbed": grpc.stream_stream_rpc_method_handler(self.stream_embed),
            "EmbedTokens": grpc.unary_unary_rpc_method_handler(self.embed_tokens),
            **self._more,
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    async def embed(self, data: bytes, context: wire.Context) -> bytes:
        """EmbeddingService.Embed."""
        arrived_ns = time.perf_counter_ns()
        message = wire.parse(embedding_pb2.EmbedRequest, data)
        options = embed_options(message.options, "options") if message.HasField("options") else NO_OPTIONS
        request = EmbedRequest(texts=list(message.texts), model=message.model, options=options, arrived_ns=arrived_ns)
        result = await self._task.embed(request, wire.caller(context))
        computed_ns = time.perf_counter_ns()
        try:
            vectors = encode_vectors(
                result.vectors,
                field=VECTORS_FIELD,
                dimensions=result.format.dimensions,
                normalize=result.format.normalize,
                encoding=result.format.encoding,
            )
        except NativeError as error:
            raise _encoding_error(error, f"texts[{error.index}]") from error
        result.timings.finish(arrived_ns, computed_ns)
        return vectors + wire.answer_rest(
            embedding_pb2.EmbedResponse,
            dimensions=result.format.dimensions,
            model=result.model,
            usage=result.usage,
            timings=result.timings,
        )

    async def embed_tokens(self, data: bytes, context: wire.Context) -> bytes:
        """EmbeddingService.EmbedTokens."""
        arrived_ns = time.perf_counter_ns()
        message = wire.parse(embedding_pb2.EmbedTokensRequest, data)
        options = message.options
        request = EmbedTokensRequest(
            texts=list(message.texts),
            model=message.model,
            truncation=wire.truncation(options, "options"),
            offset_unit=wire.enum_value(wire.OFFSET_UNITS, options.offset_unit, "options.offset_unit"),
            arrived_ns=arrived_ns,
        )
        encoding = wire.enum_value(wire.ENCODINGS, options.encoding, "options.encoding")
        result = await self._task.embed_tokens(request, wire.caller(context))
        computed_ns = time.perf_counter_ns()
        batch = result.batch
        assert batch.spans is not None
        assert batch.special_tokens_mask is not None
        try:
            encode = partial(
                encode_token_embeddings,
                result.vectors,
                batch.offsets,
                batch.ids,
                batch.spans,
                batch.special_tokens_mask,
                normalize=options.normalize,
                encoding=encoding,
            )
            embeddings = await asyncio.to_thread(encode) if result.vectors.size > INLINE_ENCODE_VALUES else encode()
        except NativeError as error:
            raise _encoding_error(error, f"texts[{error.index}]") from error
        result.timings.finish(arrived_ns, computed_ns)
        return embeddings + wire.answer_rest(
            embedding_pb2.EmbedTokensResponse,
            dimensions=result.model.embedding.hidden_size,
            model=result.model,
            usage=result.usage,
            timings=result.timings,
        )

    async def stream_embed(self, requests: AsyncIterator[bytes], context: wire.Context) -> AsyncIterator[bytes]:
        """EmbeddingService.StreamEmbed."""
        method = StreamMethod(
            request=embedding_pb2.StreamEmbedRequest,
            plan=lambda options: self._task.plan(options.model, embed_options(options.options, "options.options"), path="options."),
            entries=text_entries,
            response=_stream_response,
        )
        async for response in serve_stream(method, self._task.texts, requests, context):
            yield response


def text_entries(items: embedding_pb2.StreamEmbedItems) -> list[StreamEntry]:
    """The texts of a message of a stream."""
    return [StreamEntry(item.id, item.text) for item in items.items]


def embed_options(message: embedding_pb2.EmbedOptions, path: str) -> EmbedOptions:
    """The options of a request; path is where they are in it. Raises HubwireError for an unknown enum number."""
    source = message.WhichOneof("prompt_source")
    return EmbedOptions(
        pooling=wire.enum_value(POOLINGS, message.pooling, f"{path}.pooling"),
        normalize=message.normalize if message.HasField("normalize") else None,
        dimensions=message.dimensions,
        encoding=wire.enum_value(wire.ENCODINGS, message.encoding, f"{path}.encoding"),
        prompt_name=message.prompt_name if source == "prompt_name" else None,
        prompt=message.prompt if source == "prompt" else None,
        truncation=wire.truncation(message, path),
    )


def _stream_response(results: StreamResults, plan: EmbedPlan) -> bytes:
    """One message of results. Runs of vectors are written by the core; errors between them keep their place."""
    start = time.perf_counter_ns()
    form = plan.format
    parts: list[bytes] = []
    run: list[StreamResult] = []
    for result in results.results:
        if result.error is None:
            run.append(result)
            continue
        parts += _encode_run(run, form)
        run = []
        parts.append(_encode_error(result, result.error))
    parts += _encode_run(run, form)
    results.timings.finish(results.arrived_ns, start)
    parts.append(
        wire.answer_rest(
            embedding_pb2.StreamEmbedResponse,
            dimensions=form.dimensions,
            model=plan.model,
            usage=results.usage,
            timings=results.timings,
        )
    )
    return b"".join(parts)


def _encode_run(run: list[StreamResult], form: VectorFormat) -> list[bytes]:
    """Vectors as bytes of `results`. One that cannot be encoded becomes an error of its own."""
    if not run:
        return []
    matrix = np.stack([result.value for result in run])
    try:
        return [
            encode_stream_results(
                [result.id for result in run], matrix, dimensions=form.dimensions, normalize=form.normalize, encoding=form.encoding
            )
        ]
    except NativeError as error:
        if error.index is None or error.reason != "not_finite":
            raise
        bad = _encode_error(run[error.index], _encoding_error(error, "text"))
        return [*_encode_run(run[: error.index], form), bad, *_encode_run(run[error.index + 1 :], form)]


def _encode_error(result: StreamResult, error: HubwireError) -> bytes:
    """An item's own error as bytes of `results`."""
    status = to_status(visible(error, f"{NAME}/StreamEmbed, one text"))
    return embedding_pb2.StreamEmbedResponse(results=[embedding_pb2.StreamEmbedResult(id=result.id, error=status)]).SerializeToString()


def _encoding_error(error: NativeError, field: str) -> HubwireError:
    """A vector that its encoding cannot hold: the core refuses NaN, and values that overflow float16."""
    reason = Reason.OUTPUT_NOT_FINITE if error.reason == "not_finite" else Reason.INTERNAL
    return HubwireError(reason, f"the vector cannot be encoded: {error}", field=field)
