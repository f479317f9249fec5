"""Timing candidates within a budget, and choosing among them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hubwire_server.backends.base import Candidate, RaggedBatch
from hubwire_server.backends.calibration import MAX_ROUNDS, MIXED_LENGTHS, SHORT_LENGTHS, Timing, choose, time_candidates

MS = 1_000_000


class Machine:
    """Forwards that take a fixed time a token, on a clock of their own."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.calls = 0

    def clock(self) -> int:
        return self.now_ns

    def forward(self, short_ns: int, per_token_ns: int, first_ns: int = 0):
        waiting = [first_ns]

        def run(batch: RaggedBatch) -> None:
            self.calls += 1
            self.now_ns += (waiting.pop() if waiting else 0) + max(short_ns, per_token_ns * len(batch.ids))

        return run


def texts(lengths) -> RaggedBatch:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return RaggedBatch(np.zeros(offsets[-1], np.int32), np.zeros(offsets[-1], np.int32), offsets)


def test_every_candidate_gets_its_shortest_time_on_both_batches():
    machine = Machine()
    forwards = [machine.forward(2 * MS, 50_000), machine.forward(5 * MS, 20_000, first_ns=90 * MS)]
    assert time_candidates(forwards, texts, clock=machine.clock) == [
        Timing(2 * MS, sum(MIXED_LENGTHS) * 50_000),
        Timing(5 * MS, sum(MIXED_LENGTHS) * 20_000),
    ]


def test_rounds_end_where_another_would_measure_nothing_new():
    machine = Machine()
    time_candidates([machine.forward(1, 1)], texts, clock=machine.clock)
    assert machine.calls == 2 * MAX_ROUNDS


@pytest.mark.parametrize("per_token_ms", [0.01, 0.1, 1.0, 4.0, 20.0])
def test_the_budget_holds_for_models_of_every_size(per_token_ms):
    machine = Machine()
    per_token_ns = int(per_token_ms * MS)
    forwards = [machine.forward(per_token_ns * sum(SHORT_LENGTHS), per_token_ns) for _ in range(3)]
    timings = time_candidates(forwards, texts, budget_s=2.0, clock=machine.clock)
    assert all(timing.short_ns for timing in timings)
    # A model for which one round of short texts is too long already is timed once, since something must be known of it.
    one_round_ns = 3 * per_token_ns * sum(SHORT_LENGTHS)
    assert machine.now_ns <= max(2_000 * MS, one_round_ns)
    assert all(timing.mixed_ns for timing in timings) == (per_token_ms <= 4)


TORCH = Candidate(backend="torch", dtype="float32", cosine=1.0, short_ns=10 * MS, mixed_ns=100 * MS)
EVEN_TORCH = replace(TORCH, short_ns=4 * MS, mixed_ns=80 * MS)
ONNX = Candidate(backend="onnx", dtype="float32", cosine=1.0, short_ns=4 * MS, mixed_ns=100 * MS)
BF16 = Candidate(backend="torch", dtype="bfloat16", cosine=0.9999, short_ns=3 * MS, mixed_ns=50 * MS)


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        pytest.param([TORCH], TORCH, id="the only one"),
        pytest.param([TORCH, ONNX], ONNX, id="the faster one of two in float32"),
        pytest.param(
            [TORCH, replace(ONNX, mixed_ns=300 * MS)], TORCH, id="a gain on one batch does not outweigh a larger loss on the other"
        ),
        pytest.param([replace(TORCH, short_ns=4 * MS, mixed_ns=98 * MS), ONNX], ONNX, id="onnx where both are as good as equal"),
        pytest.param([EVEN_TORCH, ONNX], EVEN_TORCH, id="torch where it is clearly faster"),
        pytest.param([TORCH, ONNX, BF16], BF16, id="a half precision that is faster on both"),
        pytest.param([TORCH, ONNX, replace(BF16, short_ns=5 * MS)], ONNX, id="no half precision that slows a short text down"),
        pytest.param([TORCH, ONNX, replace(BF16, mixed_ns=99 * MS)], ONNX, id="no half precision that gains nothing in bulk"),
        pytest.param([TORCH, ONNX, replace(BF16, cosine=0.9994)], ONNX, id="no half precision that is not equal enough"),
        pytest.param([TORCH, replace(ONNX, short_ns=0, mixed_ns=0)], TORCH, id="none that was refused"),
        pytest.param(
            [replace(TORCH, mixed_ns=0), replace(ONNX, mixed_ns=0)],
            replace(ONNX, mixed_ns=0),
            id="by the short text where there was no time",
        ),
        pytest.param([replace(BF16, dtype="int8", cosine=0.9)], replace(BF16, dtype="int8", cosine=0.9), id="what was asked for"),
    ],
)
def test_the_choice(candidates, chosen):
    assert candidates[choose(candidates)] == chosen
