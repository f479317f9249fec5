"""The connection of the sync client: how a call is made, repeated and read. The methods stand in the files beside this one."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2_grpc

from hubwire import errors
from hubwire._arguments import check_items, check_timeout
from hubwire._calls.question import Question, RequestT, ResponseT, ResultT, StreamQuestion
from hubwire._channel import Connection
from hubwire._retry import Attempts, RetryPolicy
from hubwire._sync.feed import Feed
from hubwire.v1 import (
    embedding_pb2_grpc,
    fill_mask_pb2_grpc,
    model_pb2_grpc,
    pipeline_pb2_grpc,
    question_answering_pb2_grpc,
    rerank_pb2_grpc,
    text_classification_pb2_grpc,
    token_classification_pb2_grpc,
    tokenization_pb2_grpc,
)


class Core:
    """What the methods of Client share."""

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float | None = 60.0,
        max_attempts: int = 5,
        tls: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is sent before the first call.

        Args:
            address: "host:port", or "unix:/path".
            timeout_s: seconds for a unary call, repetitions included. None for no limit.
            max_attempts: how often a call is made at most, the first time included; 1 turns repetition off.
            tls: encrypt, and trust the usual authorities.
            credentials: encrypt with these credentials of grpc; `tls` is then not needed.
            metadata: sent along with every call, as in {"authorization": "Bearer ..."}.
        """
        self._closed = False
        self._timeout_s = check_timeout(timeout_s)
        self._policy = RetryPolicy(max_attempts=max_attempts)
        connection = Connection(address=address, tls=tls, credentials=credentials, metadata=metadata)
        self._metadata = connection.call_metadata()
        self._channel = connection.open()
        self._embedding = embedding_pb2_grpc.EmbeddingServiceStub(self._channel)
        self._text_classification = text_classification_pb2_grpc.TextClassificationServiceStub(self._channel)
        self._token_classification = token_classification_pb2_grpc.TokenClassificationServiceStub(self._channel)
        self._question_answering = question_answering_pb2_grpc.QuestionAnsweringServiceStub(self._channel)
        self._fill_mask = fill_mask_pb2_grpc.FillMaskServiceStub(self._channel)
        self._rerank = rerank_pb2_grpc.RerankServiceStub(self._channel)
        self._tokenization = tokenization_pb2_grpc.TokenizationServiceStub(self._channel)
        self._pipeline = pipeline_pb2_grpc.PipelineServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Calls that are under way end with CallCancelledError; later ones raise ValueError."""
        self._closed = True
        self._channel.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the client is closed")

    def _limit_s(self, timeout_s: float | None) -> float | None:
        """The timeout of a unary call, in the form that grpc takes."""
        return self._timeout_s if timeout_s is None else check_timeout(timeout_s)

    def _deadline(self, timeout_s: float | None) -> float:
        """When several unary calls must be done, on time.monotonic."""
        limit_s = self._limit_s(timeout_s)
        return math.inf if limit_s is None else time.monotonic() + limit_s

    def _unary(
        self,
        method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        timeout_s: float | None,
        *,
        idempotent: bool = True,
        policy: RetryPolicy | None = None,
    ) -> ResponseT:
        attempts = Attempts(policy=policy or self._policy, timeout_s=self._limit_s(timeout_s), idempotent=idempotent)
        while True:
            self._check_open()
            try:
                return method(request, timeout=attempts.remaining_s(), metadata=self._metadata)
            except grpc.RpcError as rpc_error:
                error = errors.from_rpc_error(rpc_error)
                delay_s = attempts.delay_s(error)
                if delay_s is None:
                    raise error from rpc_error
            time.sleep(delay_s)

    def _ask(
        self,
        method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT],
        question: Question[RequestT, ResponseT, ResultT],
        timeout_s: float | None,
    ) -> ResultT:
        return question.decode(self._unary(method, question.request, timeout_s))

    def _stream(
        self,
        rpc: grpc.StreamStreamMultiCallable[RequestT, ResponseT],
        items: Iterable[Any],
        question: StreamQuestion[RequestT, ResponseT, ResultT],
        timeout_s: float | None,
        *,
        method: str,
    ) -> Generator[tuple[Any, ResultT | errors.HubwireError]]:
        """The outcomes, each with the id of the caller. `method` is the name under which the caller knows this."""
        self._check_open()
        items = check_items(items, async_hint=method)
        return _read(self._stream_results(rpc, items, question, check_timeout(timeout_s)), question)

    def _stream_results(
        self,
        rpc: grpc.StreamStreamMultiCallable[RequestT, ResponseT],
        items: Iterable[Any],
        question: StreamQuestion[RequestT, ResponseT, ResultT],
        timeout_s: float | None,
    ) -> Generator[tuple[Any, Any, ResponseT]]:
        """The messages of the results, each with the id of the caller and the response that carried it. The call begins when the first
        one is asked for.
        """
        feed: Feed[Any, RequestT] = Feed(question, items)
        self._check_open()
        call: Any = rpc(feed, timeout=timeout_s, metadata=self._metadata)
        try:
            feed.start()
            for response in call:
                for result in response.results:
                    yield feed.answer(result.id), result, response
        except grpc.RpcError as rpc_error:
            feed.raise_error()
            raise errors.from_rpc_error(rpc_error) from rpc_error
        finally:
            feed.close()
            call.cancel()
        feed.raise_error()
        feed.check_complete()


def _read(
    results: Generator[tuple[Any, Any, ResponseT]], question: StreamQuestion[RequestT, ResponseT, ResultT]
) -> Generator[tuple[Any, ResultT | errors.HubwireError]]:
    try:
        for item_id, result, response in results:
            yield item_id, question.outcome(result, response)
    finally:
        results.close()
