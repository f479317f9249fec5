"""Zero-shot classification: from logits to scores, and what of a request is checked before anything is read."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, TextLimits, Texts, Truncation
from hubwire_server.tasks.zero_shot import ClassifyZeroShotRequest, ZeroShotOptions, ZeroShotTask, score_labels
from hubwire_server.testing import running_server

CALLER = Caller(client="test")


@pytest.fixture
async def task() -> AsyncIterator[ZeroShotTask]:
    """Zero-shot classification with a worker of the fake model behind it."""
    async with running_server(task=Task.ZERO_SHOT_CLASSIFICATION) as server:
        texts = Texts(TextLimits(max_texts=20, max_text_bytes=1_000, max_request_bytes=2_000), threads=1)
        yield ZeroShotTask(TextTask(server.app.registry, server.app.dispatcher, texts))
        texts.close()


def by_hand(rows: np.ndarray, entailment: int, multi_label: bool) -> list[float]:
    """The scores of the labels of one text, label by label."""
    if multi_label or len(rows) == 1:
        contradiction = len(rows[0]) - 1 if entailment == 0 else 0
        return [np.exp(row[entailment]) / (np.exp(row[entailment]) + np.exp(row[contradiction])) for row in rows]
    total = sum(np.exp(row[entailment]) for row in rows)
    return [np.exp(row[entailment]) / total for row in rows]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("labels", [1, 2, 7])
@pytest.mark.parametrize(("width", "entailment"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_scores_are_those_of_the_formula(width, entailment, labels, multi_label):
    logits = np.random.default_rng(width + labels).standard_normal((4, labels, width)).astype(np.float32) * 5
    found = score_labels(logits, entailment, multi_label=multi_label)
    expected = [by_hand(rows.astype(np.float64), entailment, multi_label) for rows in logits]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.dtype == np.float64


def test_logits_that_overflow_a_plain_exponential_have_scores():
    logits = np.array([[[0.0, 900.0], [0.0, 901.0]]], np.float32)
    np.testing.assert_allclose(score_labels(logits, 1, multi_label=False), [[1 / (1 + np.e), np.e / (1 + np.e)]])
    np.testing.assert_allclose(score_labels(logits, 1, multi_label=True), [[1, 1]])


def ask(texts: int, labels: int, *, size: int = 1, template: str = "{}", **options) -> ClassifyZeroShotRequest:
    """A request of some texts and labels of size characters."""
    return ClassifyZeroShotRequest(
        texts=["x" * size] * texts,
        labels=[f"{index:0{size}d}" for index in range(labels)],
        options=ZeroShotOptions(hypothesis_template=template, **options),
    )


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (ask(7, 3), Reason.TOO_MANY_TEXTS, "texts"),
        (ask(1, 1, template="none"), Reason.VALUE_OUT_OF_RANGE, "options.hypothesis_template"),
        (ask(1, 1, template="{} or {}"), Reason.VALUE_OUT_OF_RANGE, "options.hypothesis_template"),
        (ask(1, 3, size=700), Reason.TEXT_TOO_LARGE, "texts"),
        (ask(3, 1, size=700), Reason.TEXT_TOO_LARGE, "texts"),
        (ask(2, 2, template="{}" + "x" * 600), Reason.TEXT_TOO_LARGE, "options.hypothesis_template"),
    ],
)
async def test_what_would_be_too_much_is_refused(task, request_, reason, field):
    with pytest.raises(HubwireError) as caught:
        await task.classify(request_, CALLER)
    assert (caught.value.reason, caught.value.field) == (reason, field)


async def test_a_text_that_fails_is_named_by_its_own_index_and_not_by_that_of_its_pair(task):
    request = ClassifyZeroShotRequest(
        texts=["w1", "w2", "w3 " * 40], labels=["w4", "w5", "w6"], options=ZeroShotOptions(hypothesis_template="{}")
    )
    with pytest.raises(HubwireError) as caught:
        await task.classify(request, CALLER)
    assert (caught.value.reason, caught.value.field) == (Reason.TEXT_TOO_LONG, "texts[2]")
    assert caught.value.metadata == {"token_count": "44", "limit_tokens": "32"}


@pytest.mark.parametrize("max_tokens", [5, 6, 7, 8])
async def test_a_label_must_leave_room_for_one_token_of_a_text(task, max_tokens):
    """[CLS] text [SEP] w1 w2 w3 [SEP] has 7 tokens where the text has one."""
    options = ZeroShotOptions(hypothesis_template="{}", truncation=Truncation(max_tokens=max_tokens))
    request = ClassifyZeroShotRequest(texts=["w9 w8 w7 w6"], labels=["w1", "w1 w2 w3"], options=options)
    if max_tokens >= 7:
        result = await task.classify(request, CALLER)
        assert result.usage.truncated_texts == 1
        assert result.usage.input_tokens == min(max_tokens, 8) + max_tokens
    else:
        with pytest.raises(HubwireError) as caught:
            await task.classify(request, CALLER)
        assert (caught.value.reason, caught.value.field) == (Reason.TEXT_TOO_LONG, "candidate_labels[1]")
        assert caught.value.metadata["token_count"] == "6"
