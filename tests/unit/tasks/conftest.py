"""The task that the suites of this folder share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hubwire_server.tasks.embedding import EmbeddingTask
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import TextLimits, Texts
from hubwire_server.testing import running_server


@pytest.fixture
async def task() -> AsyncIterator[EmbeddingTask]:
    """The embedding task with a worker of the fake model behind it."""
    async with running_server() as server:
        texts = Texts(TextLimits(max_texts=2_000, max_text_bytes=1_000, max_request_bytes=1_000_000), threads=1)
        yield EmbeddingTask(TextTask(server.app.registry, server.app.dispatcher, texts))
        texts.close()
