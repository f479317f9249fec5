"""The one driver of streams of texts: options first, then items, an answer for each item, and HTTP/2 flow control as backpressure.

A service gives it a StreamMethod, which says what its messages mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.services import wire
from hubwire_server.tasks.stream import StreamEntry, StreamResults, TextStream
from hubwire_server.tasks.text_task import TextTask


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMethod:
    """What the messages of a method mean.

    request is its type of request, with a oneof `payload` of `options` and `items`. plan settles the options, with errors whose field is
    below "options."; entries reads a message of items; response writes results that became ready together.
    """

    request: type[Message]
    plan: Callable[[Any], Any]
    entries: Callable[[Any], list[StreamEntry]]
    response: Callable[[StreamResults, Any], bytes]


async def serve_stream(method: StreamMethod, task: TextTask, requests: AsyncIterator[bytes], context: wire.Context) -> AsyncIterator[bytes]:
    """Answers a stream. Raises HubwireError where the stream itself breaks the rules, after everything that it sent before is answered."""
    options = await _options(method, requests)
    if options is None:
        return
    plan = method.plan(options)
    stream = TextStream(task, plan, wire.caller(context), ordered=options.ordered)
    reader = asyncio.create_task(_read(method, requests, stream))
    try:
        async for results in stream.results():
            yield method.response(results, plan)
        await reader  # raises what was wrong with the stream itself
    finally:
        reader.cancel()
        stream.abort()
        await asyncio.gather(reader, return_exceptions=True)


async def _options(method: StreamMethod, requests: AsyncIterator[bytes]) -> Any:
    """The options that open a stream; None where the caller closed it without a message."""
    async for data in requests:
        message: Any = wire.parse(method.request, data)
        if message.WhichOneof("payload") != "options":
            raise HubwireError(Reason.STREAM_OUT_OF_ORDER, "the first message of a stream must be its options", field="options")
        return message.options
    return None


async def _read(method: StreamMethod, requests: AsyncIterator[bytes], stream: TextStream) -> None:
    """Moves items from the caller into the stream until the caller closes it, or breaks its rules."""
    try:
        async for data in requests:
            arrived_ns = time.perf_counter_ns()
            message: Any = wire.parse(method.request, data)
            match message.WhichOneof("payload"):
                case "items":
                    await stream.push(method.entries(message.items), arrived_ns)
                case "options":
                    raise HubwireError(Reason.STREAM_OUT_OF_ORDER, "the options of a stream were sent twice", field="options")
                case _:
                    raise HubwireError(Reason.FIELD_REQUIRED, "a message of the stream carries neither options nor items", field="items")
    finally:
        stream.close_input()
