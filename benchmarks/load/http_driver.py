"""The driver of peers that speak HTTP: requests that were written out before the clock starts, over connections that stay open.

It is Python, but next to nothing of it: a request is one write, an answer is read as a status, a length and so many bytes that nobody
looks at.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.load.ghz import REQUEST_TIMEOUT_S, UnaryLoad
from benchmarks.load.latency import Run

PATH = "/embeddings"
HEADERS_END = b"\r\n\r\n"
LENGTH = b"content-length:"


def encode_request(address: str, model: str, texts: Sequence[str]) -> bytes:
    """An embedding request as OpenAI's interface has it."""
    body = json.dumps({"model": model, "input": list(texts)}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def run(load: UnaryLoad, model: str) -> Run:
    """Runs a load, as ghz.run does."""
    requests = [encode_request(load.address, model, texts) for texts in load.requests]
    return asyncio.run(_Driver(load, requests).run())


class Connection(asyncio.Protocol):
    """A connection that carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[str, bytes]] | None = None
        self._received = bytearray()
        self._expected = 0

    def connection_made(self, transport: Any) -> None:
        """asyncio.Protocol."""
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio.Protocol."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(("CONNECTION_LOST", b""))
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """asyncio.Protocol."""
        self._received += data
        if not self._expected and (end := self._received.find(HEADERS_END)) >= 0:
            head = bytes(self._received[:end]).lower()
            place = head.find(LENGTH)
            size = head[place + len(LENGTH) :].split(b"\r", 1)[0] if place >= 0 else b"0"
            self._expected = end + len(HEADERS_END) + int(size)
        if self._expected and len(self._received) >= self._expected and self._answer is not None and not self._answer.done():
            status = bytes(self._received[9:12]).decode()
            body = bytes(self._received[self._received.find(HEADERS_END) + len(HEADERS_END) :])
            self._answer.set_result(("" if status == "200" else f"HTTP {status}", body))

    async def ask(self, request: bytes) -> tuple[str, bytes]:
        """Sends a request and returns its error, or the empty string, and the body of the answer."""
        if self._transport is None:
            return "CONNECTION_LOST", b""
        self._received.clear()
        self._expected = 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await asyncio.wait_for(self._answer, REQUEST_TIMEOUT_S)
        except TimeoutError:
            self.close()  # the late answer must not be taken for that of the next request
            return "TIMEOUT", b""

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None


class _Driver:
    def __init__(self, load: UnaryLoad, requests: Sequence[bytes]) -> None:
        self._load = load
        self._requests: Iterator[bytes] = itertools.islice(itertools.cycle(requests), load.total)
        self._idle: list[Connection] = []
        self._done: list[tuple[float, float, str]] = []

    async def run(self) -> Run:
        if self._load.rate_per_s:
            await self._open_loop(self._load.rate_per_s)
        else:
            await asyncio.gather(*(self._caller() for _ in range(self._load.concurrency)))
        for connection in self._idle:
            connection.close()
        return Run.of(self._done, len(self._load.requests[0]))

    async def _open_loop(self, rate_per_s: int) -> None:
        start = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number, request in enumerate(self._requests):
                if (wait := start + number / rate_per_s - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                tasks.create_task(self._send(request))

    async def _caller(self) -> None:
        for request in self._requests:
            await self._send(request)

    async def _send(self, request: bytes) -> None:
        begin = time.perf_counter()
        connection = self._idle.pop() if self._idle else await self._connect()
        error, _ = await connection.ask(request)
        self._done.append((begin, time.perf_counter() - begin, error))
        if connection.usable:
            self._idle.append(connection)

    async def _connect(self) -> Connection:
        host, _, port = self._load.address.rpartition(":")
        _, connection = await asyncio.get_running_loop().create_connection(Connection, host, int(port))
        return connection


def embed(address: str, model: str, texts: Sequence[str]) -> list[list[float]]:
    """The vectors of texts, for comparison. Raises ConnectionError where the answer is an error."""

    async def ask() -> tuple[str, bytes]:
        host, _, port = address.rpartition(":")
        _, connection = await asyncio.get_running_loop().create_connection(Connection, host, int(port))
        try:
            return await connection.ask(encode_request(address, model, texts))
        finally:
            connection.close()

    error, body = asyncio.run(ask())
    if error:
        raise ConnectionError(error)
    return [entry["embedding"] for entry in json.loads(body)["data"]]
