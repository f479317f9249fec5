"""What equal means: in direction to a cosine of 0.99999, and value by value."""

from __future__ import annotations

from typing import Any

import numpy as np

Vectors = np.ndarray[Any, np.dtype[np.float32]]

MIN_COSINE = 0.99999


def cosines(ours: Vectors, expected: Vectors) -> Vectors:
    a, b = ours.astype(np.float64), np.asarray(expected, np.float64)
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def assert_equal(ours: Vectors, expected: Any) -> float:
    """Asserts that vectors are equal, and returns the lowest cosine."""
    expected = np.asarray(expected, dtype=np.float32)
    assert ours.shape == expected.shape
    assert cosines(ours, expected).min() >= MIN_COSINE
    assert np.abs(ours - expected).max() / expected.std() < 1e-4
    return float(cosines(ours, expected).min())
