"""The connection of the asyncio client: how a call is made, repeated and read. The methods stand in the files beside this one."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from hubwire import errors
from hubwire._aio.feed import AioFeed, StatusKeeper
from hubwire._arguments import check_async_items, check_timeout
from hubwire._calls.question import Question, RequestT, ResponseT, ResultT, StreamQuestion
from hubwire._channel import Connection
from hubwire._retry import Attempts, RetryPolicy
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
        """As hubwire.Client. Raises RuntimeError where no event loop runs: grpc would tie the connection to a loop that never does."""
        asyncio.get_running_loop()
        self._closed = False
        self._timeout_s = check_timeout(timeout_s)
        self._policy = RetryPolicy(max_attempts=max_attempts)
        connection = Connection(address=address, tls=tls, credentials=credentials, metadata=metadata)
        self._metadata = connection.call_metadata()
        self._channel = connection.open_aio()
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

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Calls that are under way end with CallCancelledError; later ones raise ValueError."""
        self._closed = True
        await self._channel.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the client is closed")

    @contextlib.contextmanager
    def _cancelled_by_close(self) -> Generator[None]:
        """Tell a call that the closing channel cancelled, for which grpc.aio raises asyncio's own CancelledError, from a cancelled task."""
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            raise errors.CallCancelledError("the client was closed during the call", code=grpc.StatusCode.CANCELLED) from None

    def _limit_s(self, timeout_s: float | None) -> float | None:
        """The timeout of a unary call, in the form that grpc takes."""
        return self._timeout_s if timeout_s is None else check_timeout(timeout_s)

    def _deadline(self, timeout_s: float | None) -> float:
        """When several unary calls must be done, on time.monotonic."""
        limit_s = self._limit_s(timeout_s)
        return math.inf if limit_s is None else time.monotonic() + limit_s

    async def _unary(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
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
                with self._cancelled_by_close():
                    return await method(request, timeout=attempts.remaining_s(), metadata=self._metadata)
            except grpc.RpcError as rpc_error:
                error = errors.from_rpc_error(rpc_error)
                delay_s = attempts.delay_s(error)
                if delay_s is None:
                    raise error from rpc_error
            await asyncio.sleep(delay_s)

    async def _ask(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        question: Question[RequestT, ResponseT, ResultT],
        timeout_s: float | None,
    ) -> ResultT:
        return question.decode(await self._unary(method, question.request, timeout_s))

    def _stream(
        self,
        rpc: grpc.aio.StreamStreamMultiCallable[RequestT, ResponseT],
        items: Iterable[Any] | AsyncIterable[Any],
        question: StreamQuestion[RequestT, ResponseT, ResultT],
        timeout_s: float | None,
    ) -> AsyncGenerator[tuple[Any, ResultT | errors.HubwireError]]:
        """The outcomes, each with the id of the caller."""
        self._check_open()
        return self._read(rpc, AioFeed(question, check_async_items(items)), question, check_timeout(timeout_s))

    async def _read(
        self,
        rpc: grpc.aio.StreamStreamMultiCallable[RequestT, ResponseT],
        feed: AioFeed[Any, RequestT],
        question: StreamQuestion[RequestT, ResponseT, ResultT],
        timeout_s: float | None,
    ) -> AsyncGenerator[tuple[Any, ResultT | errors.HubwireError]]:
        self._check_open()
        call: Any = rpc(timeout=timeout_s, metadata=self._metadata)
        status = StatusKeeper()
        call.add_done_callback(status)
        try:
            feed.start(call)
            with self._cancelled_by_close():
                async for response in call:
                    for result in response.results:
                        yield feed.answer(result.id), question.outcome(result, response)
        except grpc.RpcError as rpc_error:
            feed.raise_error()
            raise errors.from_rpc_error(status.restore(rpc_error)) from rpc_error
        finally:
            call.cancel()
            await feed.close()
        feed.raise_error()
        feed.check_complete()
