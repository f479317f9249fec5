"""How the asyncio client sends a stream: one task reads the caller's iterable, another sends what waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from hubwire._calls.question import RequestT, StreamQuestion
from hubwire._stream import IdT

_Result = TypeVar("_Result")
_Call = grpc.aio.StreamStreamCall[Any, Any]

# A plain iterable gives nothing back to the event loop; this many items after one another do.
_ITEMS_A_TURN = 64


# What grpc.aio makes of a write that meets the end of the call (https://github.com/grpc/grpc/issues/36066).
_LOST_STATUS = "Internal error from Core"


class StatusKeeper:
    """Keeps the status that the server sent, which grpc.aio overwrites with an INTERNAL error where a write was still under way.

    A callback of the call: it runs when a status is set, and all that it reads is there by then.
    """

    def __init__(self) -> None:
        self._kept: grpc.aio.AioRpcError | None = None

    def __call__(self, call: _Call) -> None:
        code, details = _finished(call.code()), _finished(call.details())
        if code is not grpc.StatusCode.OK and details != _LOST_STATUS:
            self._kept = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), _finished(call.trailing_metadata()), details)

    def restore(self, error: grpc.RpcError) -> grpc.RpcError:
        """The error that the server meant, in the place of one that was raised."""
        return self._kept if self._kept is not None and error.details() == _LOST_STATUS else error


def _finished(result: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of a coroutine that has nothing to wait for."""
    try:
        result.send(None)
    except StopIteration as stop:
        value: _Result = stop.value
        return value
    result.close()
    raise RuntimeError("grpc called back before the status was there")


class AioFeed(Generic[IdT, RequestT]):
    """The sending half of one streaming call.

    A write ends once HTTP/2 flow control has let the message out. Reading the iterable is a task of its own, so that items that are there
    go out while the iterable waits for more.
    """

    def __init__(self, question: StreamQuestion[RequestT, Any, Any], items: Iterable[object] | AsyncIterable[object]) -> None:
        self._opening = question.opening
        self._message = question.message
        self._window = question.window
        self._items = items
        self._arrived = asyncio.Event()
        self._answered = asyncio.Event()
        self._exhausted = False
        self._error: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, call: _Call) -> None:
        """Begin to read the iterable and to send."""
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._send(call))]

    def answer(self, wire_id: str) -> IdT:
        """The caller's id of an item whose result is about to be handed over. Makes room for another one."""
        item_id: IdT = self._window.answer(wire_id)
        if self._window.should_resume:
            self._answered.set()
        return item_id

    async def close(self) -> None:
        """End both tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def raise_error(self) -> None:
        """Raise what the caller's iterable raised, if it did."""
        if self._error is not None:
            raise self._error

    def check_complete(self) -> None:
        """Raise where the stream ended with OK too early."""
        self._window.check_complete()

    async def _read(self) -> None:
        try:
            if isinstance(self._items, AsyncIterable):
                async for item in self._items:
                    await self._add(item)
            else:
                for number, item in enumerate(self._items, start=1):
                    await self._add(item)
                    if number % _ITEMS_A_TURN == 0:
                        await asyncio.sleep(0)
        except BaseException as error:  # whatever the caller's iterable raises is raised again by the caller's generator
            self._error = error
        finally:
            self._exhausted = True
            self._arrived.set()

    async def _add(self, item: object) -> None:
        self._window.add(item)
        self._arrived.set()
        if not self._window.has_room:
            self._answered.clear()
            await self._answered.wait()

    async def _send(self, call: _Call) -> None:
        try:
            await call.write(self._opening)
            while not (self._exhausted and not self._window.waiting):
                self._arrived.clear()
                while items := self._window.take():
                    await call.write(self._message(items))
                if not self._exhausted:
                    await self._arrived.wait()
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            # The call is over; the side that reads the results learns why.
            return
        except Exception as error:
            # Without this the reading side would wait for an answer to what was never sent.
            self._error = error
            call.cancel()
