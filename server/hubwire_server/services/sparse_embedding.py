"""The methods of hubwire.v1.EmbeddingService for sparse vectors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
import numpy as np

from hubwire.v1 import embedding_pb2
from hubwire_server.services import wire
from hubwire_server.services.embedding import NAME, text_entries
from hubwire_server.services.streaming import StreamMethod, serve_stream
from hubwire_server.services.varints import packed, varints
from hubwire_server.status import to_status, visible
from hubwire_server.tasks.sparse_embedding import (
    EmbedSparseOptions,
    EmbedSparsePlan,
    EmbedSparseRequest,
    SparseEmbeddingTask,
    SparseVector,
    term_offsets,
)
from hubwire_server.tasks.stream import StreamResults

VECTORS_FIELD = embedding_pb2.EmbedSparseResponse.VECTORS_FIELD_NUMBER
NO_OPTIONS = EmbedSparseOptions()
"""The options of a request that gives none."""
INLINE_ENCODE_TERMS = 50_000
"""Up to so many entries are written on the event loop, which takes about 1 ms; above, in a thread."""


class SparseEmbeddingMethods:
    """Serves the sparse embedding task, as a part of EmbeddingService."""

    def __init__(self, task: SparseEmbeddingTask) -> None:
        self._task = task

    def methods(self) -> Mapping[str, Any]:
        """The methods, for bytes."""
        return {
            "EmbedSparse": grpc.unary_unary_rpc_method_handler(self.embed_sparse),
            "StreamEmbedSparse": grpc.stream_stream_rpc_method_handler(self.stream_embed_sparse),
        }

    async def embed_sparse(self, data: bytes, context: wire.Context) -> bytes:
        """EmbeddingService.EmbedSparse."""
        arrived_ns = time.perf_counter_ns()
        message = wire.parse(embedding_pb2.EmbedSparseRequest, data)
        request = EmbedSparseRequest(
            texts=list(message.texts),
            model=message.model,
            options=sparse_options(message.options, "options") if message.HasField("options") else NO_OPTIONS,
            arrived_ns=arrived_ns,
        )
        result = await self._task.embed_sparse(request, wire.caller(context))
        computed_ns = time.perf_counter_ns()

        def encode() -> bytes:
            return b"".join(packed(VECTORS_FIELD, vector, empty=True) for vector in encode_sparse(result.vectors, result.tokens))

        terms = sum(len(vector.indices) for vector in result.vectors)
        encoded = await asyncio.to_thread(encode) if terms > INLINE_ENCODE_TERMS else encode()
        result.timings.finish(arrived_ns, computed_ns)
        return encoded + wire.answer_rest(
            embedding_pb2.EmbedSparseResponse,
            dimensions=result.model.masked_language_model.vocabulary_size,
            model=result.model,
            usage=result.usage,
            timings=result.timings,
        )

    async def stream_embed_sparse(self, requests: AsyncIterator[bytes], context: wire.Context) -> AsyncIterator[bytes]:
        """EmbeddingService.StreamEmbedSparse."""
        method = StreamMethod(
            request=embedding_pb2.StreamEmbedSparseRequest,
            plan=lambda options: self._task.plan(options.model, sparse_options(options.options, "options.options"), path="options."),
            entries=text_entries,
            response=_stream_response,
        )
        async for response in serve_stream(method, self._task.texts, requests, context):
            yield response


def sparse_options(message: embedding_pb2.EmbedSparseOptions, path: str) -> EmbedSparseOptions:
    """The options of a request; path is where they are in it. Raises HubwireError for an unknown enum number."""
    return EmbedSparseOptions(
        max_terms=message.max_terms,
        return_tokens=message.return_tokens,
        truncation=wire.truncation(message, path),
    )


def encode_sparse(vectors: Sequence[SparseVector], tokens: Sequence[str] | None) -> list[bytes]:
    """Each vector as the bytes of a hubwire.v1.SparseVector. tokens is those of all entries, one vector after the other."""
    if not vectors:
        return []
    offsets = term_offsets(vectors)
    indices = varints(np.concatenate([vector.indices for vector in vectors])).rows(offsets)
    message = embedding_pb2.SparseVector
    encoded = [
        packed(message.INDICES_FIELD_NUMBER, index) + packed(message.VALUES_FIELD_NUMBER, vector.values.astype("<f4", copy=False).tobytes())
        for index, vector in zip(indices, vectors, strict=True)
    ]
    if tokens is None:
        return encoded
    cuts = offsets.tolist()
    return [
        data + message(tokens=tokens[low:high]).SerializeToString() for data, low, high in zip(encoded, cuts[:-1], cuts[1:], strict=True)
    ]


def _stream_response(results: StreamResults, plan: EmbedSparsePlan) -> bytes:
    """One message of results."""
    start = time.perf_counter_ns()
    vectors = [result.value for result in results.results if result.error is None]
    encoded = iter(encode_sparse(vectors, plan.tokens(vectors)))
    parts = []
    for result in results.results:
        one = embedding_pb2.StreamEmbedSparseResult(id=result.id)
        if result.error is None:
            body = one.SerializeToString() + packed(one.VECTOR_FIELD_NUMBER, next(encoded), empty=True)
        else:
            one.error.CopyFrom(to_status(visible(result.error, f"{NAME}/StreamEmbedSparse, one text")))
            body = one.SerializeToString()
        parts.append(packed(embedding_pb2.StreamEmbedSparseResponse.RESULTS_FIELD_NUMBER, body, empty=True))
    results.timings.finish(results.arrived_ns, start)
    parts.append(
        wire.answer_rest(
            embedding_pb2.StreamEmbedSparseResponse,
            dimensions=plan.model.masked_language_model.vocabulary_size,
            model=plan.model,
            usage=results.usage,
            timings=results.timings,
        )
    )
    return b"".join(parts)
