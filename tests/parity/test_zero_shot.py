"""Zero-shot classification gives what the pipeline of transformers gives to each text alone: labels, their order, and scores."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import grpc.aio
import numpy as np
import pytest
import transformers

from hubwire.v1 import text_classification_pb2 as pb
from hubwire.v1 import text_classification_pb2_grpc as pb_grpc
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, Truncation
from hubwire_server.tasks.zero_shot import DEFAULT_TEMPLATE, ClassifyZeroShotRequest, ZeroShotOptions, ZeroShotTask
from tests.conftest import Server
from tests.parity.sequence_heads import FAMILIES, MAX_TOKENS, Head, gather_groups, head_server, in_process, make_head, over_grpc
from tests.parity.texts import make_texts

HEADS = {"contradiction first": ("contradiction", "neutral", "entailment"), "entailment first": ("Entailment", "not_entailment")}
TEXTS = make_texts(200, seed=21)
LABELS = ["penguins", "fox treaties", "crème brûlée"]
TOLERANCE = 1e-4

Found = list[tuple[str, float]]
Ask = Callable[[list[int]], Awaitable[Sequence[Found]]]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Head]:
    """A head of three labels of each family, and one of two labels, the first of which is entailment."""
    folder = tmp_path_factory.mktemp("heads")
    heads = {family: make_head(family, folder, HEADS["contradiction first"]) for family in FAMILIES}
    return {**heads, "entailment first": make_head("Bert", folder, HEADS["entailment first"])}


@pytest.fixture(scope="module")
def expected(heads: dict[str, Head]) -> dict[str, list[Found]]:
    """What the pipeline gives to each text alone."""
    return {name: reference(head, TEXTS) for name, head in heads.items()}


@pytest.fixture(scope="module", params=["torch", "onnx"])
def server(request: pytest.FixtureRequest, heads: dict[str, Head], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with head_server(list(heads.values()), "zero_shot_classification", request.param, tmp_path_factory.mktemp("cache")) as running:
        yield running


def reference(head: Head, texts: Sequence[str], labels: Sequence[str] = LABELS, **options: Any) -> list[Found]:
    """The labels of each text, as transformers ranks them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = transformers.pipeline("zero-shot-classification", model=head.model, tokenizer=head.tokenizer, device="cpu")
        return [list(zip(found["labels"], found["scores"], strict=True)) for found in pipe(list(texts), list(labels), **options)]


def ask_task(task: TextTask, head: Head, labels: Sequence[str] = LABELS, **options: Any) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        request = ClassifyZeroShotRequest(
            texts=[TEXTS[index] for index in indices],
            labels=labels,
            model=head.name,
            options=ZeroShotOptions(truncation=Truncation(), **options),
        )
        ranked = (await ZeroShotTask(task).classify(request, Caller(client="parity"))).ranked
        return [
            [(ranked.labels[column], float(score)) for column, score in zip(columns, scores, strict=True)]
            for columns, scores in zip(ranked.columns, ranked.scores, strict=True)
        ]

    return ask


def ask_grpc(channel: grpc.aio.Channel, head: Head, labels: Sequence[str] = LABELS, **options: Any) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        request = pb.ClassifyZeroShotRequest(
            texts=[TEXTS[index] for index in indices],
            candidate_labels=labels,
            model=head.name,
            options=pb.ClassifyZeroShotOptions(truncation={}, **options),
        )
        response = await pb_grpc.TextClassificationServiceStub(channel).ClassifyZeroShot(request, timeout=60)
        return [[(entry.label, entry.score) for entry in found.labels] for found in response.classifications]

    return ask


DOORS: dict[str, tuple[Any, Any]] = {"in process": (in_process, ask_task), "over gRPC": (over_grpc, ask_grpc)}


def assert_equal(found: dict[int, Found], expected: list[Found]) -> float:
    """Asserts labels, order and scores, and returns the largest difference."""
    assert sorted(found) == list(range(len(expected)))
    for index, answer in found.items():
        assert [label for label, _ in answer] == [label for label, _ in expected[index]], index
    differences = [
        abs(score - theirs[1]) for index, answer in found.items() for (_, score), theirs in zip(answer, expected[index], strict=True)
    ]
    assert max(differences) < TOLERANCE
    return max(differences)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", [*FAMILIES, "entailment first"])
def test_200_texts_alone_and_among_strangers(server, heads, expected, name, door, measured):
    open_door, make_ask = DOORS[door]

    async def alone(opened: Any) -> dict[int, Found]:
        ask = make_ask(opened, heads[name])
        return {index: (await ask([index]))[0] for index in range(len(TEXTS))}

    async def mixed(opened: Any) -> dict[int, Found]:
        return await gather_groups(make_ask(opened, heads[name]), range(len(TEXTS)))

    with open_door(server) as run:
        largest = max(assert_equal(run(work), expected[name]) for work in (alone, mixed))
    measured("largest difference of a score", f"{largest:.1e}")


OPTIONS: dict[str, dict[str, Any]] = {
    "every label on its own": {"multi_label": True},
    "another template": {"hypothesis_template": "It tells of {} and nothing else"},
    "both": {"multi_label": True, "hypothesis_template": "{}"},
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ["Roberta", "DebertaV2", "entailment first"])
@pytest.mark.parametrize("case", [*OPTIONS, "one label"])
def test_each_option_is_that_of_the_pipeline(server, heads, name, case, door):
    options, labels = OPTIONS.get(case, {}), LABELS[:1] if case == "one label" else LABELS
    open_door, make_ask = DOORS[door]
    with open_door(server) as run:
        found = run(lambda opened: make_ask(opened, heads[name], labels, **options)(list(range(40))))
    assert_equal(dict(enumerate(found)), reference(heads[name], TEXTS[:40], labels, **options))


def test_some_texts_are_cut_and_no_label_is(heads):
    tokenizer = heads["Bert"].tokenizer.backend_tokenizer
    tokenizer.no_truncation()  # the pipeline has set it
    hypotheses = [len(tokenizer.encode(DEFAULT_TEMPLATE.format(label))) for label in LABELS]
    assert max(hypotheses) < MAX_TOKENS // 2
    assert 10 < sum(len(tokenizer.encode(text)) + max(hypotheses) > MAX_TOKENS for text in TEXTS) < 100


def test_the_heads_tell_texts_and_labels_apart(expected):
    """Scores that hardly differ would prove nothing."""
    for found in expected.values():
        assert np.std([dict(answer)[LABELS[0]] for answer in found]) > 50 * TOLERANCE
        assert len({answer[0][0] for answer in found}) > 1
