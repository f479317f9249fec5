"""How the sync client sends a stream: a thread reads the caller's iterable, and grpc's own thread takes messages from here."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Generic

from hubwire._calls.question import RequestT, StreamQuestion
from hubwire._stream import IdT, Item


class Feed(Generic[IdT, RequestT]):
    """The request iterator of one streaming call.

    grpc takes the next message once HTTP/2 flow control has let the one before it out. Reading the iterable has a thread of its own, so
    that items that are there go out while the iterable waits for more. A daemon: an iterable that waits for ever must not keep the process
    alive.
    """

    def __init__(self, question: StreamQuestion[RequestT, Any, Any], items: Iterable[object]) -> None:
        self._opening: RequestT | None = question.opening
        self._message = question.message
        self._window = question.window
        self._items = items
        self._changed = threading.Condition()
        self._sender_waits = False
        self._reader_waits = False
        self._exhausted = False
        self._closed = False
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin to read the iterable."""
        threading.Thread(target=self._read, name="hubwire-stream-reader", daemon=True).start()

    def answer(self, wire_id: str) -> IdT:
        """The caller's id of an item whose result is about to be handed over. Makes room for another one."""
        with self._changed:
            item_id: IdT = self._window.answer(wire_id)
            if self._reader_waits and self._window.should_resume:
                self._changed.notify_all()
            return item_id

    def close(self) -> None:
        """Let both threads end. One that is inside the caller's iterable ends when that gives its next item."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def raise_error(self) -> None:
        """Raise what the caller's iterable raised, if it did."""
        if self._error is not None:
            raise self._error

    def check_complete(self) -> None:
        """Raise where the stream ended with OK too early."""
        self._window.check_complete()

    def __iter__(self) -> Feed[IdT, RequestT]:
        return self

    def __next__(self) -> RequestT:
        if self._opening is not None:
            opening, self._opening = self._opening, None
            return opening
        with self._changed:
            items = self._wait_for_items()
        if not items:
            raise StopIteration
        return self._message(items)

    def _wait_for_items(self) -> list[Item]:
        while not self._closed:
            items = self._window.take()
            if items or self._exhausted:
                return items
            self._sender_waits = True
            self._changed.wait()
            self._sender_waits = False
        return []

    def _read(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    self._window.add(item)
                    if self._sender_waits:
                        self._changed.notify_all()
                    self._wait_for_room()
                    if self._closed:
                        return
        except BaseException as error:  # whatever the caller's iterable raises is raised again in the caller's thread
            self._error = error
        finally:
            with self._changed:
                self._exhausted = True
                self._changed.notify_all()

    def _wait_for_room(self) -> None:
        self._reader_waits = not self._window.has_room
        while self._reader_waits and not self._closed:
            self._changed.wait()
            self._reader_waits = not self._window.should_resume
