"""The front's end of the socket to a worker: frames in and out on the event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubwire_server.workers import frames


class Connection(asyncio.BufferedProtocol):
    """Reads frames straight into the memory that their arrays will live in.

    on_frame gets each message with its arrays. on_lost is called once, when the other end has closed the socket or has sent what is no
    frame.
    """

    def __init__(self, on_frame: Callable[[frames.AnyMessage, list[NDArray[Any]]], None], on_lost: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._expect_prefix()

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
        """The part of the frame that is missing."""
        return self._target[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Goes on to the next part of the frame once this one is whole."""
        self._filled += nbytes
        try:
            while self._filled == len(self._target):
                self._part_complete()
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

    def _expect_prefix(self) -> None:
        self._part = "prefix"
        self._header = b""
        self._body = np.empty(0, dtype=np.uint8)
        self._target = memoryview(bytearray(frames.PREFIX.size))
        self._filled = 0

    def _part_complete(self) -> None:
        if self._part == "prefix":
            header_size, body_size = frames.frame_size(self._target)
            self._body = np.empty(body_size, dtype=np.uint8)
            self._part = "header"
            self._target = memoryview(bytearray(header_size))
            self._filled = 0
            return
        if self._part == "header":
            self._header = bytes(self._target)
            self._part = "body"
            self._target = self._body.data
            self._filled = 0
            return
        message, arrays = frames.decode_frame(self._header, self._body)
        self._expect_prefix()
        self._on_frame(message, arrays)
