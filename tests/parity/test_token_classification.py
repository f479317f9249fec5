"""Token classification gives what the pipeline of transformers gives to each text alone: labels, spans, order and scores."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import torch
import transformers
from transformers.pipelines.token_classification import AggregationStrategy

from hubwire.v1 import token_classification_pb2 as pb
from hubwire.v1 import token_classification_pb2_grpc as pb_grpc
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, Truncation, Windows
from hubwire_server.tasks.token_classification import ClassifyTokensOptions, ClassifyTokensRequest, TokenClassificationTask
from tests.conftest import Server
from tests.parity.sequence_heads import FAMILIES, MAX_TOKENS, Head, gather_groups, head_server, in_process, over_grpc
from tests.parity.token_heads import all_texts, make_token_head

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC", "E-ORG")
TEXTS = all_texts(200, seed=21)
WORDS = [text.split() for text in TEXTS]
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """How texts are read. A stride reads long texts in windows; without one they are cut."""

    aggregation: str
    stride: int = 0
    split: bool = False
    ignored: tuple[str, ...] = ("O",)

    def __str__(self) -> str:
        return f"{self.aggregation} stride {self.stride}{' split' if self.split else ''} ignored {self.ignored}"


AGGREGATIONS = ("none", "simple", "first", "average", "max")
SIMPLE = Case("simple")
CASES = [
    *(Case(aggregation) for aggregation in AGGREGATIONS),
    *(Case(aggregation, split=True) for aggregation in AGGREGATIONS),
    *(Case(aggregation, stride=stride) for stride, aggregation in zip((3, 9, 20, 32), AGGREGATIONS[1:], strict=True)),
    Case("first", stride=11, split=True),
    Case("none", ignored=()),
    Case("average", ignored=("PER", "B-LOC"), stride=16),
]
Found = list[tuple[str, int, int, float]]
Ask = Callable[[list[int]], Awaitable[Sequence[Found]]]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Head]:
    folder = tmp_path_factory.mktemp("heads")
    return {family: make_token_head(family, folder, "ForTokenClassification", LABELS) for family in FAMILIES}


@pytest.fixture(scope="module")
def expected(heads: dict[str, Head]) -> dict[str, dict[Case, list[Found]]]:
    """What the pipeline gives to each text alone, by family and case."""
    return {family: reference(head) for family, head in heads.items()}


def reference(head: Head) -> dict[Case, list[Found]]:
    """All cases. The stages of the pipeline run one by one, so that cases that differ in their aggregation share the model's outputs."""
    outputs: dict[tuple[int, bool, int], list[Any]] = {}
    answers: dict[Case, list[Found]] = {case: [] for case in CASES}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        pipe: Any = transformers.pipeline("token-classification", model=head.model, tokenizer=head.tokenizer, device="cpu")
        for case in CASES:
            strategy = AggregationStrategy(case.aggregation)
            preprocess, _, _ = pipe._sanitize_parameters(
                aggregation_strategy=strategy, stride=case.stride or None, is_split_into_words=case.split, delimiter=" "
            )
            for index, text in enumerate(TEXTS):
                key = (index, case.split, case.stride)
                if key not in outputs:
                    inputs = pipe.preprocess(WORDS[index] if case.split else text, **preprocess)
                    outputs[key] = [pipe._forward(dict(window)) for window in inputs]
                # The pipeline moves the offsets of words in place.
                chunks = [{**chunk, "offset_mapping": chunk["offset_mapping"].clone()} for chunk in outputs[key]]
                found = pipe.postprocess(chunks, aggregation_strategy=strategy, ignore_labels=list(case.ignored))
                name = "entity" if case.aggregation == "none" else "entity_group"
                answers[case].append([(entity[name], entity["start"], entity["end"], float(entity["score"])) for entity in found])
    return answers


