"""Filled masks are those of the fill-mask pipeline of transformers for each text alone: tokens, their order, scores and sequences."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest
import transformers

from hubwire.v1 import fill_mask_pb2 as pb
from hubwire.v1 import fill_mask_pb2_grpc as pb_grpc
from hubwire_server.tasks.fill_mask import FillMaskOptions, FillMaskRequest, FillMaskTask
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Caller, Truncation
from tests.conftest import Server
from tests.parity.masked_heads import MODELS, make_masked, mask_texts
from tests.parity.sequence_heads import Head, gather_groups, head_server, in_process, over_grpc

TEXTS = 200
TOP_K = 5
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Candidate:
    """A token for a mask."""

    token_id: int
    score: float
    token: str
    sequence: str


Found = list[list[Candidate]]
"""The candidates for each mask of a text."""
Ask = Callable[[list[int]], Awaitable[Sequence[Found]]]


@pytest.fixture(scope="module")
def masked_heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Head]:
    """A model of each family, and the real one."""
    folder = tmp_path_factory.mktemp("masked")
    return {family: make_masked(family, folder) for family in MODELS}


@pytest.fixture(scope="module")
def texts(masked_heads: dict[str, Head]) -> dict[str, list[str]]:
    return {family: mask_texts(head.tokenizer, TEXTS) for family, head in masked_heads.items()}


@pytest.fixture(scope="module")
def expected(masked_heads: dict[str, Head], texts: dict[str, list[str]]) -> dict[str, list[Found]]:
    """What the pipeline gives to each text alone, by family."""
    return {family: [reference(head, text) for text in texts[family]] for family, head in masked_heads.items()}


@pytest.fixture(scope="module", params=["torch", "onnx"])
def server(request: pytest.FixtureRequest, masked_heads: dict[str, Head], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with head_server(list(masked_heads.values()), "fill_mask", request.param, tmp_path_factory.mktemp("cache")) as running:
        yield running


def reference(head: Head, text: str, **options: Any) -> Found:
    """What transformers fills in. Where a text has several masks, sequences are without the special tokens at its ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = transformers.pipeline("fill-mask", model=head.model, tokenizer=head.tokenizer, device="cpu")
        found: Any = pipe(text, tokenizer_kwargs={"truncation": True}, **({"top_k": TOP_K} | options))
    several = isinstance(found[0], list)
    ids = head.tokenizer(text, truncation=True).input_ids
    places = [place for place, token_id in enumerate(ids) if token_id == head.tokenizer.mask_token_id]
    return [
        [
            Candidate(
                one["token"],
                one["score"],
                one["token_str"].lstrip(" "),
                head.tokenizer.decode([*ids[1:place], one["token"], *ids[place + 1 : -1]]) if several else one["sequence"],
            )
            for one in mask
        ]
        for place, mask in zip(places, found if several else [found], strict=True)
    ]


def ask_task(task: TextTask, head: Head, texts: list[str], **options: Any) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        request = FillMaskRequest(
            texts=[texts[index] for index in indices],
            model=head.name,
            options=FillMaskOptions(truncation=Truncation(), **({"top_k": TOP_K} | options)),
        )
        result = await FillMaskTask(task).fill_mask(request, Caller(client="parity"))
        k = result.ids.shape[1]
        flat = [
            Candidate(*one)
            for one in zip(result.ids.ravel().tolist(), result.scores.ravel().tolist(), result.tokens, result.sequences, strict=True)
        ]
        masks = [flat[low : low + k] for low in range(0, len(flat), k)]
        return [masks[low:high] for low, high in zip(result.mask_offsets[:-1], result.mask_offsets[1:], strict=True)]

    return ask


def ask_grpc(channel: grpc.aio.Channel, head: Head, texts: list[str], **options: Any) -> Ask:
    async def ask(indices: list[int]) -> Sequence[Found]:
        request = pb.FillMaskRequest(
            texts=[texts[index] for index in indices],
            model=head.name,
            options=pb.FillMaskOptions(truncation={}, **({"top_k": TOP_K} | options)),
        )
        response = await pb_grpc.FillMaskServiceStub(channel).FillMask(request, timeout=60)
        return [
            [[Candidate(one.token_id, one.score, one.token, one.sequence) for one in mask.tokens] for mask in text.masks]
            for text in response.texts
        ]

    return ask


