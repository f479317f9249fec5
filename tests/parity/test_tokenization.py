"""Tokens are those that AutoTokenizer gives, and texts are those that it decodes, for the kinds of tokenizers that families have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from transformers import AutoTokenizer

from hubwire.v1 import tokenization_pb2 as pb
from hubwire.v1 import tokenization_pb2_grpc as pb_grpc
from hubwire_server.tasks.texts import Truncation
from hubwire_server.tasks.tokenization import (
    CountTokensRequest,
    DetokenizeRequest,
    TokenizationTask,
    TokenizeOptions,
    TokenizeRequest,
)
from tests.conftest import Server
from tests.parity.masked_heads import MODELS, make_masked
from tests.parity.sequence_heads import Head, head_server, in_process
from tests.parity.texts import make_texts

TEXTS = [*make_texts(200, seed=41), "", " ", "it's  a test , isn't it ? « no » !", "👩‍👩‍👧‍👦 e\u0301 שלום 𝒳", "[MASK] <mask> </s> [SEP]"]
PAIRS = make_texts(len(TEXTS), seed=42)
CASES = {
    "single": {},
    "pairs": {"pairs": True},
    "no special tokens": {"special": False},
    "cut at the right": {"limit": 12, "side": "right"},
    "cut at the left": {"limit": 12, "side": "left"},
    "pairs that are cut": {"pairs": True, "limit": 15, "side": "right"},
}
Row = tuple[list[int], list[str], list[tuple[int, int]], list[bool], list[int], list[int | None]]
"""Ids, vocabulary entries, spans, the mask of special tokens, type ids and sequence ids of a text."""


@pytest.fixture(scope="module")
def masked_heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Head]:
    """A model of each family, and the real one."""
    folder = tmp_path_factory.mktemp("masked")
    return {family: make_masked(family, folder) for family in MODELS}


@pytest.fixture(scope="module")
def server(masked_heads: dict[str, Head], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with head_server(list(masked_heads.values()), "fill_mask", "torch", tmp_path_factory.mktemp("cache")) as running:
        yield running


@pytest.fixture(scope="module")
def tokenizers(masked_heads: dict[str, Head]) -> dict[str, Any]:
    """As transformers reads them from the folders that the server reads."""
    return {family: AutoTokenizer.from_pretrained(head.path) for family, head in masked_heads.items()}


def reference(tokenizer: Any, *, pairs: bool = False, special: bool = True, limit: int | None = None, side: str = "right") -> list[Row]:
    tokenizer.truncation_side = side
    encoded = tokenizer(
        TEXTS,
        PAIRS if pairs else None,
        add_special_tokens=special,
        truncation=limit is not None,
        max_length=limit,
        return_token_type_ids=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    rows = []
    for index in range(len(TEXTS)):
        added = list(map(bool, encoded.encodings[index].special_tokens_mask))
        spans = [(0, 0) if extra else tuple(span) for span, extra in zip(encoded.offset_mapping[index], added, strict=True)]
        type_ids = encoded.encodings[index].type_ids
        entries = tokenizer.convert_ids_to_tokens(encoded.input_ids[index])
        rows.append(
            (
                encoded.input_ids[index],
                entries,
                spans,
                added,
                type_ids,
                encoded.sequence_ids(index),
            )
        )
    return rows


def ask_grpc(server: Server, head: Head, *, pairs: bool = False, special: bool = True, limit: int = 0, side: str = "right") -> list[Row]:
    options = pb.TokenizeOptions(
        skip_special_tokens=not special,
        truncation={"max_tokens": limit, "side": f"TRUNCATION_SIDE_{side.upper()}"} if limit else None,
    )
    request = pb.TokenizeRequest(texts=TEXTS, text_pairs=PAIRS if pairs else [], model=head.name, options=options)
    return [
        (
            list(text.token_ids),
            list(text.tokens),
            [(span.start, span.end) for span in text.spans],
            list(text.special_tokens_mask),
            list(text.type_ids),
            [None if number < 0 else number for number in text.sequence_ids],
        )
        for text in pb_grpc.TokenizationServiceStub(server.channel).Tokenize(request, timeout=60).texts
    ]


def ask_task(server: Server, head: Head, *, pairs: bool = False, special: bool = True, limit: int = 0, side: Any = "right") -> list[Row]:
    options = TokenizeOptions(skip_special_tokens=not special, truncation=Truncation(side=side, max_tokens=limit) if limit else None)
    request = TokenizeRequest(texts=TEXTS, pairs=PAIRS if pairs else [], model=head.name, options=options)
    with in_process(server) as run:
        result = run(lambda task: TokenizationTask(task).tokenize(request))
    batch = result.batch
    assert batch.spans is not None
    assert batch.special_tokens_mask is not None
    assert batch.sequence_ids is not None
    return [
        (
            batch.ids[low:high].tolist(),
            result.tokens[low:high],
            list(map(tuple, batch.spans[low:high].tolist())),
            batch.special_tokens_mask[low:high].tolist(),
            batch.type_ids[low:high].tolist(),
            [None if number < 0 else number for number in batch.sequence_ids[low:high].tolist()],
        )
        for low, high in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)
    ]


@pytest.mark.parametrize("ask", [ask_task, ask_grpc], ids=["in process", "over gRPC"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", MODELS)
def test_tokens_are_those_of_transformers(server, masked_heads, tokenizers, family, case, ask):
    expected = reference(tokenizers[family], **CASES[case])
    found = ask(server, masked_heads[family], **CASES[case])
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == theirs


@pytest.mark.parametrize("family", MODELS)
def test_counts_are_those_of_the_tokens(server, masked_heads, tokenizers, family):
    expected = [len(row[0]) for row in reference(tokenizers[family], pairs=True)]
    request = CountTokensRequest(texts=TEXTS, pairs=PAIRS, model=masked_heads[family].name)
    with in_process(server) as run:
        assert run(lambda task: TokenizationTask(task).count(request)).counts.tolist() == expected
    message = pb.CountTokensRequest(texts=TEXTS, text_pairs=PAIRS, model=masked_heads[family].name)
    assert list(pb_grpc.TokenizationServiceStub(server.channel).CountTokens(message, timeout=60).token_counts) == expected


@pytest.mark.parametrize("keep", [True, False], ids=["with special tokens", "without special tokens"])
@pytest.mark.parametrize("family", MODELS)
def test_texts_are_those_that_transformers_decodes(server, masked_heads, tokenizers, family, keep):
    tokenizer = tokenizers[family]
    ids = [row[0] for row in reference(tokenizer)]
    expected = [tokenizer.decode(some, skip_special_tokens=not keep) for some in ids]
    message = pb.DetokenizeRequest(
        texts=[pb.TokenIds(token_ids=some) for some in ids], model=masked_heads[family].name, keep_special_tokens=keep
    )
    assert list(pb_grpc.TokenizationServiceStub(server.channel).Detokenize(message, timeout=60).texts) == expected
    request = DetokenizeRequest(ids=ids, model=masked_heads[family].name, keep_special_tokens=keep)
    with in_process(server) as run:
        assert run(lambda task: TokenizationTask(task).detokenize(request)).texts == expected
