"""FillMaskService over gRPC, with the fake model: what comes back for what is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hubwire.v1 import common_pb2, fill_mask_pb2, fill_mask_pb2_grpc
from hubwire_server.backends.base import LoadOptions, RaggedBatch
from hubwire_server.models.description import Task
from hubwire_server.testing import FakeModel
from tests.conftest import Server, serve
from tests.rpc.fake_words import IDS, NAMES


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(task=Task.FILL_MASK) as running:
        yield running


@pytest.fixture
def fill(server: Server) -> Callable[..., fill_mask_pb2.FillMaskResponse]:
    """Asks the server."""
    stub = fill_mask_pb2_grpc.FillMaskServiceStub(server.channel)

    def call(*texts: str, **options) -> fill_mask_pb2.FillMaskResponse:
        return stub.FillMask(fill_mask_pb2.FillMaskRequest(texts=texts, options=fill_mask_pb2.FillMaskOptions(**options)), timeout=60)

    return call


@pytest.fixture
def probabilities(tmp_path: Path) -> Callable[[str], np.ndarray]:
    """What the fake gives a mask with a left neighbour."""
    (tmp_path / "config.json").write_text("{}")
    model = FakeModel(tmp_path, LoadOptions(threads=1), Task.FILL_MASK)

    def of(neighbour: str) -> np.ndarray:
        ids = np.array([IDS[neighbour], IDS["[MASK]"]], np.int32)
        logits, _ = model.forward(RaggedBatch(ids, np.zeros_like(ids), np.array([0, 2], np.int64)), np.array([1]))
        exps = np.exp(logits[0].astype(np.float64) - logits.max())
        return exps / exps.sum()

    return of


def test_each_mask_has_the_best_tokens_and_the_text_with_each_in_place(fill, probabilities):
    response = fill("w1 [MASK] w2", "[MASK]", top_k=7)
    for text, (neighbour, around) in enumerate([("w1", ("w1 ", " w2")), ("[CLS]", ("", ""))]):
        (mask,) = response.texts[text].masks
        expected = probabilities(neighbour)
        best = np.argsort(-expected)[:7]
        assert [token.token_id for token in mask.tokens] == best.tolist()
        np.testing.assert_allclose([token.score for token in mask.tokens], expected[best], rtol=1e-4)
        for token in mask.tokens:
            assert token.token == NAMES[token.token_id]
            special = token.token in ("[CLS]", "[SEP]")  # left out of sequences, as in transformers
            assert token.sequence == " ".join(
                part for part in (around[0].strip(), "" if special else token.token, around[1].strip()) if part
            )
    assert (response.model.name, response.model.fingerprint) == ("fake", "00000000000000fa")
    assert response.usage.input_tokens == 5 + 3
    assert 0 < response.timings.forward_nanos < response.timings.compute_nanos < response.timings.total_nanos


def test_five_tokens_are_the_default(fill):
    assert len(fill("w1 [MASK]").texts[0].masks[0].tokens) == 5


def test_several_masks_of_a_text_are_filled_one_at_a_time(fill, probabilities):
    response = fill("w1 [MASK] w2 [MASK]", "w3 [MASK]", targets=["w10", "w11", "w12"])
    first, second = response.texts[0].masks
    for mask, neighbour, sequence in ((first, "w1", "w1 {} w2 [MASK]"), (second, "w2", "w1 [MASK] w2 {}")):
        best = np.argsort(-probabilities(neighbour)[IDS["w10"] : IDS["w13"]]) + IDS["w10"]
        assert [token.token_id for token in mask.tokens] == best.tolist()
        assert [token.sequence for token in mask.tokens] == [sequence.format(NAMES[token_id]) for token_id in best]
    assert [len(text.masks) for text in response.texts] == [2, 1]


def test_targets_choose_among_tokens_whose_scores_they_do_not_change(fill, probabilities):
    everything = fill("w1 [MASK]", top_k=1_000).texts[0].masks[0].tokens
    assert len(everything) == 1_000
    scores = {token.token: token.score for token in everything}
    chosen = fill("w1 [MASK]", top_k=2, targets=["w5", "w700", "w6"]).texts[0].masks[0].tokens
    assert [token.token for token in chosen] == sorted(["w5", "w700", "w6"], key=lambda name: -probabilities("w1")[IDS[name]])[:2]
    for token in chosen:
        assert token.score == pytest.approx(scores[token.token])


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        (common_pb2.OFFSET_UNIT_UNSPECIFIED, len),
        (common_pb2.OFFSET_UNIT_UTF8_BYTE, lambda text: len(text.encode())),
        (common_pb2.OFFSET_UNIT_UTF16_UNIT, lambda text: len(text.encode("utf-16-le")) // 2),
    ],
)
def test_the_span_of_a_mask_is_its_place_in_the_text(fill, unit, size):
    text = "👩‍👩‍👧‍👦 e\u0301 [MASK] שלום 𝒳 [MASK]"
    spans = [(mask.span.start, mask.span.end) for mask in fill(text, offset_unit=unit).texts[0].masks]
    before = [text[: text.index("[MASK]")], text[: text.rindex("[MASK]")]]
    assert spans == [(size(part), size(part) + len("[MASK]")) for part in before]


def test_a_mask_that_truncation_leaves_is_filled(fill):
    response = fill("w1 [MASK] " + "w2 " * 50, truncation={"max_tokens": 6})
    assert response.usage.truncated_texts == 1
    assert {token.sequence.split()[0] for token in response.texts[0].masks[0].tokens} == {"w1"}


def test_a_large_request_gives_what_each_text_gives_alone(fill):
    texts = [f"w{index} [MASK] w{index + 1}" + " [MASK]" * (index % 3) for index in range(400)]
    together = fill(*texts, top_k=20)
    for index in range(0, 400, 37):
        (alone,) = fill(texts[index], top_k=20).texts
        for ours, theirs in zip(together.texts[index].masks, alone.masks, strict=True):
            assert [(token.token_id, token.token, token.sequence) for token in ours.tokens] == [
                (token.token_id, token.token, token.sequence) for token in theirs.tokens
            ]
            np.testing.assert_allclose([token.score for token in ours.tokens], [token.score for token in theirs.tokens], rtol=1e-5)


def test_callers_with_options_of_their_own_do_not_disturb_each_other(fill):
    alone = {k: fill("w1 [MASK]", top_k=k).texts[0].masks[0] for k in range(1, 9)}
    with ThreadPoolExecutor(16) as pool:
        asked = [(k, pool.submit(fill, "w1 [MASK]", top_k=k)) for k in list(alone) * 10]
        for k, future in asked:
            assert [token.token for token in future.result().texts[0].masks[0].tokens] == [token.token for token in alone[k].tokens]


def test_a_model_that_makes_sparse_vectors_fills_masks_too():
    with serve(task=Task.SPARSE_EMBEDDING) as server:
        stub = fill_mask_pb2_grpc.FillMaskServiceStub(server.channel)
        assert len(stub.FillMask(fill_mask_pb2.FillMaskRequest(texts=["[MASK]"]), timeout=60).texts) == 1
