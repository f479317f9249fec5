"""The synchronous client. hubwire.aio is its twin; what both do stands in _requests, _decode, _stream, _retry and errors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hubwire import _decode, _requests, errors
from hubwire._arguments import check_callback, check_items, check_text, check_timeout
from hubwire._channel import Connection
from hubwire._names import EncodingName, FloatEncoding, PoolingName, TruncationSideName
from hubwire._pages import ModelPages
from hubwire._retry import Attempts, RetryPolicy
from hubwire._stream import IdT, StreamWindow
from hubwire._sync_feed import Feed
from hubwire._types import EmbedOptions, Matrix, PackedMatrix, StreamOptions, TokenEmbeddings
from hubwire.v1 import embedding_pb2, embedding_pb2_grpc, model_pb2, model_pb2_grpc

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client:
    """A connection to a Hubwire server. Safe to share between threads; not across a fork.

        with hubwire.Client("127.0.0.1:50051") as client:
            vectors = client.embed(["a text", "another"])    # (2, dimensions) float32

    Every method raises a HubwireError where the call fails, and TypeError or ValueError for wrong arguments, and ValueError for a client
    that is closed, before anything is sent.

    Unary calls are repeated, within their timeout, where the server names a delay after which to call again, and where it is UNAVAILABLE
    and the call may safely run twice (every method but unload_model). health is asked once, since it reports the present. Streams
    (stream_embed, load_model) are not repeated.
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

    @overload
    def embed(self, texts: Iterable[str], *, encoding: FloatEncoding = "float32", **options: Unpack[EmbedOptions]) -> Matrix: ...
    @overload
    def embed(self, texts: Iterable[str], *, encoding: Literal["binary"], **options: Unpack[EmbedOptions]) -> PackedMatrix: ...
    def embed(
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
        """Embed texts: one vector each, in their order. One bad text fails the whole call; stream_embed does not have that rule.

        Args:
            texts: at least one text, none of them empty. One bare str is a TypeError: pass a list.
            model: the name of a served model; "" for the default one.
            pooling: "mean", "max", "cls", "last_token", "mean_sqrt_len" or "weighted_mean"; None for the model's own.
            normalize: scale vectors to length 1; None for what the model does itself.
            truncate: True or "right" keeps the beginning of a text that is too long, "left" its end. None and False let the server refuse
                it (TEXT_TOO_LONG).
            max_tokens: the tokens to keep, special tokens included; None for the model's limit. Needs `truncate`.
            dimensions: keep the first values of each vector (Matryoshka); None for all.
            encoding: what travels. "float32", "float16" (half the bytes, about 3 digits) and "int8" (a quarter, one scale a vector) come
                back as float32; "binary" comes back as it travels.
            prompt_name: one of the model's own prompts ("query", "document"); None for its default one.
            prompt: a prompt by value; "" for none at all. Not together with `prompt_name`.
            timeout_s: seconds for this call; None for the client's timeout, math.inf for no limit.

        Returns:
            (n, dimensions) float32; for "binary" (n, ceil(dimensions / 8)) uint8, one bit a value, set where the value is above zero, as
            numpy.packbits gives.
        """
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
        return _decode.embeddings(self._embed(request, timeout_s), encoding, len(request.texts))

    @overload
    def stream_embed(
        self, items: Iterable[str], *, encoding: FloatEncoding = "float32", **options: Unpack[StreamOptions]
    ) -> Generator[tuple[int, Matrix | errors.HubwireError]]: ...
    @overload
    def stream_embed(
        self, items: Iterable[tuple[IdT, str]], *, encoding: FloatEncoding = "float32", **options: Unpack[StreamOptions]
    ) -> Generator[tuple[IdT, Matrix | errors.HubwireError]]: ...
    @overload
    def stream_embed(
        self, items: Iterable[str], *, encoding: Literal["binary"], **options: Unpack[StreamOptions]
    ) -> Generator[tuple[int, PackedMatrix | errors.HubwireError]]: ...
    @overload
    def stream_embed(
        self, items: Iterable[tuple[IdT, str]], *, encoding: Literal["binary"], **options: Unpack[StreamOptions]
    ) -> Generator[tuple[IdT, PackedMatrix | errors.HubwireError]]: ...
    def stream_embed(
        self,
        items: Iterable[Any],
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
    ) -> Generator[tuple[Any, Any]]:
        """Embed any number of texts with flat memory, as their results are asked for.

        The iterable is read on a thread of its own, and no further than `max_in_flight` items ahead of the results that were handed over.
        What it raises is raised here, after the results of the items before. Closing the generator early cancels the call. The stream is
        not repeated when it breaks.

        Args:
            items: texts, whose ids are then 0, 1, 2, ...; or tuples of an id and a text. Ids come back as they are, may be of any type and
                may repeat.
            ordered: results in the order of the items; else each as soon as it is ready.
            batch_size: the most items in one message. A message takes what is there, and does not wait to be full.
            max_in_flight: the most items that were read and not yet answered.
            timeout_s: seconds for the whole stream; None for no limit, whatever the client's timeout.
            model, pooling, normalize, truncate, max_tokens, dimensions, encoding, prompt_name, prompt: as in `embed`.

        Yields:
            (id, vector): (dimensions,) float32, or for "binary" (ceil(dimensions / 8),) uint8; or (id, error) where this one text failed: a
            HubwireError that is handed over, not raised, and does not end the stream.
        """
        self._check_open()
        items = check_items(items)
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
        results = self._stream_embed(items, _requests.stream_opening(model, options, ordered=ordered), window, check_timeout(timeout_s))
        return _decode_results(results, encoding)

    def embed_tokens(
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
        """Embed every token of each text. `normalize` scales each token's vector to length 1; None leaves them as they are. The other
        arguments are those of `embed`.

        Returns:
            One TokenEmbeddings a text, in their order: vectors (t, dimensions), token_ids, spans in code points, special_tokens_mask.
        """
        request = _requests.embed_tokens(
            texts, model=model, normalize=normalize, truncate=truncate, max_tokens=max_tokens, encoding=encoding
        )
        response = self._unary(self._embedding.EmbedTokens, request, timeout_s)
        return _decode.token_embeddings(response, encoding, len(request.texts))

    def list_models(self, *, timeout_s: float | None = None) -> list[model_pb2.Model]:
        """Every model that the server serves, loads or failed to load, by name, as hubwire.v1.model_pb2.Model messages.

        Reads page after page; `timeout_s` is for all of them together.
        """
        pages, deadline = ModelPages(), self._deadline(timeout_s)
        while (request := pages.next_request()) is not None:
            pages.add(self._unary(self._models.ListModels, request, max(0.0, deadline - time.monotonic())))
        return pages.models

    def get_model(self, name: str, *, timeout_s: float | None = None) -> model_pb2.Model:
        """One model, as a hubwire.v1.model_pb2.Model message. An unknown name raises NotFoundError."""
        return _decode.model(self._unary(self._models.GetModel, model_pb2.GetModelRequest(name=check_text("name", name)), timeout_s))

    def load_model(
        self,
        source: str,
        name: str = "",
        revision: str = "",
        *,
        on_progress: Callable[[model_pb2.LoadModelResponse], None] | None = None,
        timeout_s: float | None = None,
    ) -> model_pb2.Model:
        """Load a model and serve it: returns once it is ready. Neither a timeout nor an exception of `on_progress` stops the load.

        Args:
            source: a hub id, a folder on the server, or "package:NAME/FOLDER" for a folder inside a Python package that is installed there.
            name: the name to serve it under; "" for the last part of the source.
            revision: a branch, tag or commit of a hub repository; "" for its main branch.
            on_progress: called with each hubwire.v1.model_pb2.LoadModelResponse: `state`, `message`, `done_bytes` of `total_bytes`.
            timeout_s: seconds to follow the load; None for no limit, whatever the client's timeout.

        Returns:
            The model as served, a hubwire.v1.model_pb2.Model message.
        """
        request = _requests.load_model(source, name, revision)
        report = check_callback("on_progress", on_progress)
        self._check_open()
        call = self._models.LoadModel(request, timeout=check_timeout(timeout_s), metadata=self._metadata)
        response = model_pb2.LoadModelResponse()
        try:
            for response in call:
                report(response)
        except grpc.RpcError as rpc_error:
            raise errors.from_rpc_error(rpc_error) from rpc_error
        finally:
            call.cancel()
        return _decode.model(response)

    def unload_model(self, name: str, *, timeout_s: float | None = None) -> None:
        """Stop serving a model. Returns once its last accepted request was answered and its memory is free."""
        self._unary(self._models.UnloadModel, model_pb2.UnloadModelRequest(name=check_text("name", name)), timeout_s, idempotent=False)

    def health(self, service: str = "", *, timeout_s: float | None = None) -> str:
        """The state of the server, or of one of its services, by grpc.health.v1: "SERVING", "NOT_SERVING" or "UNKNOWN". Asked once, never
        repeated.

        An unknown service raises NotFoundError; a server that cannot be reached raises UnavailableError.
        """
        request = health_pb2.HealthCheckRequest(service=check_text("service", service))
        try:
            response = self._unary(self._health.Check, request, timeout_s, policy=RetryPolicy(max_attempts=1))
        except errors.NotFoundError as error:
            raise errors.unknown_service(service, error) from error
        status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        return status

    def _embed(self, request: embedding_pb2.EmbedRequest, timeout_s: float | None) -> embedding_pb2.EmbedResponse:
        return self._unary(self._embedding.Embed, request, timeout_s)

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
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
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
                return method(request, timeout=attempts.remaining_s(), metadata=self._metadata)
            except grpc.RpcError as rpc_error:
                error = errors.from_rpc_error(rpc_error)
                delay_s = attempts.delay_s(error)
                if delay_s is None:
                    raise error from rpc_error
            time.sleep(delay_s)

    def _stream_embed(
        self, items: Iterable[Any], opening: embedding_pb2.StreamEmbedRequest, window: StreamWindow[Any], timeout_s: float | None
    ) -> Generator[tuple[Any, embedding_pb2.StreamEmbedResult, int]]:
        """The raw results, each with the id of the caller and the dimensions. The call begins when the first one is asked for."""
        feed: Feed[Any] = Feed(opening, items, window)
        self._check_open()
        call = self._embedding.StreamEmbed(feed, timeout=timeout_s, metadata=self._metadata)
        try:
            feed.start()
            for response in call:
                for result in response.results:
                    yield feed.answer(result.id), result, response.dimensions
        except grpc.RpcError as rpc_error:
            feed.raise_error()
            raise errors.from_rpc_error(rpc_error) from rpc_error
        finally:
            feed.close()
            call.cancel()
        feed.raise_error()
        feed.check_complete()


def _decode_results(
    results: Generator[tuple[Any, embedding_pb2.StreamEmbedResult, int]], encoding: EncodingName
) -> Generator[tuple[Any, Any]]:
    try:
        for item_id, result, dimensions in results:
            yield item_id, _decode.outcome(result, dimensions, encoding)
    finally:
        results.close()
