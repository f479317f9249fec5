"""The bookkeeping of one streaming call, which is the same with threads and with asyncio. Pure: no grpc, no waiting.

    the caller's iterable ──add──▶ waiting ──take──▶ messages ──▶ server ──▶ results ──answer──▶ the caller
                            └───────────────────── at most max_in_flight ─────────────────────┘

A message takes what waits at that moment, up to batch_size items: a fast iterable fills messages, a slow one is never kept waiting for
company.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, NamedTuple, TypeVar, cast

from hubwire import errors
from hubwire._arguments import check_count, utf8_bytes

IdT = TypeVar("IdT")

# A server refuses messages of more than 4 MiB by default, and that would end the whole stream.
_MESSAGE_BYTES = 1 << 20


class Item(NamedTuple):
    """A text, or a pair of texts, on its way to the server."""

    number: int
    text: str
    text_pair: str | None
    """The second text of a pair; None where there is none."""
    size_bytes: int


class StreamWindow(Generic[IdT]):
    """The items that were read from the caller's iterable and whose results the caller has not got yet.

    On the wire an item's id is its number in the stream. The caller's own ids may repeat and may be of any type, and come back as the
    objects they were.
    """

    def __init__(self, *, batch_size: int, max_in_flight: int, takes_pairs: bool = False) -> None:
        """takes_pairs: an item's text may be a tuple of two texts."""
        self._takes_pairs = takes_pairs
        self._batch_size = check_count("batch_size", batch_size)
        self._max_in_flight = check_count("max_in_flight", max_in_flight)
        self._resume_at = max(0, self._max_in_flight - self._batch_size)
        self._waiting: deque[Item] = deque()
        self._ids: dict[int, IdT] = {}
        self._next_number = 0

    @property
    def has_room(self) -> bool:
        """True where one more item may be read."""
        return len(self._ids) < self._max_in_flight

    @property
    def should_resume(self) -> bool:
        """True where a reader that found no room should go on: once a whole message fits, since waking it costs more than an item."""
        return len(self._ids) <= self._resume_at

    @property
    def waiting(self) -> int:
        """The number of items that no message has carried yet."""
        return len(self._waiting)

    def add(self, item: object) -> None:
        """Take a text, or a tuple of id and text, from the caller's iterable.

        Raises TypeError for anything else, and ValueError for a text with a lone surrogate, which protobuf cannot carry.
        """
        number = self._next_number
        item_id, text = item if isinstance(item, tuple) and len(item) == 2 else (number, item)
        first, second = _pair(text) if self._takes_pairs and isinstance(item, tuple) else (text, None)
        if not isinstance(first, str):
            expected = "id and str, or id and a pair of str" if self._takes_pairs else "id and str"
            raise TypeError(f"item {number} must be a str or a tuple of {expected}, not {_describe(item)}")
        size_bytes = sum(len(part) if part.isascii() else utf8_bytes(f"item {number}", part) for part in (first, second or ""))
        self._waiting.append(Item(number, first, second, size_bytes))
        self._ids[number] = cast("IdT", item_id)  # the overloads of stream_embed tie bare texts to IdT = int
        self._next_number = number + 1

    def take(self) -> list[Item]:
        """The items of the next message; none where none wait."""
        taken: list[Item] = []
        size_bytes = 0
        while self._waiting and len(taken) < self._batch_size:
            size_bytes += self._waiting[0].size_bytes
            if taken and size_bytes > _MESSAGE_BYTES:
                break
            taken.append(self._waiting.popleft())
        return taken

    def answer(self, wire_id: str) -> IdT:
        """The caller's id of an item whose result has come; the item leaves the window."""
        try:
            return self._ids.pop(int(wire_id))
        except (KeyError, ValueError):
            raise errors.contract_error(f"the server answered an item that does not wait for an answer: {wire_id!r}") from None

    def check_complete(self) -> None:
        """Raise where the server ended the stream with OK before every item was answered."""
        if self._ids:
            raise errors.contract_error(f"the server ended the stream with {len(self._ids)} items unanswered")


def _pair(text: object) -> tuple[object, str | None]:
    """The two parts of a pair of texts; of anything else itself and None."""
    match text:
        case (str() as first, str() as second) if isinstance(text, tuple):
            return first, second
        case _:
            return text, None


def _describe(item: object) -> str:
    if isinstance(item, tuple):
        return f"({', '.join(type(part).__name__ for part in item)})"
    return type(item).__name__
