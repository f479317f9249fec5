"""What a request waits for: the answer of each of its items, or the error of the first that has none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hubwire_server.errors import HubwireError
from hubwire_server.scheduling.item import Item, ItemTiming, Output
from hubwire_server.tasks.answer import Timings


class Gather:
    """The sink of one request: it is done when every item has its output, and fails with the first item that fails.

    place says where in the request an item stands, for its error.
    """

    def __init__(self, model: str, count: int, timings: Timings, place: Callable[[int], str]) -> None:
        self._model = model
        self._place = place
        self._missing = count
        self.outputs: list[Any] = [None] * count
        self.timings = timings
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def deliver(self, item: Item, output: Output, timing: ItemTiming) -> None:
        """See Sink."""
        self.outputs[item.index] = output
        self.timings.add(timing)
        self._missing -= 1
        if self._missing == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, item: Item, error: HubwireError) -> None:
        """See Sink."""
        if not self.done.done():
            self.done.set_exception(error.about(field=self._place(item.index), model=self._model))
