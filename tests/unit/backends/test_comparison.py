"""How outputs of a head are compared: every single one counts, in float32."""

from __future__ import annotations

import numpy as np
import pytest

from hubwire_server.backends.base import Head
from hubwire_server.backends.comparison import EQUAL_DIFFERENCE, OutputComparer, relative_difference, to_float32

EXPECTED = np.array([[3.0, -4.0], [4.0, -3.0]], np.float32)


def moved(by: float) -> np.ndarray:
    outputs = EXPECTED.copy()
    outputs[1, 0] += by
    return outputs


def test_a_difference_is_measured_in_root_mean_squares() -> None:
    assert relative_difference(EXPECTED, moved(0.5)) == pytest.approx(0.5 / np.sqrt(12.5))
    assert relative_difference(EXPECTED, EXPECTED) == 0


@pytest.mark.parametrize(
    ("outputs", "dtype", "refused"),
    [
        (moved(0), "float32", False),
        (moved(3 * EQUAL_DIFFERENCE), "float32", False),
        (moved(5 * EQUAL_DIFFERENCE), "float32", True),
        (moved(float("nan")), "float32", True),
        (moved(0.5), "int8", False),
    ],
    ids=["equal", "within rounding", "one score is off", "no number", "int8, which was asked for"],
)
def test_one_output_that_is_off_refuses_a_candidate_in_float32(outputs: np.ndarray, dtype: str, refused: bool) -> None:
    assert bool(OutputComparer(Head.SEQUENCE_CLASSIFICATION).refusal(EXPECTED, outputs, dtype)) is refused


def test_scores_that_hardly_vary_are_still_comparable() -> None:
    """A reranker with one label gives nearly the same to all texts of random tokens."""
    expected = np.full((16, 1), -11.0, np.float32) + np.linspace(0, 1e-3, 16, dtype=np.float32)[:, None]
    assert OutputComparer(Head.SEQUENCE_CLASSIFICATION).refusal(expected, expected + np.float32(1e-5), "float32") == ""


def test_the_bits_of_bfloat16_are_read() -> None:
    assert to_float32(np.array([0x3F80, 0xC040], np.uint16), "bfloat16").tolist() == [1.0, -3.0]
    assert to_float32(np.array([1.5], np.float16), "float16").tolist() == [1.5]
