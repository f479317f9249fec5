"""Heads of real models give what transformers gives to each text alone: classes and atoms of reactions, and personal data in texts.

The other real heads are compared where those of tiny models are: sentiment in test_text_classification.py, and the masks and sparse vectors
of the demo in test_fill_mask.py and test_sparse_embedding.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest
import torch
import transformers
from transformers.pipelines.token_classification import AggregationStrategy

from hubwire.v1 import text_classification_pb2, token_classification_pb2
from hubwire.v1.text_classification_pb2_grpc import TextClassificationServiceStub
from hubwire.v1.token_classification_pb2_grpc import TokenClassificationServiceStub
from hubwire_server.tasks.text_classification import ClassifyOptions, ClassifyTextRequest, TextClassificationTask
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, Truncation
from hubwire_server.tasks.token_classification import ClassifyTokensOptions, ClassifyTokensRequest, TokenClassificationTask
from tests.conftest import Server
from tests.parity import test_fill_mask
from tests.parity.real_heads import (
    ATOMS,
    CLASSES,
    ENTITIES,
    MAX_TOKENS,
    REACTIONS,
    masked_reactions,
    personal_texts,
    reactions,
    real_heads,
    real_server,
)
from tests.parity.sequence_heads import Head, gather_groups, in_process, over_grpc

COUNT = 200
TOLERANCE = 1e-4
TIE = 1e-4
"""Neighbours whose scores differ by less than this part of them are a tie, and their order rounding: 50 classes have some."""
AGGREGATIONS = ("none", "simple", "first", "average", "max")
CALLER = Caller(client="parity")

Found = list[tuple[Hashable, float]]
"""What was found in a text, the best or the first of it first: what it is, and its score."""
Ask = Callable[[list[int]], Awaitable[Sequence[Found]]]


def classes_of_transformers(head: Head, texts: Sequence[str]) -> list[Found]:
    pipe: Any = make_pipeline("text-classification", head)
    return [[(one["label"], one["score"]) for one in pipe(text, top_k=None, truncation=True)] for text in texts]


def classes_in_process(task: TextTask, head: Head, texts: Sequence[str]) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        options = ClassifyOptions(truncation=Truncation())
        request = ClassifyTextRequest(texts=[texts[index] for index in indices], model=head.name, options=options)
        ranked = (await TextClassificationTask(task).classify(request, CALLER)).ranked
        rows = zip(ranked.columns, ranked.scores, strict=True)
        return [[(ranked.labels[column], float(score)) for column, score in zip(*row, strict=True)] for row in rows]

    return ask


def classes_over_grpc(channel: grpc.aio.Channel, head: Head, texts: Sequence[str]) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        options = text_classification_pb2.ClassifyTextOptions(truncation={})
        request = text_classification_pb2.ClassifyTextRequest(texts=[texts[index] for index in indices], model=head.name, options=options)
        response = await TextClassificationServiceStub(channel).ClassifyText(request, timeout=60)
        return [[(entry.label, entry.score) for entry in found.labels] for found in response.classifications]

    return ask


def entities_of_transformers(head: Head, texts: Sequence[str]) -> list[Found]:
    """Those of all aggregations, one behind the other. The stages of the pipeline run one by one, so that the model runs once a text."""
    pipe: Any = make_pipeline("token-classification", head)
    found: list[Found] = []
    for text in texts:
        with torch.inference_mode():
            chunks = [pipe._forward(dict(chunk)) for chunk in pipe.preprocess(text, is_split_into_words=False)]
        found.append([])
        for aggregation in AGGREGATIONS:
            entities = pipe.postprocess(chunks, aggregation_strategy=AggregationStrategy(aggregation), ignore_labels=["O"])
            label = "entity" if aggregation == "none" else "entity_group"
            found[-1] += [((aggregation, one[label], one["start"], one["end"]), float(one["score"])) for one in entities]
    return found


def entities_in_process(task: TextTask, head: Head, texts: Sequence[str]) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        found: list[Found] = [[] for _ in indices]
        for aggregation in AGGREGATIONS:
            options = ClassifyTokensOptions(aggregation=aggregation, long_text=Truncation())
            request = ClassifyTokensRequest(texts=[texts[index] for index in indices], model=head.name, options=options)
            result = await TokenClassificationTask(task).classify(request, CALLER)
            for text, entities in zip(found, result.entities, strict=True):
                text += [((aggregation, one.label, one.start, one.end), one.score) for one in entities]
        return found

    return ask


def entities_over_grpc(channel: grpc.aio.Channel, head: Head, texts: Sequence[str]) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        found: list[Found] = [[] for _ in indices]
        for aggregation in AGGREGATIONS:
            options = token_classification_pb2.ClassifyTokensOptions(aggregation=f"AGGREGATION_{aggregation.upper()}", truncation={})
            request = token_classification_pb2.ClassifyTokensRequest(
                texts=[texts[index] for index in indices], model=head.name, options=options
            )
            response = await TokenClassificationServiceStub(channel).ClassifyTokens(request, timeout=60)
            for text, answer in zip(found, response.classifications, strict=True):
                text += [((aggregation, one.label, one.span.start, one.span.end), one.score) for one in answer.entities]
        return found

    return ask


def masks_of_transformers(head: Head, texts: Sequence[str]) -> list[Found]:
    return [flat(test_fill_mask.reference(head, text)) for text in texts]


def masks_in_process(task: TextTask, head: Head, texts: list[str]) -> Ask:
    ask_task = test_fill_mask.ask_task(task, head, texts)
    return lambda indices: flattened(ask_task(indices))


def masks_over_grpc(channel: grpc.aio.Channel, head: Head, texts: list[str]) -> Ask:
    ask_grpc = test_fill_mask.ask_grpc(channel, head, texts)
    return lambda indices: flattened(ask_grpc(indices))


async def flattened(answers: Awaitable[Sequence[test_fill_mask.Found]]) -> Sequence[Found]:
    return [flat(masks) for masks in await answers]


def flat(masks: test_fill_mask.Found) -> Found:
    """The candidates for all masks of a text, with the sequence that each gives."""
    return [((place, one.token_id, one.token, one.sequence), one.score) for place, mask in enumerate(masks) for one in mask]


def make_pipeline(task: str, head: Head) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.pipeline(task, model=head.model, tokenizer=head.tokenizer, device="cpu")


@dataclass(frozen=True)
class Case:
    """A model's inputs, what transformers makes of them, and what the server makes of them through either door.

    ranked is whether what is found in a text stands in the order of its scores, and not of its places in the text.
    """

    ranked: bool
    texts: list[str]
    reference: Callable[[Head, Any], list[Found]]
    in_process: Callable[[TextTask, Head, Any], Ask]
    over_grpc: Callable[[grpc.aio.Channel, Head, Any], Ask]


CASES: Mapping[str, Case] = {
    REACTIONS: Case(True, reactions(COUNT), classes_of_transformers, classes_in_process, classes_over_grpc),
    ATOMS: Case(True, masked_reactions(COUNT), masks_of_transformers, masks_in_process, masks_over_grpc),
    ENTITIES: Case(False, personal_texts(COUNT), entities_of_transformers, entities_in_process, entities_over_grpc),
}


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Head]:
    return real_heads(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def expected(heads: dict[str, Head]) -> dict[str, list[Found]]:
    """What transformers gives to each text alone, by model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: case.reference(heads[name], case.texts) for name, case in CASES.items()}


