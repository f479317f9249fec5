"""The front's end of the socket to a worker: frames in and out on the event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from hubwire_server.workers import frames


class Connection(asyncio.BufferedProtocol):
    """Frames in and out.

    on_frame gets each message with its arrays. on_lost is called once, when the other end has closed the socket or has sent what is no
    frame.
    """

    def __init__(self, on_frame: Callable[[frames.AnyMessage, list[NDArray[Any]]], None], on_lost: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._reader = frames.FrameReader()

    @classmethod
    async def open(
        cls,
        sock: socket.socket,
        on_frame: Callable[[frames.AnyMessage, list[NDArray[Any]]], None],
        on_lost: Callable[[], None],
    ) -> Connection:
        """Takes over one end of a connected socket."""
        _, connection = await asyncio.get_running_loop().create_unix_connection(lambda: cls(on_frame, on_lost), sock=sock)
        return connection

    def send(self, message: frames.AnyMessage, arrays: Sequence[NDArray[Any]] = ()) -> None:
        """Writes a frame; what the socket does not take at once is kept until it does."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(frames.encode_frame(message, arrays))

    def close(self) -> None:
        """Closes the socket, which ends the worker."""
        if self._transport is not None:
            self._transport.close()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remembers the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes belong."""
        return self._reader.target()

    def buffer_updated(self, nbytes: int) -> None:
        """Hands on the frames that are whole."""
        try:
            for message, arrays in self._reader.received(nbytes):
                self._on_frame(message, arrays)
        except frames.FrameError:
            assert self._transport is not None
            self._transport.abort()

    def eof_received(self) -> bool:
        """The worker is gone."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Says so once."""
        self._transport = None
        self._on_lost()
