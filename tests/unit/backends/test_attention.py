"""Packed attention against plain attention on each text, for everything that it honours, and what it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from hubwire_server.backends.torch.attention import Bounds, PackingError, packed_attention

OFFSETS = np.array([0, 4, 8, 9, 9, 20, 24], dtype=np.int64)


def heads(count: int, seed: int) -> torch.Tensor:
    return torch.randn(1, count, 24, 8, generator=torch.Generator().manual_seed(seed))


def expected(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask_of: Any, scaling: float) -> torch.Tensor:
    """Softmax attention text by text, from its definition."""
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    output = torch.zeros(1, 24, q.shape[1], 8)
    for start, stop in itertools.pairwise(OFFSETS):
        scores = q[0, :, start:stop] @ k[0, :, start:stop].transpose(1, 2) * scaling + mask_of(start, stop)
        output[0, start:stop] = (functional.softmax(scores, dim=-1) @ v[0, :, start:stop]).transpose(0, 1)
    return output


def additive(allowed: torch.Tensor) -> torch.Tensor:
    return torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf"))


@pytest.mark.parametrize("key_heads", [4, 2, 1], ids=["as many key heads", "two queries a key head", "one key head"])
@pytest.mark.parametrize("is_causal", [False, True, None], ids=["bidirectional", "causal", "the module decides"])
@pytest.mark.parametrize("window", [None, 3], ids=["no window", "a window of 3"])
def test_attention_stays_inside_each_text(key_heads: int, is_causal: bool | None, window: int | None) -> None:
    module = torch.nn.Module()
    if is_causal is None:
        module.is_causal = True
    q, k, v = heads(4, 1), heads(key_heads, 2), heads(key_heads, 3)

    def mask_of(start: int, stop: int) -> torch.Tensor:
        distance = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        allowed = torch.ones_like(distance, dtype=torch.bool) if is_causal is False else distance >= 0
        return additive(allowed if window is None else allowed & (distance.abs() < window))

    bounds = Bounds.from_offsets(OFFSETS)
    output, weights = packed_attention(module, q, k, v, None, scaling=0.3, is_causal=is_causal, sliding_window=window, bounds=bounds)
    assert weights is None
    assert output.shape == (1, 24, 4, 8)
    assert torch.allclose(output, expected(q, k, v, mask_of, 0.3), atol=1e-6)


def test_a_module_that_does_not_say_is_bidirectional() -> None:
    q, k, v = heads(2, 1), heads(2, 2), heads(2, 3)
    output, _ = packed_attention(torch.nn.Module(), q, k, v, None, scaling=0.3, bounds=Bounds.from_offsets(OFFSETS))
    assert torch.allclose(output, expected(q, k, v, lambda *_: 0.0, 0.3), atol=1e-6)


@pytest.mark.parametrize("is_causal", [False, True])
def test_each_text_takes_its_own_square_of_a_position_bias(is_causal: bool) -> None:
    q, k, v = heads(2, 1), heads(2, 2), heads(2, 3)
    bias = torch.randn(1, 2, 24, 24, generator=torch.Generator().manual_seed(4))

    def mask_of(start: int, stop: int) -> torch.Tensor:
        square = bias[0, :, start:stop, start:stop]
        return square + additive(torch.ones(stop - start, stop - start, dtype=torch.bool).tril()) if is_causal else square

    output, _ = packed_attention(
        torch.nn.Module(), q, k, v, None, scaling=1.0, is_causal=is_causal, position_bias=bias, bounds=Bounds.from_offsets(OFFSETS)
    )
    assert torch.allclose(output, expected(q, k, v, mask_of, 1.0), atol=1e-6)


def test_texts_of_equal_length_form_runs() -> None:
    assert Bounds.from_offsets(OFFSETS).runs == [(0, 4, 2), (8, 1, 1), (9, 11, 1), (20, 4, 1)]
    assert Bounds.from_offsets(OFFSETS).max_length == 11


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bounds": None}, "without the bounds"),
        ({"attention_mask": torch.ones(1, 1, 24, 24)}, "mask of its own"),
        ({"softcap": 30.0}, "softcap"),
        ({"s_aux": torch.ones(2)}, "s_aux"),
        ({"key": torch.randn(1, 2, 30, 8)}, "beside the packed row"),
        ({"query": torch.randn(2, 2, 24, 8)}, "beside the packed row"),
    ],
)
def test_what_is_not_computed_is_refused(change: dict[str, Any], says: str) -> None:
    arguments = {
        "query": heads(2, 1),
        "key": heads(2, 2),
        "value": heads(2, 3),
        "attention_mask": None,
        "bounds": Bounds.from_offsets(OFFSETS),
    }
    with pytest.raises(PackingError, match=says):
        packed_attention(torch.nn.Module(), **{**arguments, **change})
