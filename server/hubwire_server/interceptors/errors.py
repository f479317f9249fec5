"""No exception reaches gRPC: whatever a handler raises ends the call with a status (status.py)."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.rpc import code_pb2, status_pb2

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.status import to_status, visible

log = logging.getLogger("hubwire.errors")

DETAILS_KEY = "grpc-status-details-bin"

NOT_ERRORS = (grpc.aio.AbortError, asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)

Handler = Any
"""grpc.RpcMethodHandler: grpc has no precise type for it."""


async def abort(context: grpc.aio.ServicerContext[Any, Any], status: status_pb2.Status, method: str) -> NoReturn:
    """Ends a call with a status. Not to be called while an error is handled: gRPC keeps what is raised here, and with it that error, its
    frames and all that they hold, until the collector comes.
    """
    code = grpc.StatusCode[code_pb2.Code.Name(status.code)]
    try:
        await context.abort(code, status.message, ((DETAILS_KEY, status.SerializeToString()),))
    except grpc.aio.InternalError:
        log.debug("%s: the call was over before its error was written", method)
        raise grpc.aio.AbortError from None


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler so that no exception reaches gRPC. A method that does not exist is answered with the reason METHOD_NOT_FOUND."""

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        """By method: a handler, and what was made of it. The methods of a server are few, and those that do not exist are not kept."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """See grpc.aio.ServerInterceptor."""
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            return _unknown_method(method)
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, _wrap(handler, method))
        return known[1]


def _wrap(handler: Handler, method: str) -> Handler:
    behavior = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    # A handler that streams is a generator, or a coroutine that writes to the context itself.
    wrapped = _generator(behavior, method) if inspect.isasyncgenfunction(behavior) else _coroutine(behavior, method)
    make = _MAKERS[handler.request_streaming, handler.response_streaming]
    return make(wrapped, handler.request_deserializer, handler.response_serializer)


_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _coroutine(behavior: Callable[[Any, Any], Awaitable[Any]], method: str) -> Callable[[Any, Any], Any]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behavior(request, context)
        except NOT_ERRORS:
            raise
        except BaseException as error:  # also a panic of the core, which is no Exception
            status = to_status(visible(error, method))
        del request  # the frame of this call is kept too
        return await abort(context, status, method)

    return call


def _generator(behavior: Callable[[Any, Any], AsyncGenerator[Any, None]], method: str) -> Callable[[Any, Any], Any]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        responses = behavior(request, context)
        status: status_pb2.Status | None = None
        try:
            async for response in responses:
                await context.write(response)
        except NOT_ERRORS:
            raise
        except grpc.aio.InternalError:
            log.debug("%s: the caller was gone before its answer was written", method)
        except BaseException as error:
            status = to_status(visible(error, method))
        finally:
            await responses.aclose()
        del request, responses
        if status is not None:
            await abort(context, status, method)

    return call


def _unknown_method(method: str) -> Handler:
    async def refuse(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        text = f"the server has no method {method}; reflection lists those that it has"
        await abort(context, to_status(HubwireError(Reason.METHOD_NOT_FOUND, text, metadata={"method": method})), method)

    return grpc.stream_stream_rpc_method_handler(refuse)
