"""Pooling of one batch of hidden states, shape (32, 128, 384), on one thread: ours against torch and numpy.

A fifth of the positions is padding, which is the most that the scheduler lets into a batch; `full` and `large` have none.
These 6 MB fit into the third-level cache of a server, where torch's extra passes over them are cheap; `large` does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from hubwire_server._native import pool_padded

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # What its import warns of is not ours.
    import torch

TEXTS = 32
HIDDEN_SIZE = 384
FULL_SHAPE = (TEXTS, 128, HIDDEN_SIZE)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keeps torch to the thread that calls it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    """Lengths with a median near 38 tokens, cut at 256, in a batch as long as its longest text."""
    lengths = np.random.default_rng(1).lognormal(np.log(38), 0.8, TEXTS).astype(np.int64).clip(3, 256)
    return (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)


@pytest.fixture(scope="module")
def hidden(mask: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(*mask.shape, HIDDEN_SIZE)).astype(np.float32)


def torch_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)


def torch_max(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden.masked_fill((mask == 0).unsqueeze(-1), float("-inf")).max(1).values


def numpy_mean(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return (hidden * mask[:, :, None].astype(np.float32)).sum(1) / mask.sum(1, keepdims=True)


def test_mean_against_torch(compare: Callable[..., float], hidden: np.ndarray, mask: np.ndarray) -> None:
    tensors = torch.from_numpy(hidden), torch.from_numpy(mask)
    np.testing.assert_allclose(pool_padded(hidden, mask), torch_mean(*tensors).numpy(), atol=1e-5)
    compare("pooling_mean_vs_torch", lambda: pool_padded(hidden, mask), lambda: torch_mean(*tensors), rounds=100)


def test_full_mean_against_torch(compare: Callable[..., float]) -> None:
    hidden = np.random.default_rng(0).normal(size=FULL_SHAPE).astype(np.float32)
    mask = np.ones(FULL_SHAPE[:2], np.int64)
    tensors = torch.from_numpy(hidden), torch.from_numpy(mask)
    compare("pooling_full_mean_vs_torch", lambda: pool_padded(hidden, mask), lambda: torch_mean(*tensors), rounds=100)


def test_large_mean_against_torch(compare: Callable[..., float]) -> None:
    # 100 MB, which no cache holds: what a base model gives for 128 texts of 256 tokens.
    hidden = np.random.default_rng(1).standard_normal((128, 256, 768), dtype=np.float32)
    mask = np.ones(hidden.shape[:2], np.int64)
    tensors = torch.from_numpy(hidden), torch.from_numpy(mask)
    compare("pooling_large_mean_vs_torch", lambda: pool_padded(hidden, mask), lambda: torch_mean(*tensors), rounds=10)


def test_max_against_torch(compare: Callable[..., float], hidden: np.ndarray, mask: np.ndarray) -> None:
    tensors = torch.from_numpy(hidden), torch.from_numpy(mask)
    np.testing.assert_array_equal(pool_padded(hidden, mask, mode="max"), torch_max(*tensors).numpy())
    compare("pooling_max_vs_torch", lambda: pool_padded(hidden, mask, mode="max"), lambda: torch_max(*tensors), rounds=100)


def test_mean_against_numpy(compare: Callable[..., float], hidden: np.ndarray, mask: np.ndarray) -> None:
    np.testing.assert_allclose(pool_padded(hidden, mask), numpy_mean(hidden, mask), atol=1e-5)
    compare("pooling_mean_vs_numpy", lambda: pool_padded(hidden, mask), lambda: numpy_mean(hidden, mask), rounds=100)


def test_normalized_mean_against_torch(compare: Callable[..., float], hidden: np.ndarray, mask: np.ndarray) -> None:
    tensors = torch.from_numpy(hidden), torch.from_numpy(mask)

    def baseline() -> torch.Tensor:
        return torch.nn.functional.normalize(torch_mean(*tensors), dim=1)

    np.testing.assert_allclose(pool_padded(hidden, mask, normalize=True), baseline().numpy(), atol=1e-5)
    compare("pooling_normalized_mean_vs_torch", lambda: pool_padded(hidden, mask, normalize=True), baseline, rounds=100)
