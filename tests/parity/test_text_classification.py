"""Text classification gives what the pipeline of transformers gives to each text alone: labels, their order, and scores."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
import transformers

from hubwire.v1 import text_classification_pb2 as pb
from hubwire.v1 import text_classification_pb2_grpc as pb_grpc
from hubwire_server.models import demo
from hubwire_server.tasks.text_classification import ClassifyOptions, ClassifyTextRequest, TextClassificationTask
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, Truncation
from tests.conftest import Server
from tests.parity.sequence_heads import FAMILIES, MAX_TOKENS, Head, gather_groups, head_server, in_process, make_head, over_grpc
from tests.parity.texts import make_texts

LABELS = ("sadness", "joy", "love", "anger", "fear")
TEXTS = make_texts(200, seed=11)
PAIRS: list[str | None] = [pair if index % 5 < 2 else None for index, pair in enumerate(make_texts(200, seed=12))]
"""The second text of some of TEXTS."""
SINGLE = [index for index, pair in enumerate(PAIRS) if pair is None]
DOUBLE = [index for index, pair in enumerate(PAIRS) if pair is not None]
TOLERANCE = 1e-4
SENTIMENT = "sentiment"

Found = list[tuple[str, float]]
Ask = Callable[[list[int]], Awaitable[Sequence[Found]]]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Head]:
    """A tiny head of each family, and the real one of the demo."""
    folder = tmp_path_factory.mktemp("heads")
    return {family: make_head(family, folder, LABELS) for family in FAMILIES} | {SENTIMENT: sentiment(folder)}


@pytest.fixture(scope="module")
def expected(heads: dict[str, Head]) -> dict[str, list[Found]]:
    """What the pipeline gives to each input alone, by family."""
    return {family: [reference(head, index) for index in range(len(TEXTS))] for family, head in heads.items()}


@pytest.fixture(scope="module", params=["torch", "onnx"])
def server(request: pytest.FixtureRequest, heads: dict[str, Head], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with head_server(list(heads.values()), "text_classification", request.param, tmp_path_factory.mktemp("cache")) as running:
        yield running


def sentiment(folder: Path) -> Head:
    """The trained head of `hubwire serve --demo` over MiniLM."""
    path = demo.build("sentiment", folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path, dtype="float32").eval()
    return Head(SENTIMENT, path, model, transformers.AutoTokenizer.from_pretrained(path))


def reference(head: Head, index: int, **kwargs: Any) -> Found:
    """All labels of one input, as transformers ranks them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = transformers.pipeline("text-classification", model=head.model, tokenizer=head.tokenizer, device="cpu")
        pair = PAIRS[index]
        inputs: Any = TEXTS[index] if pair is None else {"text": TEXTS[index], "text_pair": pair}
        return [(found["label"], found["score"]) for found in pipe(inputs, top_k=None, truncation=True, **kwargs)]


def ask_task(task: TextTask, head: Head, function: str = "") -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        request = ClassifyTextRequest(
            texts=[TEXTS[index] for index in indices],
            pairs=[pair for index in indices if (pair := PAIRS[index]) is not None],
            model=head.name,
            options=ClassifyOptions(truncation=Truncation(), function=function),
        )
        ranked = (await TextClassificationTask(task).classify(request, Caller(client="parity"))).ranked
        return [
            [(ranked.labels[column], float(score)) for column, score in zip(columns, scores, strict=True)]
            for columns, scores in zip(ranked.columns, ranked.scores, strict=True)
        ]

    return ask


