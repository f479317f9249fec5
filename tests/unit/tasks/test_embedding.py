"""The embedding task on the fake model: what a request leaves behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.tasks.embedding import EmbedRequest, EmbedTokensRequest
from hubwire_server.tasks.texts import Caller


class Watched(list):
    """Texts that a weak reference can watch."""


@contextmanager
def no_collector() -> Iterator[None]:
    """Only the counts of references free memory here."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize(("door", "kind"), [("embed", EmbedRequest), ("embed_tokens", EmbedTokensRequest)])
async def test_the_texts_of_a_request_that_failed_are_freed_without_the_collector(task, door, kind):
    with no_collector():
        texts = Watched(["w1", "fail", "w2"])
        gone = weakref.ref(texts)
        with pytest.raises(HubwireError) as caught:
            await getattr(task, door)(kind(texts=texts), Caller(client="a"))
        assert caught.value.reason == Reason.INTERNAL
        del texts, caught
        await asyncio.sleep(0)  # the event loop lets go of the future whose end woke this task
        assert gone() is None
