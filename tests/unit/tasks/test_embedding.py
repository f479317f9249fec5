"""The embedding task on the fake model: what a request leaves behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.tasks.embedding import EmbeddingTask, EmbedRequest, EmbedTokensRequest
from hubwire_server.tasks.texts import Caller, TextLimits, Texts
from hubwire_server.testing import running_server

CALLER = Caller(client="a")


class Watched(list):
    """Texts that a weak reference can watch."""


@asynccontextmanager
async def embedding_task() -> AsyncIterator[EmbeddingTask]:
    """The task with a worker of the fake model behind it."""
    async with running_server() as server:
        texts = Texts(TextLimits(max_texts=100, max_text_bytes=1_000, max_request_bytes=10_000), threads=1)
        yield EmbeddingTask(server.app.registry, server.app.dispatcher, texts)
        texts.close()


@contextmanager
def no_collector() -> Iterator[None]:
    """Only the counts of references free memory here."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize(("door", "kind"), [("embed", EmbedRequest), ("embed_tokens", EmbedTokensRequest)])
async def test_the_texts_of_a_request_that_failed_are_freed_without_the_collector(door, kind):
    async with embedding_task() as task:
        with no_collector():
            texts = Watched(["w1", "fail", "w2"])
            gone = weakref.ref(texts)
            with pytest.raises(HubwireError) as caught:
                await getattr(task, door)(kind(texts=texts), CALLER)
            assert caught.value.reason == Reason.INTERNAL
            del texts, caught
            await asyncio.sleep(0)  # the event loop lets go of the future whose end woke this task
            assert gone() is None
