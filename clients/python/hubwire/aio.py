"""The client for asyncio: hubwire.aio.Client has the methods of hubwire.Client, which documents them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hubwire import _decode, _requests, errors
from hubwire._aio_feed import AioFeed, StatusKeeper
from hubwire._arguments import check_async_items, check_callback, check_text, check_timeout
from hubwire._channel import Connection
from hubwire._names import EncodingName, FloatEncoding, PoolingName, TruncationSideName
from hubwire._pages import ModelPages
from hubwire._retry import Attempts, RetryPolicy
from hubwire._stream import IdT, StreamWindow
from hubwire._types import EmbedOptions, Matrix, PackedMatrix, StreamOptions, TokenEmbeddings
from hubwire.v1 import embedding_pb2_grpc, model_pb2, model_pb2_grpc

__all__ = ["Client"]

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client:
    """A connection to a Hubwire server, for one event loop: make it inside a coroutine.

        async with hubwire.aio.Client("127.0.0.1:50051") as client:
            vectors = await client.embed(["a text", "another"])    # (2, dimensions) float32

    Errors and repetition are those of hubwire.Client. Cancelling a task cancels its call.
    """

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

    @overload
    async def embed(self, texts: Iterable[str], *, encoding: FloatEncoding = "float32", **options: Unpack[EmbedOptions]) -> Matrix: ...
    @overload
    async def embed(self, texts: Iterable[str], *, encoding: Literal["binary"], **options: Unpack[EmbedOptions]) -> PackedMatrix: ...
    async def embed(
        self,
        texts: Iterable[str],
        *,
        model: str = "",
        pooling: PoolingName | None = None,
        normalize: bool | None = None,
        truncate: bool | TruncationSideName | None = None,
        max_tokens: int | None = None,
        dimensions: int | None = None,
        encoding: EncodingName = "float32",
        prompt_name: str | None = None,
        prompt: str | None = None,
        timeout_s: float | None = None,
    ) -> Matrix | PackedMatrix:
        """Embed texts, as hubwire.Client.embed: (n, dimensions) float32, or for "binary" (n, ceil(dimensions / 8)) uint8."""
        options = _requests.embed_options(
            pooling=pooling,
            normalize=normalize,
            truncate=truncate,
            max_tokens=max_tokens,
            dimensions=dimensions,
            encoding=encoding,
            prompt_name=prompt_name,
            prompt=prompt,
        )
        request = _requests.embed(texts, model, options)
        response = await self._unary(self._embedding.Embed, request, timeout_s)
        return _decode.embeddings(response, encoding, len(request.texts))

    @overload
    def stream_embed(
        self, items: Iterable[str] | AsyncIterable[str], *, encoding: FloatEncoding = "float32", **options: Unpack[StreamOptions]
    ) -> AsyncGenerator[tuple[int, Matrix | errors.HubwireError]]: ...
    @overload
    def stream_embed(
        self,
        items: Iterable[tuple[IdT, str]] | AsyncIterable[tuple[IdT, str]],
        *,
        encoding: FloatEncoding = "float32",
        **options: Unpack[StreamOptions],
    ) -> AsyncGenerator[tuple[IdT, Matrix | errors.HubwireError]]: ...
    @overload
    def stream_embed(
        self, items: Iterable[str] | AsyncIterable[str], *, encoding: Literal["binary"], **options: Unpack[StreamOptions]
    ) -> AsyncGenerator[tuple[int, PackedMatrix | errors.HubwireError]]: ...
    @overload
    def stream_embed(
        self,
        items: Iterable[tuple[IdT, str]] | AsyncIterable[tuple[IdT, str]],
        *,
        encoding: Literal["binary"],
        **options: Unpack[StreamOptions],
    ) -> AsyncGenerator[tuple[IdT, PackedMatrix | errors.HubwireError]]: ...
    def stream_embed(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        model: str = "",
        pooling: PoolingName | None = None,
        normalize: bool | None = None,
        truncate: bool | TruncationSideName | None = None,
        max_tokens: int | None = None,
        dimensions: int | None = None,
        encoding: EncodingName = "float32",
        prompt_name: str | None = None,
        prompt: str | None = None,
        ordered: bool = False,
        batch_size: int = 64,
        max_in_flight: int = 2048,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[tuple[Any, Any]]:
        """Embed any number of texts with flat memory, as hubwire.Client.stream_embed.

        `items` may be an async iterable too. A plain one is read on the event loop, so pass an async one where reading waits (files,
        sockets, databases). An async generator that is left early ends when it is collected; `contextlib.aclosing` ends it, and cancels the
        call, at once.
        """
        self._check_open()
        items = check_async_items(items)
        options = _requests.embed_options(
            pooling=pooling,
            normalize=normalize,
            truncate=truncate,
            max_tokens=max_tokens,
            dimensions=dimensions,
            encoding=encoding,
            prompt_name=prompt_name,
            prompt=prompt,
        )
        window: StreamWindow[Any] = StreamWindow(batch_size=batch_size, max_in_flight=max_in_flight)
        opening = _requests.stream_opening(model, options, ordered=ordered)
        return self._stream_embed(AioFeed(opening, items, window), encoding, check_timeout(timeout_s))

    async def embed_tokens(
        self,
        texts: Iterable[str],
        *,
        model: str = "",
        normalize: bool | None = None,
        truncate: bool | TruncationSideName | None = None,
        max_tokens: int | None = None,
        encoding: EncodingName = "float32",
        timeout_s: float | None = None,
    ) -> list[TokenEmbeddings]:
        """Embed every token of each text, as hubwire.Client.embed_tokens."""
        request = _requests.embed_tokens(
            texts, model=model, normalize=normalize, truncate=truncate, max_tokens=max_tokens, encoding=encoding
        )
        response = await self._unary(self._embedding.EmbedTokens, request, timeout_s)
        return _decode.token_embeddings(response, encoding, len(request.texts))

    async def list_models(self, *, timeout_s: float | None = None) -> list[model_pb2.Model]:
        """Every model of the server, as hubwire.Client.list_models."""
        pages, deadline = ModelPages(), self._deadline(timeout_s)
        while (request := pages.next_request()) is not None:
            pages.add(await self._unary(self._models.ListModels, request, max(0.0, deadline - time.monotonic())))
        return pages.models

    async def get_model(self, name: str, *, timeout_s: float | None = None) -> model_pb2.Model:
        """One model, as hubwire.Client.get_model."""
        response = await self._unary(self._models.GetModel, model_pb2.GetModelRequest(name=check_text("name", name)), timeout_s)
        return _decode.model(response)

    async def load_model(
        self,
        source: str,
        name: str = "",
        revision: str = "",
        *,
        on_progress: Callable[[model_pb2.LoadModelResponse], None] | None = None,
        timeout_s: float | None = None,
    ) -> model_pb2.Model:
        """Load a model and serve it, as hubwire.Client.load_model. `on_progress` is a plain function, called on the event loop."""
        request = _requests.load_model(source, name, revision)
        report = check_callback("on_progress", on_progress)
        self._check_open()
        call = self._models.LoadModel(request, timeout=check_timeout(timeout_s), metadata=self._metadata)
        response = model_pb2.LoadModelResponse()
        try:
            with self._cancelled_by_close():
                async for response in call:
                    report(response)
        except grpc.RpcError as rpc_error:
            raise errors.from_rpc_error(rpc_error) from rpc_error
        finally:
            call.cancel()
        return _decode.model(response)

    async def unload_model(self, name: str, *, timeout_s: float | None = None) -> None:
        """Stop serving a model, as hubwire.Client.unload_model."""
        await self._unary(
            self._models.UnloadModel, model_pb2.UnloadModelRequest(name=check_text("name", name)), timeout_s, idempotent=False
        )

    async def health(self, service: str = "", *, timeout_s: float | None = None) -> str:
        """The state of the server or of one of its services, as hubwire.Client.health."""
        request = health_pb2.HealthCheckRequest(service=check_text("service", service))
        try:
            response = await self._unary(self._health.Check, request, timeout_s, policy=RetryPolicy(max_attempts=1))
        except errors.NotFoundError as error:
            raise errors.unknown_service(service, error) from error
        status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        return status

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
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float | None,
        *,
        idempotent: bool = True,
        policy: RetryPolicy | None = None,
    ) -> _Response:
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

    async def _stream_embed(self, feed: AioFeed[Any], encoding: EncodingName, timeout_s: float | None) -> AsyncGenerator[tuple[Any, Any]]:
        self._check_open()
        call = self._embedding.StreamEmbed(timeout=timeout_s, metadata=self._metadata)
        status = StatusKeeper()
        call.add_done_callback(status)
        try:
            feed.start(call)
            with self._cancelled_by_close():
                async for response in call:
                    for result in response.results:
                        yield feed.answer(result.id), _decode.outcome(result, response.dimensions, encoding)
        except grpc.RpcError as rpc_error:
            feed.raise_error()
            raise errors.from_rpc_error(status.restore(rpc_error)) from rpc_error
        finally:
            call.cancel()
            await feed.close()
        feed.raise_error()
        feed.check_complete()
