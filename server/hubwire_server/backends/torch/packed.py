"""Running the body of a model without padding: all texts of a batch in one row.

PackedEncoder has two doors. `forward_ragged` takes a ragged batch and gives the hidden states of its tokens: embeddings come this way, as
do the heads that look at one token at a time (heads.py), and nothing is padded anywhere. `install` wraps `base_model.forward` by an unpad
shim, so that a task head that calls its body with padded ids and a mask runs packed without knowing it: the shim drops the padding, runs
the row, and scatters the result back.

Whether a model may run packed at all is decided by check.py.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hubwire_server.backends.base import RaggedBatch
from hubwire_server.backends.rows import Rows
from hubwire_server.backends.torch.attention import PACKED, Bounds, PackingError
from hubwire_server.backends.torch.linear import PrepackedLinear
from hubwire_server.errors import HubwireError, Reason

MAX_BIASED_TOKENS = 1024
"""The longest row of a model with a relative position bias (T5): that bias is a (heads, T, T) tensor, 50 MB at 12 heads and this length."""


class PackedEncoder:
    """The body of a model (transformers' `base_model`), switched to packed attention. Raises PackingError where it cannot be switched."""

    def __init__(self, body: Any, *, flash: bool = False) -> None:
        self._body = body
        self._forward = body.forward
        self._parameters = inspect.signature(body.forward).parameters
        self._original_attention: str = body.config._attn_implementation
        self._flash = flash
        self._takes_type_ids = takes_type_ids(body)
        self._padding_idx = positions_after_padding_idx(body)
        self.max_row_tokens = MAX_BIASED_TOKENS if _has_relative_bias(body) else None
        try:
            body.set_attn_implementation(PACKED)
        except (ValueError, KeyError, ImportError) as error:
            raise PackingError(str(error)) from error
        # A class that is not built on the attention interface only logs a warning and keeps what it had (modeling_utils.py,
        # set_attn_implementation).
        if body.config._attn_implementation != PACKED:
            raise PackingError("the model's attention does not go through transformers' AttentionInterface")

    def restore(self) -> None:
        """Gives the model back its own attention and its own forward."""
        self._body.set_attn_implementation(self._original_attention)
        self._body.forward = self._forward

    def install(self) -> None:
        """Wraps `base_model.forward` by the unpad shim."""
        self._body.forward = self._forward_padded

    def forward_ragged(self, batch: RaggedBatch, rows: Rows = None) -> Tensor:
        """The last hidden states of all tokens, shape (T, hidden_size), or of the chosen ones, on the model's device."""
        device = self._body.device
        ids = torch.from_numpy(batch.ids.astype(np.int64)).to(device)
        type_ids = torch.from_numpy(batch.type_ids.astype(np.int64)).to(device)
        output = self._run_row(ids, type_ids, self._positions(batch.ids, batch.offsets), batch.offsets)
        return choose(output.last_hidden_state[0], rows)

    def _run_row(
        self, ids: Tensor, type_ids: Tensor | None, positions: NDArray[np.int64], offsets: NDArray[np.int64], **kwargs: Any
    ) -> Any:
        arguments: dict[str, Any] = {"input_ids": ids[None]}
        if "position_ids" in self._parameters:
            arguments["position_ids"] = torch.from_numpy(positions).to(ids.device)[None]
        if type_ids is not None and self._takes_type_ids:
            arguments["token_type_ids"] = type_ids[None]
        if "use_cache" in self._parameters:
            arguments["use_cache"] = False
        bounds = Bounds.from_offsets(offsets, flash_device=ids.device if self._flash else None)
        return self._forward(**arguments, **kwargs, bounds=bounds, return_dict=True)

    def _positions(self, ids: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """The position of each token in its own text, as the model counts: from 0, or as create_position_ids_from_input_ids of RoBERTa
        does.
        """
        starts = np.repeat(offsets[:-1], np.diff(offsets))
        if self._padding_idx is None:
            return np.arange(len(ids), dtype=np.int64) - starts
        # RoBERTa counts the tokens that are not padding, and gives padding its own position. A text can hold the padding token by spelling
        # it out.
        real = (ids != self._padding_idx).astype(np.int64)
        counted = np.concatenate([[0], np.cumsum(real)])
        positions: NDArray[np.int64] = (counted[1:] - counted[starts]) * real + self._padding_idx
        return positions

    def _forward_padded(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """`base_model.forward` for padded ids and mask of shape (n, length). Padding positions of the result are zeros."""
        if input_ids is None or kwargs.get("output_attentions") or (attention_mask is not None and attention_mask.dim() != 2):
            raise PackingError("packed running takes ids and a mask of shape (texts, length), and gives no attention weights")
        return_dict = kwargs.pop("return_dict", True)
        kwargs.pop("use_cache", None)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        where = mask.flatten().nonzero()[:, 0]
        lengths = mask.count_nonzero(dim=1).cpu().numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = input_ids.flatten()[where]
        if position_ids is None:
            positions = self._positions(ids.cpu().numpy(), offsets)
        else:
            positions = position_ids.expand_as(input_ids).flatten()[where].cpu().numpy()
        type_ids = None if token_type_ids is None else token_type_ids.flatten()[where]
        output = self._run_row(ids, type_ids, positions, offsets, **kwargs)
        _scatter(output, where, tuple(input_ids.shape))
        if output.get("pooler_output") is not None:
            output["pooler_output"] = _pool(self._body, output.last_hidden_state)
        return output if return_dict is not False else output.to_tuple()


def choose(tokens: Tensor, rows: Rows) -> Tensor:
    """The rows of the chosen tokens."""
    return tokens if rows is None else tokens[torch.from_numpy(np.ascontiguousarray(rows)).to(tokens.device)]


def takes_type_ids(body: Any) -> bool:
    """Whether the model has an embedding for more than one segment. One with a single segment adds the same vector to every token."""
    return "token_type_ids" in inspect.signature(type(body).forward).parameters and getattr(body.config, "type_vocab_size", 0) > 1


def vocabulary_size(body: Any) -> int:
    """How many tokens have an embedding. Raises HubwireError (MODEL_NOT_SUPPORTED) for a model that embeds something else than tokens
    (CANINE).
    """
    try:
        return int(body.get_input_embeddings().weight.shape[0])
    except (NotImplementedError, AttributeError) as error:
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"{type(body).__name__} has no table of token embeddings") from error


def positions_after_padding_idx(body: Any) -> int | None:
    """The padding id after which the family of RoBERTa counts its positions, or None where positions begin at 0.

    No other family pairs an integer padding_idx with a learned table of positions in one module (sentence-transformers looks for the same
    pair).
    """
    for module in body.modules():
        padding_idx = getattr(module, "padding_idx", None)
        if isinstance(padding_idx, int) and isinstance(getattr(module, "position_embeddings", None), torch.nn.Embedding):
            return padding_idx
    return None


def _has_relative_bias(body: Any) -> bool:
    return any(name.endswith("relative_attention_bias") for name, _ in body.named_modules())


def _scatter(output: Any, where: Tensor, shape: tuple[int, ...]) -> None:
    """Puts rows of shape (1, T, h) back where they came from, shape (n, length, h)."""

    def padded(row: Tensor) -> Tensor:
        flat = row.new_zeros(shape[0] * shape[1], row.shape[-1])
        flat[where] = row[0]
        return flat.view(*shape, -1)

    output["last_hidden_state"] = padded(output.last_hidden_state)
    if output.get("hidden_states") is not None:
        output["hidden_states"] = tuple(padded(row) for row in output.hidden_states)


def _pool(body: Any, hidden: Tensor) -> Tensor:
    """The pooler's output for each text: the row had only one first token, the batch has one a text."""
    pooler = body.pooler
    # Albert's pooler is bare: its forward picks the token and applies the activation.
    if isinstance(pooler, torch.nn.Linear | PrepackedLinear):
        pooled: Tensor = body.pooler_activation(pooler(hidden[:, 0]))
    else:
        pooled = pooler(hidden)
    return pooled
