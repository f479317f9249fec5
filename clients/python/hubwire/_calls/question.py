"""A call on its way: what is sent, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hubwire import errors
from hubwire._stream import Item, StreamWindow

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Question(Generic[RequestT, ResponseT, ResultT]):
    """A unary call."""

    request: RequestT
    decode: Callable[[ResponseT], ResultT]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamQuestion(Generic[RequestT, ResponseT, ResultT]):
    """A bidirectional call: options first, then items, each of which has one result."""

    opening: RequestT
    window: StreamWindow[Any]
    message: Callable[[Iterable[Item]], RequestT]
    """Makes the message that carries some items."""
    decode: Callable[[Any, ResponseT], ResultT]
    """Reads a result that is no error, which came with this response."""

    def outcome(self, result: Any, response: ResponseT) -> ResultT | errors.HubwireError:
        """What is handed over for one item: its result, or its own error."""
        if result.HasField("error"):
            return errors.from_status(result.error)
        if result.WhichOneof("outcome") is None:
            raise errors.contract_error("the server answered an item with neither a result nor an error")
        return self.decode(result, response)


def check_number(entries: Sized, texts: int) -> None:
    """Raise where an answer that has an entry for each text does not."""
    if len(entries) != texts:
        raise errors.contract_error(f"the server sent {len(entries)} results for {texts} texts")