def ask_grpc(channel: grpc.aio.Channel, head: Head, function: str = "unspecified") -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        request = pb.ClassifyTextRequest(
            texts=[TEXTS[index] for index in indices],
            text_pairs=[pair for index in indices if (pair := PAIRS[index]) is not None],
            model=head.name,
            options=pb.ClassifyTextOptions(truncation={}, function=f"CLASSIFICATION_FUNCTION_{function.upper()}"),
        )
        response = await pb_grpc.TextClassificationServiceStub(channel).ClassifyText(request, timeout=60)
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
@pytest.mark.parametrize("family", [*FAMILIES, SENTIMENT])
def test_200_inputs_alone_and_among_strangers(server, heads, expected, family, door, measured):
    open_door, make_ask = DOORS[door]

    async def alone(opened: Any) -> dict[int, Found]:
        ask = make_ask(opened, heads[family])
        return {index: (await ask([index]))[0] for index in range(len(TEXTS))}

    async def mixed(opened: Any) -> dict[int, Found]:
        ask = make_ask(opened, heads[family])
        return await gather_groups(ask, SINGLE) | await gather_groups(ask, DOUBLE)

    with open_door(server) as run:
        largest = max(assert_equal(run(work), expected[family]) for work in (alone, mixed))
    measured("largest difference of a score", f"{largest:.1e}")


def test_the_inputs_are_of_mixed_length_and_some_are_cut(heads):
    tokenizer = heads["Bert"].tokenizer.backend_tokenizer
    tokenizer.no_truncation()  # the pipeline has set it
    lengths = [len(tokenizer.encode(text, pair)) for text, pair in zip(TEXTS, PAIRS, strict=True)]
    assert (min(lengths) < 8, len(SINGLE) >= 80, len(DOUBLE) >= 80) == (True, True, True)
    assert 10 < sum(length > MAX_TOKENS for length in lengths) < 100


def test_the_families_tell_their_inputs_apart(expected):
    """Scores that hardly differ between inputs would prove nothing."""
    for name, found in expected.items():
        assert np.std([dict(answer)[min(dict(answer))] for answer in found]) > 100 * TOLERANCE
        assert len({tuple(label for label, _ in answer) for answer in found}) > (1 if name == SENTIMENT else 3)


@pytest.mark.parametrize("function", ["sigmoid", "softmax", "none"])
def test_each_function_is_that_of_the_pipeline(server, heads, function):
    head = heads["Bert"]
    expected = [reference(head, index, function_to_apply=function) for index in SINGLE[:40]]
    with in_process(server) as run:
        found = run(lambda task: ask_task(task, head, function)(SINGLE[:40]))
    assert_equal(dict(enumerate(found)), expected)


@pytest.mark.parametrize(
    ("labels", "problem_type"),
    [(("a", "b", "c"), "multi_label_classification"), (("a", "b"), "regression"), (("a",), None), (("a",), "regression")],
)
def test_the_default_function_is_that_of_the_pipeline(labels, problem_type, tmp_path: Path):
    head = make_head("Bert", tmp_path / "heads", labels, problem_type=problem_type)
    expected = [reference(head, index) for index in SINGLE[:40]]
    with head_server([head], "text_classification", "torch", tmp_path / "cache") as server, in_process(server) as run:
        found = run(lambda task: ask_task(task, head)(SINGLE[:40]))
    assert_equal(dict(enumerate(found)), expected)


def test_a_stream_of_200_inputs(server, heads, expected, measured):
    head = heads["ModernBert"]
    items = [
        pb.StreamClassifyTextItem(id=str(index), text=text, text_pair=pair)
        for index, (text, pair) in enumerate(zip(TEXTS, PAIRS, strict=True))
    ]
    options = pb.StreamClassifyTextOptions(model=head.name, options=pb.ClassifyTextOptions(truncation={}))
    requests = [
        pb.StreamClassifyTextRequest(options=options),
        *(pb.StreamClassifyTextRequest(items=pb.StreamClassifyTextItems(items=items[low : low + 30])) for low in range(0, len(items), 30)),
    ]
    responses = pb_grpc.TextClassificationServiceStub(server.channel).StreamClassifyText(iter(requests), timeout=60)
    found = {
        int(result.id): [(entry.label, entry.score) for entry in result.classification.labels]
        for response in responses
        for result in response.results
    }
    measured("largest difference of a score", f"{assert_equal(found, expected['ModernBert']):.1e}")