DOORS: dict[str, tuple[Any, Any]] = {"in process": (in_process, ask_task), "over gRPC": (over_grpc, ask_grpc)}


def assert_equal(found: dict[int, Found], expected: list[Found]) -> float:
    """Asserts tokens, order, sequences and scores, and returns the largest difference of a score."""
    assert sorted(found) == list(range(len(expected)))
    largest = 0.0
    for index, text in found.items():
        assert len(text) == len(expected[index])
        for ours, theirs in zip(text, expected[index], strict=True):
            assert [(one.token_id, one.token) for one in ours] == [(one.token_id, one.token) for one in theirs], index
            assert [one.sequence for one in ours] == [one.sequence for one in theirs], index
            for one, other in zip(ours, theirs, strict=True):
                assert one.score == pytest.approx(other.score, rel=1e-3, abs=1e-7)
                largest = max(largest, abs(one.score - other.score))
    assert largest < TOLERANCE
    return largest


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("family", MODELS)
def test_200_texts_alone_and_among_strangers(server, masked_heads, texts, expected, family, door, measured):
    open_door, make_ask = DOORS[door]

    async def alone(opened: Any) -> dict[int, Found]:
        ask = make_ask(opened, masked_heads[family], texts[family])
        return {index: (await ask([index]))[0] for index in range(TEXTS)}

    async def mixed(opened: Any) -> dict[int, Found]:
        return await gather_groups(make_ask(opened, masked_heads[family], texts[family]), range(TEXTS))

    with open_door(server) as run:
        largest = max(assert_equal(run(work), expected[family]) for work in (alone, mixed))
    measured("largest difference of a score", f"{largest:.1e}")


@pytest.mark.parametrize("family", MODELS)
def test_targets_are_those_of_the_pipeline(server, masked_heads, texts, family):
    head = masked_heads[family]
    vocabulary = sorted(head.tokenizer.get_vocab())
    targets = [token for token in vocabulary[100::97] if not token.isspace()][:9]
    some = texts[family][:40]
    expected = [reference(head, text, top_k=4, targets=targets) for text in some]
    with in_process(server) as run:
        found = run(lambda task: ask_task(task, head, some, top_k=4, targets=targets)(list(range(len(some)))))
    assert_equal(dict(enumerate(found)), expected)


def test_a_word_that_the_vocabulary_has_only_after_a_space_is_a_target(server, masked_heads):
    head = masked_heads["Roberta"]
    vocabulary = head.tokenizer.get_vocab()
    word = next(token[1:] for token in sorted(vocabulary) if token.startswith("Ġ") and len(token) > 4 and token[1:] not in vocabulary)
    with in_process(server) as run:
        ((mask,),) = run(lambda task: ask_task(task, head, [f"the {head.tokenizer.mask_token} fox"], targets=[word])([0]))
    assert [(one.token_id, one.token) for one in mask] == [(vocabulary[f"Ġ{word}"], word)]


@pytest.mark.parametrize("family", MODELS)
def test_the_spans_are_those_of_the_mask_tokens(server, masked_heads, texts, family):
    head = masked_heads[family]
    mask_token = head.tokenizer.mask_token
    request = FillMaskRequest(texts=texts[family], model=head.name, options=FillMaskOptions(truncation=Truncation()))
    with in_process(server) as run:
        result = run(lambda task: FillMaskTask(task).fill_mask(request, Caller(client="parity")))
    for index, text in enumerate(texts[family]):
        for start, end in result.spans[result.mask_offsets[index] : result.mask_offsets[index + 1]].tolist():
            assert text[start:end] == mask_token


def test_the_texts_have_one_mask_or_several_and_the_families_differ(expected):
    for found in expected.values():
        several = sum(len(masks) > 1 for masks in found)
        assert 40 < several < 160
        assert len({tuple(one.token_id for one in mask) for masks in found for mask in masks}) > 30
