"""Attention over texts that lie one after the other in one row, without padding.

`packed_attention` has the signature of transformers' attention functions (transformers/integrations/sdpa_attention.py) and is registered
under the name PACKED. The model sees one row of T tokens; where each text begins and ends travels beside it as the keyword argument
`bounds`, which transformers hands from `model.forward` down to every attention function unchanged.

A model that is called without bounds, or that wants something this function does not compute, raises PackingError: an attention that
silently ignored a mask would return wrong vectors. The check at load (check.py) turns that error into padded running.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers.modeling_utils import AttentionInterface

PACKED = "hubwire_packed"


class PackingError(RuntimeError):
    """The model asks for something that packed attention does not compute."""


@dataclass(slots=True)
class Bounds:
    """Where the texts of a packed row lie.

    runs holds (start, length, count): count texts of equal length one after the other, which attention computes in one call.
    cu_seqlens and max_length are what variable-length flash attention takes; cu_seqlens is None where that kernel is not used.
    """

    runs: list[tuple[int, int, int]]
    max_length: int
    cu_seqlens: Tensor | None = None
    masks: dict[tuple[int, int | None, bool], Tensor] = field(default_factory=dict)

    @classmethod
    def from_offsets(cls, offsets: NDArray[np.int64], *, flash_device: torch.device | None = None) -> Bounds:
        """The bounds of texts whose tokens are offsets[i] to offsets[i + 1]; flash_device chooses the variable-length flash kernel."""
        runs: list[tuple[int, int, int]] = []
        for start, length in zip(offsets[:-1].tolist(), np.diff(offsets).tolist(), strict=True):
            if runs and runs[-1][1] == length:
                first, _, count = runs[-1]
                runs[-1] = (first, length, count + 1)
            elif length:
                runs.append((start, length, 1))
        cu_seqlens = None if flash_device is None else torch.from_numpy(offsets.astype(np.int32)).to(flash_device)
        return cls(runs=runs, max_length=max((length for _, length, _ in runs), default=0), cu_seqlens=cu_seqlens)

    def mask(self, length: int, window: int | None, is_causal: bool, device: torch.device) -> Tensor | None:
        """True where a token of a text of this length may look, shape (length, length). None where it may look everywhere.

        A window of w lets token i look at token j where abs(i - j) < w: transformers hands the attention function the half window plus one
        (models/modernbert/modeling_modernbert.py), and flash attention gets w - 1 on both sides.
        """
        if window is not None and window >= length:
            window = None
        if window is None and not is_causal:
            return None
        key = (length, window, is_causal)
        if key not in self.masks:
            positions = torch.arange(length, device=device)
            distance = positions[:, None] - positions[None, :]
            allowed = distance >= 0 if is_causal else torch.ones_like(distance, dtype=torch.bool)
            self.masks[key] = allowed if window is None else allowed & (distance.abs() < window)
        return self.masks[key]


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    position_bias: Tensor | None = None,
    bounds: Bounds | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention inside each text. query has shape (1, heads, T, d), key and value may have fewer heads; returns (1, T, heads, d) and no
    weights.

    position_bias, shape (1, heads, T, T), is added to the scores, each text taking its own square of it.
    dropout is ignored: the server only runs models in eval mode. Raises PackingError.
    """
    if bounds is None:
        raise PackingError("packed attention was called without the bounds of the texts")
    _refuse_what_is_not_computed(query, key, attention_mask, kwargs)
    if is_causal is None:
        # Encoders that never set the attribute (LayoutLM) are bidirectional; decoders all set it.
        is_causal = bool(getattr(module, "is_causal", False))
    if bounds.cu_seqlens is not None and position_bias is None:
        return _flash(query, key, value, scaling, is_causal, sliding_window, bounds), None
    enable_gqa = key.shape[1] != query.shape[1]
    output = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    for start, length, count in bounds.runs:
        stop = start + length * count
        mask = bounds.mask(length, sliding_window, is_causal, query.device)
        if position_bias is not None:
            mask = _biases(position_bias, start, length, count, mask)
        attended = functional.scaled_dot_product_attention(
            _texts(query, start, stop, count),
            _texts(key, start, stop, count),
            _texts(value, start, stop, count),
            attn_mask=mask,
            scale=scaling,
            enable_gqa=enable_gqa,
        )
        output[0, start:stop] = attended.transpose(1, 2).flatten(0, 1)
    return output, None


def _refuse_what_is_not_computed(query: Tensor, key: Tensor, attention_mask: Tensor | None, kwargs: dict[str, Any]) -> None:
    if attention_mask is not None:
        raise PackingError("the model builds an attention mask of its own")
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise PackingError("the model attends to something beside the packed row")
    for name in ("softcap", "s_aux", "head_mask", "cache"):
        if kwargs.get(name) is not None:
            raise PackingError(f"the model's attention uses {name}")


def _texts(heads: Tensor, start: int, stop: int, count: int) -> Tensor:
    """The part of a packed (1, heads, T, d) that holds count equally long texts, as a view of shape (count, heads, length, d)."""
    return heads[0, :, start:stop].view(heads.shape[1], count, -1, heads.shape[3]).transpose(0, 1)


def _biases(position_bias: Tensor, start: int, length: int, count: int, mask: Tensor | None) -> Tensor:
    """The squares of position_bias on the diagonal that belong to count equally long texts, shape (count, heads, length, length)."""
    starts = range(start, start + length * count, length)
    bias = torch.stack([position_bias[0, :, first : first + length, first : first + length] for first in starts])
    return bias if mask is None else bias.masked_fill(~mask, float("-inf"))


def _flash(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, is_causal: bool, window: int | None, bounds: Bounds) -> Tensor:
    """The same on CUDA in half precision, by one kernel for all texts."""
    from torch.nn.attention.varlen import varlen_attn  # here, since a machine without CUDA never needs it

    q, k, v = (heads[0].transpose(0, 1) for heads in (query, key, value))
    cu_seqlens = cast("Tensor", bounds.cu_seqlens)
    reach = -1 if window is None else window - 1
    options: dict[str, Any] = {"scale": scaling, "window_size": (reach, 0 if is_causal else reach), "enable_gqa": k.shape[1] != q.shape[1]}
    attended = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, bounds.max_length, bounds.max_length, **options)
    return cast("Tensor", attended).unsqueeze(0)


AttentionInterface.register(PACKED, packed_attention)
