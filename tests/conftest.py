"""Fixtures that several suites share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from hubwire_server.testing import RunningServer, running_server


@contextmanager
def serve(**options: Any) -> Iterator[Server]:
    """A server of hubwire_server.testing on an event loop of its own, for tests that call it from outside."""
    loop = asyncio.new_event_loop()
    started: Future[RunningServer] = Future()
    ended = asyncio.Event()

    async def run() -> None:
        try:
            async with running_server(**options) as server:
                started.set_result(server)
                await ended.wait()
        except BaseException as error:
            if not started.done():
                started.set_exception(error)
            raise

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), name="test-server")
    thread.start()
    try:
        server = started.result(timeout=100)
        with grpc.insecure_channel(server.address, options=[("grpc.max_send_message_length", -1)]) as channel:
            yield Server(server, channel, loop)
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(timeout=60)
        loop.close()


class Server:
    """A running server, a channel to it, and a way to look inside."""

    def __init__(self, running: RunningServer, channel: grpc.Channel, loop: asyncio.AbstractEventLoop) -> None:
        self.app = running.app
        self.address = running.address
        self.channel = channel
        self._loop = loop

    def on_loop(self, call: Callable[[], Any]) -> Any:
        """Runs something on the server's event loop: a plain call, or one that gives a coroutine."""

        async def run() -> Any:
            result = call()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout=60)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the length of the soak."""
    parser.addoption("--soak-texts", type=int, default=2_000, help="texts in the long stream (default: %(default)s)")


@pytest.fixture
def soak_texts(request: pytest.FixtureRequest) -> int:
    """How many texts the long stream has."""
    return int(request.config.getoption("--soak-texts"))


_FIGURES: list[str] = []


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Keeps a figure that a test measured, for the end of the report."""

    def measured(name: str, value: object) -> None:
        _FIGURES.append(f"{request.node.name}: {name}: {value}")

    return measured


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the figures that were measured."""
    if _FIGURES:
        terminalreporter.section("measured")
        for line in _FIGURES:
            terminalreporter.line(line)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with the fake model."""
    with serve() as running:
        yield running