@pytest.fixture(scope="module", params=["torch", "onnx"])
def server(request: pytest.FixtureRequest, heads: dict[str, Head], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with real_server(heads, request.param, tmp_path_factory.mktemp("cache")) as running:
        yield running


def assert_equal(found: dict[int, Found], expected: list[Found], ranked: bool) -> float:
    """Asserts what was found, its order and its scores, and returns the largest difference of a score."""
    assert sorted(found) == list(range(len(expected)))
    largest = 0.0
    for index, answer in found.items():
        ours, theirs = dict(answer), dict(expected[index])
        assert len(ours) == len(answer)
        assert ours.keys() == theirs.keys(), index
        for one, other in zip(ours, theirs, strict=True):
            assert one == other or (ranked and theirs[one] == pytest.approx(theirs[other], rel=TIE)), index
        largest = max([largest, *(abs(score - theirs[key]) for key, score in ours.items())])
    assert largest < TOLERANCE
    return largest


@pytest.mark.parametrize("door", ["in process", "over gRPC"])
@pytest.mark.parametrize("name", CASES)
def test_200_inputs_alone_and_among_strangers(server, heads, expected, name, door, measured):
    case = CASES[name]
    open_door, make_ask = (in_process, case.in_process) if door == "in process" else (over_grpc, case.over_grpc)

    async def alone(opened: Any) -> dict[int, Found]:
        ask = make_ask(opened, heads[name], case.texts)
        return {index: (await ask([index]))[0] for index in range(COUNT)}

    async def mixed(opened: Any) -> dict[int, Found]:
        return await gather_groups(make_ask(opened, heads[name], case.texts), range(COUNT))

    with open_door(server) as run:
        largest = max(assert_equal(run(work), expected[name], case.ranked) for work in (alone, mixed))
    measured("largest difference of a score", f"{largest:.1e}")


def test_the_inputs_try_what_they_are_meant_to(heads, expected):
    """Inputs of mixed length of which some are cut, no token of a reaction that the models do not know, and many different answers."""
    for name in (REACTIONS, ATOMS):
        tokenizer = heads[name].tokenizer.backend_tokenizer
        tokenizer.no_truncation()  # the pipeline has set it
        encoded = [tokenizer.encode(text) for text in CASES[name].texts]
        assert min(map(len, encoded)) < 30
        assert 0 < sum(len(tokens) > MAX_TOKENS for tokens in encoded) < 10
        assert not any(tokenizer.token_to_id("[UNK]") in tokens.ids for tokens in encoded)
    assert len({found[0][0] for found in expected[REACTIONS]}) > 25
    assert {len(found) for found in expected[REACTIONS]} == {CLASSES}
    assert len({found[0][0][2] for found in expected[ATOMS]}) > 10
    assert len({key[1] for found in expected[ENTITIES] for key, _ in found if key[0] == "simple"}) > 10