@pytest.fixture(scope="module", params=["torch", "onnx"])
def server(request: pytest.FixtureRequest, heads: dict[str, Head], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with head_server(list(heads.values()), "token_classification", request.param, tmp_path_factory.mktemp("cache")) as running:
        yield running


def ask_task(task: TextTask, head: Head, case: Case) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        request = ClassifyTokensRequest(
            texts=[] if case.split else [TEXTS[index] for index in indices],
            split_texts=[WORDS[index] for index in indices] if case.split else [],
            model=head.name,
            options=ClassifyTokensOptions(
                aggregation=case.aggregation,
                ignored_labels=case.ignored,
                long_text=Windows(stride=case.stride) if case.stride else Truncation(),
            ),
        )
        result = await TokenClassificationTask(task).classify(request, Caller(client="parity"))
        for index, entities in zip(indices, result.entities, strict=True):
            check_slices(case, index, [(each.text, each.start, each.end, each.words) for each in entities])
        return [[(each.label, each.start, each.end, each.score) for each in entities] for entities in result.entities]

    return ask


def ask_grpc(channel: grpc.aio.Channel, head: Head, case: Case) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        request = pb.ClassifyTokensRequest(
            texts=[] if case.split else [TEXTS[index] for index in indices],
            split_texts=[pb.Words(words=WORDS[index]) for index in indices] if case.split else [],
            model=head.name,
            options=message_options(case),
        )
        response = await pb_grpc.TokenClassificationServiceStub(channel).ClassifyTokens(request, timeout=100)
        return [read(found) for found in response.classifications]

    return ask


def message_options(case: Case) -> pb.ClassifyTokensOptions:
    long_text: dict[str, Any] = {"windows": {"stride": case.stride}} if case.stride else {"truncation": {}}
    return pb.ClassifyTokensOptions(
        aggregation=f"AGGREGATION_{case.aggregation.upper()}", ignored_labels={"labels": case.ignored}, **long_text
    )


def read(found: pb.TokenClassification) -> Found:
    return [(entity.label, entity.span.start, entity.span.end, entity.score) for entity in found.entities]


def check_slices(case: Case, index: int, entities: list[tuple[str, int, int, Any]]) -> None:
    """Asserts that the text of an entity is that of its span, and that it stands in the words that it names."""
    words = WORDS[index]
    text = " ".join(words) if case.split else TEXTS[index]
    for part, start, end, range_ in entities:
        assert text[start:end] == part
        assert (range_ is not None) is case.split
        assert range_ is None or part in " ".join(words[range_[0] : range_[1]])


DOORS: dict[str, tuple[Any, Any]] = {"in process": (in_process, ask_task), "over gRPC": (over_grpc, ask_grpc)}


def assert_equal(found: dict[int, Found], expected: list[Found], about: object) -> float:
    """Asserts labels, spans and order, and returns the largest difference of a score."""
    assert sorted(found) == list(range(len(expected)))
    largest = 0.0
    for index, answer in found.items():
        assert [entity[:3] for entity in answer] == [entity[:3] for entity in expected[index]], f"{about}: {TEXTS[index]!r}"
        largest = max([largest, *(abs(ours[3] - theirs[3]) for ours, theirs in zip(answer, expected[index], strict=True))])
    assert largest < TOLERANCE
    return largest


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_aggregation_of_texts_windows_and_words(server, heads, expected, family, door, measured):
    open_door, make_ask = DOORS[door]
    everything = list(range(len(TEXTS)))

    with open_door(server) as run:
        answers = {case: run(lambda opened, case=case: make_ask(opened, heads[family], case)(everything)) for case in CASES}
    largest = max(assert_equal(dict(enumerate(found)), expected[family][case], case) for case, found in answers.items())
    measured("largest difference of a score", f"{largest:.1e}")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_200_inputs_alone_and_among_strangers(server, heads, expected, family, door):
    open_door, make_ask = DOORS[door]

    async def alone(opened: Any) -> dict[int, Found]:
        ask = make_ask(opened, heads[family], SIMPLE)
        return {index: (await ask([index]))[0] for index in range(len(TEXTS))}

    async def mixed(opened: Any) -> dict[int, Found]:
        return await gather_groups(make_ask(opened, heads[family], SIMPLE), range(len(TEXTS)))

    with open_door(server) as run:
        for work in (alone, mixed):
            assert_equal(run(work), expected[family][SIMPLE], SIMPLE)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stream_of_200_inputs(server, heads, expected, family):
    case = next(case for case in CASES if case.stride == 9)
    items = [pb.StreamClassifyTokensItem(id=str(index), text=text) for index, text in enumerate(TEXTS)]
    options = pb.StreamClassifyTokensOptions(model=heads[family].name, options=message_options(case))
    requests = [
        pb.StreamClassifyTokensRequest(options=options),
        *(pb.StreamClassifyTokensRequest(items={"items": items[low : low + 30]}) for low in range(0, len(items), 30)),
    ]
    responses = pb_grpc.TokenClassificationServiceStub(server.channel).StreamClassifyTokens(iter(requests), timeout=60)
    found = {int(result.id): read(result.classification) for response in responses for result in response.results}
    assert_equal(found, expected[family][case], case)


def test_the_inputs_try_what_they_are_meant_to(heads, expected):
    tokenizer = heads["Bert"].tokenizer.backend_tokenizer
    tokenizer.no_truncation()
    lengths = [len(tokenizer.encode(text)) for text in TEXTS]
    assert min(lengths) < 5
    assert 20 < sum(length > MAX_TOKENS for length in lengths) < 100
    tags = {entity[0] for by_case in expected.values() for answer in by_case[SIMPLE] for entity in answer}
    assert tags == {"PER", "LOC", "MISC", "ORG"}
    for family, by_case in expected.items():
        # Aggregations that gave the same everywhere would prove nothing.
        assert len({str(by_case[Case(aggregation)]) for aggregation in AGGREGATIONS}) == len(AGGREGATIONS), family
        assert by_case[SIMPLE] != by_case[next(case for case in CASES if case.stride == 3)], family


def test_a_head_without_beginnings_and_of_one_label(tmp_path: Path):
    for labels in (("LABEL_0", "LABEL_1"), ("ONLY",)):
        head = make_token_head("Bert", tmp_path / f"heads-{len(labels)}", "ForTokenClassification", labels)
        expected = reference(head)
        with head_server([head], "token_classification", "torch", tmp_path / "cache") as server, in_process(server) as run:
            for case in (SIMPLE, Case("none"), Case("max")):
                found = run(lambda task, head=head, case=case: ask_task(task, head, case)(list(range(len(TEXTS)))))
                assert_equal(dict(enumerate(found)), expected[case], case)
