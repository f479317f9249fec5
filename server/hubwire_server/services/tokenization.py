"""hubwire.v1.TokenizationService. Numbers of tokens are written as whole arrays, straight into the bytes of the answer."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from hubwire.v1 import tokenization_pb2
from hubwire_server.errors import out_of_range
from hubwire_server.services import wire
from hubwire_server.services.varints import packed, varint_sizes, varints
from hubwire_server.tasks.tokenization import (
    MAX_DETOKENIZE_IDS,
    CountTokensRequest,
    DetokenizeRequest,
    TokenizationTask,
    TokenizeOptions,
    TokenizeRequest,
    TokenizeResult,
)

NAME = "hubwire.v1.TokenizationService"

NO_OPTIONS = TokenizeOptions()
"""The options of a request that gives none."""
INLINE_ENCODE_TOKENS = 4_000
"""Up to so many tokens are written on the event loop, which takes about 1 ms; above, in a thread."""

_TEXT = tokenization_pb2.TokenizedText
_SPAN_TAGS = np.array([0x08, 0x10], dtype=np.uint32)
"""What stands before the start and the end of a hubwire.v1.Span."""


class TokenizationService:
    """Serves the tokenization task."""

    def __init__(self, task: TokenizationTask) -> None:
        self._task = task

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods of the service, for bytes."""
        methods: dict[str, Any] = {
            "Tokenize": grpc.unary_unary_rpc_method_handler(self.tokenize),
            "Detokenize": grpc.unary_unary_rpc_method_handler(self.detokenize),
            "CountTokens": grpc.unary_unary_rpc_method_handler(self.count_tokens),
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    async def tokenize(self, data: bytes, context: wire.Context) -> bytes:
        """TokenizationService.Tokenize."""
        arrived_ns = time.perf_counter_ns()
        message = wire.parse(tokenization_pb2.TokenizeRequest, data)
        request = TokenizeRequest(
            texts=list(message.texts),
            pairs=list(message.text_pairs),
            model=message.model,
            options=tokenize_options(message.options) if message.HasField("options") else NO_OPTIONS,
            arrived_ns=arrived_ns,
        )
        result = await self._task.tokenize(request)
        computed_ns = time.perf_counter_ns()
        inline = len(result.batch.ids) <= INLINE_ENCODE_TOKENS
        encoded = encode_tokens(result) if inline else await asyncio.to_thread(encode_tokens, result)
        result.timings.finish(arrived_ns, computed_ns)
        return encoded + wire.answer_rest(tokenization_pb2.TokenizeResponse, model=result.model, usage=result.usage, timings=result.timings)

    async def detokenize(self, data: bytes, context: wire.Context) -> bytes:
        """TokenizationService.Detokenize."""
        message = wire.parse(tokenization_pb2.DetokenizeRequest, data)
        count = sum(len(text.token_ids) for text in message.texts)
        if count > MAX_DETOKENIZE_IDS:
            text = f"the request has {count} token ids; the server takes {MAX_DETOKENIZE_IDS}"
            raise out_of_range(text, "texts", 1, MAX_DETOKENIZE_IDS)
        request = DetokenizeRequest(
            ids=[np.array(text.token_ids, dtype=np.int64) for text in message.texts],
            model=message.model,
            keep_special_tokens=message.keep_special_tokens,
        )
        result = await self._task.detokenize(request)
        answer = tokenization_pb2.DetokenizeResponse(texts=result.texts, model=wire.served_model(result.model))
        return answer.SerializeToString()

    async def count_tokens(self, data: bytes, context: wire.Context) -> bytes:
        """TokenizationService.CountTokens."""
        message = wire.parse(tokenization_pb2.CountTokensRequest, data)
        request = CountTokensRequest(
            texts=list(message.texts),
            pairs=list(message.text_pairs),
            model=message.model,
            skip_special_tokens=message.skip_special_tokens,
        )
        result = await self._task.count(request)
        answer = tokenization_pb2.CountTokensResponse(
            token_counts=result.counts.tolist(),
            max_tokens=result.model.description.max_tokens,
            model=wire.served_model(result.model),
        )
        return answer.SerializeToString()


def tokenize_options(message: tokenization_pb2.TokenizeOptions) -> TokenizeOptions:
    """The options of a request. Raises HubwireError for an unknown enum number."""
    return TokenizeOptions(
        skip_special_tokens=message.skip_special_tokens,
        truncation=wire.truncation(message, "options"),
        offset_unit=wire.enum_value(wire.OFFSET_UNITS, message.offset_unit, "options.offset_unit"),
        ids_only=message.ids_only,
    )


def encode_tokens(result: TokenizeResult) -> bytes:
    """The tokens of all texts as bytes of `texts`."""
    batch, tokens = result.batch, result.tokens
    offsets = batch.offsets
    lists = [(_TEXT.TOKEN_IDS_FIELD_NUMBER, varints(batch.ids).rows(offsets))]
    spans = [b""] * (len(offsets) - 1)
    if tokens is not None:
        assert batch.spans is not None
        assert batch.special_tokens_mask is not None
        assert batch.sequence_ids is not None
        zigzag = (batch.sequence_ids << 1) ^ (batch.sequence_ids >> 7)
        lists += [
            (_TEXT.SPECIAL_TOKENS_MASK_FIELD_NUMBER, varints(batch.special_tokens_mask).rows(offsets)),
            (_TEXT.TYPE_IDS_FIELD_NUMBER, varints(batch.type_ids).rows(offsets)),
            (_TEXT.SEQUENCE_IDS_FIELD_NUMBER, varints(zigzag).rows(offsets)),
        ]
        spans = encode_spans(_TEXT.SPANS_FIELD_NUMBER, batch.spans, offsets)
    cuts = offsets.tolist()
    parts = []
    for index, count in enumerate(batch.token_counts.tolist()):
        words = None if tokens is None else tokens[cuts[index] : cuts[index + 1]]
        body = b"".join(packed(field, rows[index]) for field, rows in lists) + spans[index]
        body += _TEXT(tokens=words, token_count=count).SerializeToString()
        # An entry without tokens is written too: there is one for each text.
        parts.append(packed(tokenization_pb2.TokenizeResponse.TEXTS_FIELD_NUMBER, body, empty=True))
    return b"".join(parts)


def encode_spans(field: int, spans: NDArray[np.uint32], offsets: NDArray[np.int64]) -> list[bytes]:
    """The spans of each text, shape (T, 2) for all, as the bytes of `repeated hubwire.v1.Span <name> = field`.

    The tags and lengths in such bytes are varints as well, so that all of them together are the varints of one table.
    """
    table = np.empty((len(spans), 6), dtype=np.uint32)
    table[:, 0] = field << 3 | 2
    table[:, 1] = varint_sizes(spans).sum(axis=1) + 2
    table[:, [2, 4]] = _SPAN_TAGS
    table[:, [3, 5]] = spans
    return varints(table.ravel()).rows(offsets * table.shape[1])
