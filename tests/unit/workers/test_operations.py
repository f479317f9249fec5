"""What the worker computes over a vocabulary, against plain numpy on logits that a stand-in for the backend gives."""

from __future__ import annotations

import numpy as np
import pytest

from hubwire_server.backends.base import RaggedBatch
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.workers import operations
from hubwire_server.workers.operations import Engine, Ragged, fill, sparse
from hubwire_server.workers.spent import Spent

VOCABULARY = 50
LENGTHS = (4, 1, 7, 3)


class Lookup:
    """A backend whose logits for a token depend on its id alone, and that remembers how many rows each call asked for."""

    def __init__(self, dtype: str = "float32") -> None:
        self.table = np.random.default_rng(1).standard_normal((VOCABULARY, VOCABULARY)).astype(np.float32)
        self.dtype = dtype
        self.calls: list[int] = []

    def forward(self, batch: RaggedBatch, rows: np.ndarray | None = None) -> tuple[np.ndarray, str]:
        logits = self.table[batch.ids] if rows is None else self.table[batch.ids[rows]]
        self.calls.append(len(logits))
        if self.dtype == "bfloat16":
            return (logits.view(np.uint32) >> 16).astype(np.uint16), self.dtype
        return logits.astype(self.dtype), self.dtype


def make_engine(backend: Lookup) -> Engine:
    return Engine(backend=backend, row_size=VOCABULARY, threads=1, spent=Spent())


def make_batch() -> RaggedBatch:
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    ids = np.random.default_rng(2).permutation(VOCABULARY)[: offsets[-1]].astype(np.int32)
    return RaggedBatch(ids, np.zeros_like(ids), offsets)


def make_extra(*texts: list[int]) -> Ragged:
    return Ragged(np.concatenate(texts).astype(np.int32), np.concatenate([[0], np.cumsum(list(map(len, texts)))]).astype(np.int64))


def softmax(logits: np.ndarray) -> np.ndarray:
    exps = np.exp(logits.astype(np.float64) - logits.max())
    return exps / exps.sum()


@pytest.mark.parametrize("budget", [VOCABULARY, 2 * VOCABULARY, 1 << 24], ids=["a mask at a time", "two masks", "all at once"])
def test_fill_gives_the_best_ids_and_their_softmax_over_the_whole_vocabulary(monkeypatch, budget):
    monkeypatch.setattr(operations, "MAX_LOGITS", budget)
    backend, batch = Lookup(), make_batch()
    targets = [9, 3, 40]
    places = [[0, 3], [0], [2, 5, 6], [1]]
    extra = make_extra(*([*some, -1, *(targets if text == 2 else [])] for text, some in enumerate(places)))
    computed = fill(make_engine(backend), "4", batch, extra)
    ids, scores = computed.arrays
    assert computed.offsets.tolist() == [0, 2, 3, 6, 7]
    assert ids.shape == scores.shape == (7, 4)
    row = 0
    for text, some in enumerate(places):
        for place in some:
            probabilities = softmax(backend.table[batch.ids[batch.offsets[text] + place]])
            choice = np.array(targets if text == 2 else range(VOCABULARY))
            expected = choice[np.argsort(-probabilities[choice])][:4]
            assert ids[row].tolist() == [*expected, *[-1] * (4 - len(expected))]
            np.testing.assert_allclose(scores[row, : len(expected)], probabilities[expected], rtol=1e-5)
            assert (scores[row, len(expected) :] == 0).all()
            row += 1
    assert sum(backend.calls) == row
    # A text is never divided: 2, 1, 3 and 1 masks do not share a budget of two.
    assert len(backend.calls) == {VOCABULARY: 4, 2 * VOCABULARY: 4, 1 << 24: 1}[budget]


def test_fill_gives_no_more_than_the_vocabulary_has():
    ids, scores = fill(make_engine(Lookup()), "1000", make_batch(), make_extra([0, -1], [0, -1], [0, -1], [0, -1])).arrays
    assert ids.shape == (4, VOCABULARY)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_equal_targets_come_by_their_id():
    backend = Lookup()
    backend.table[:, 10:20] = 1.5
    ids, _ = fill(make_engine(backend), "3", make_batch(), make_extra(*[[0, -1, 11, 14, 18]] * 4)).arrays
    assert ids.tolist() == [[11, 14, 18]] * 4


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("budget", [VOCABULARY, 8 * VOCABULARY, 1 << 24], ids=["a text at a time", "a few texts", "all at once"])
def test_sparse_is_the_log_of_the_largest_logit_above_zero(monkeypatch, budget, dtype):
    monkeypatch.setattr(operations, "MAX_LOGITS", budget)
    backend, batch = Lookup(dtype), make_batch()
    computed = sparse(make_engine(backend), "", batch, None)
    indices, values = computed.arrays
    for text in range(len(LENGTHS)):
        logits = operations.as_float32(*Lookup(dtype).forward(batch))[batch.offsets[text] : batch.offsets[text + 1]]
        expected = np.log1p(np.maximum(logits.astype(np.float64).max(axis=0), 0))
        low, high = computed.offsets[text], computed.offsets[text + 1]
        assert indices[low:high].tolist() == np.flatnonzero(expected).tolist()
        np.testing.assert_allclose(values[low:high], expected[expected > 0], rtol=1e-6)
    assert backend.calls == {VOCABULARY: [4, 1, 7, 3], 8 * VOCABULARY: [5, 7, 3], 1 << 24: [15]}[budget]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("operation", [fill, sparse])
def test_logits_that_are_not_finite_are_the_error_of_the_model(operation, value):
    backend, batch = Lookup(), make_batch()
    backend.table[batch.ids[0], 7] = value
    with pytest.raises(HubwireError) as caught:
        operation(make_engine(backend), "2", batch, make_extra([0, -1], [0, -1], [0, -1], [0, -1]))
    assert caught.value.reason is Reason.OUTPUT_NOT_FINITE


def test_the_time_of_the_model_and_of_what_follows_is_counted():
    engine = make_engine(Lookup())
    fill(engine, "2", make_batch(), make_extra([0, -1], [0, -1], [0, -1], [0, -1]))
    sparse(engine, "", make_batch(), None)
    assert engine.spent.forward_ns > 0
    assert engine.spent.pool_ns > 0
