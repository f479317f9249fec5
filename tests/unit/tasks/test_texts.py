"""What texts may be read in, besides what each task tests of it."""

from __future__ import annotations

import pytest

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.tasks import text_task, texts
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, TextLimits, Texts, Windows
from hubwire_server.tasks.token_classification import ClassifyTokensOptions, ClassifyTokensRequest, TokenClassificationTask
from hubwire_server.testing import running_server


async def classify(text: str, windows: Windows) -> object:
    """Entities of a text that is read in windows, by the fake model."""
    async with running_server(task=Task.TOKEN_CLASSIFICATION) as server:
        limits = TextLimits(max_texts=2_000, max_text_bytes=10_000_000, max_request_bytes=10_000_000)
        task = TokenClassificationTask(TextTask(server.app.registry, server.app.dispatcher, Texts(limits, threads=1)))
        request = ClassifyTokensRequest(texts=[text], options=ClassifyTokensOptions(long_text=windows))
        return await task.classify(request, Caller(client="a"))


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        pytest.param("w1 " * (text_task.MAX_WINDOWS + 1), Windows(stride=0, max_tokens=3), id="windows of one token"),
        pytest.param("w1 " * texts.MAX_WINDOW_TOKENS, Windows(), id="more tokens than a request may have"),
        pytest.param("x" * (texts.MAX_WINDOW_TOKENS * texts.MOST_TOKEN_BYTES + 1), Windows(), id="so much that it need not be tokenized"),
    ],
)
async def test_windows_of_one_request_are_bounded(text, windows):
    with pytest.raises(HubwireError) as caught:
        await classify(text, windows)
    assert caught.value.reason is Reason.TOO_MANY_TEXTS
    assert caught.value.field == "options.windows"


def test_a_stride_of_nothing_is_not_the_default():
    assert Windows().stride_of(384) == 96
    assert Windows(stride=0).stride_of(384) == 0
