"""The one place where an error becomes a gRPC status.

HubwireError ─▶ its code, its message, and google.rpc details. Anything else ─▶ INTERNAL with a fixed text; the log has the rest under an
id.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.status import to_status

log = logging.getLogger("hubwire.errors")

DETAILS_KEY = "grpc-status-details-bin"

Handler = Any
"""grpc.RpcMethodHandler: grpc has no precise type for it."""


def known(error: BaseException, method: str) -> HubwireError:
    """The error that a caller may see."""
    if isinstance(error, HubwireError):
        if error.reason is Reason.INTERNAL:
            log.error("%s: %s", method, error.message, exc_info=error)
        return error
    error_id = secrets.token_hex(4)
    log.error("%s failed (error %s)", method, error_id, exc_info=error)
    return HubwireError(Reason.INTERNAL, "the server failed; its log has the details", metadata={"error_id": error_id})


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: BaseException, method: str) -> NoReturn:
    """Ends a call with an error."""
    seen = known(error, method)
    details = to_status(seen).SerializeToString()
    await context.abort(grpc.StatusCode[seen.code], seen.message, ((DETAILS_KEY, details),))


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler so that no exception reaches gRPC. A method that does not exist is answered with the reason METHOD_NOT_FOUND."""

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
        wrapped: Callable[[Any, Any], Any]
        if handler.response_streaming:
            wrapped = _streaming(handler.stream_stream or handler.unary_stream, method)
            make = grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        else:
            wrapped = _unary(handler.stream_unary or handler.unary_unary, method)
            make = grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        return make(wrapped, handler.request_deserializer, handler.response_serializer)


def _unary(behavior: Callable[[Any, Any], Awaitable[Any]], method: str) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behavior(request, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:
            return await abort(context, error, method)

    return call


def _streaming(behavior: Callable[[Any, Any], AsyncIterator[Any]], method: str) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            async for response in behavior(request, context):
                yield response
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:
            await abort(context, error, method)

    return call


def _unknown_method(method: str) -> Handler:
    async def refuse(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        text = f"the server has no method {method}; reflection lists those that it has"
        await abort(context, HubwireError(Reason.METHOD_NOT_FOUND, text, metadata={"method": method}), method)

    return grpc.stream_stream_rpc_method_handler(refuse)
