"""Running the body of a model the usual way: texts padded to the longest, with a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubwire_server.backends.base import RaggedBatch
from hubwire_server.backends.torch.packed import takes_type_ids


def pad_id(body: Any) -> int:
    """The token that fills up the shorter texts of a batch. It is masked, so where the model names none any token serves."""
    token = getattr(body.config, "pad_token_id", None)
    return token if isinstance(token, int) and token >= 0 else 0


class PaddedEncoder:
    """The body of a model with its own attention. With pad=False each text runs alone, for models that do not honour the mask."""

    max_row_tokens: int | None = None

    def __init__(self, body: Any, *, pad: bool = True) -> None:
        self._body = body
        self._pad = pad
        self._takes_type_ids = takes_type_ids(body)
        self._pad_id = pad_id(body)

    def forward_ragged(self, batch: RaggedBatch) -> Tensor:
        """The last hidden states of all tokens, shape (T, hidden_size), on the model's device."""
        lengths = np.diff(batch.offsets)
        if not self._pad:
            texts = zip(batch.offsets[:-1].tolist(), batch.offsets[1:].tolist(), strict=True)
            return torch.cat([self._run(batch.ids[None, start:stop], batch.type_ids[None, start:stop])[0] for start, stop in texts])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self._pad_id, dtype=np.int64)
        ids[mask] = batch.ids
        type_ids = np.zeros(mask.shape, dtype=np.int64)
        type_ids[mask] = batch.type_ids
        hidden = self._run(ids, type_ids, mask)
        return hidden[torch.from_numpy(mask).to(hidden.device)]

    def _run(self, ids: np.ndarray[Any, Any], type_ids: np.ndarray[Any, Any], mask: np.ndarray[Any, Any] | None = None) -> Tensor:
        device = self._body.device
        arguments = {"input_ids": torch.from_numpy(ids.astype(np.int64)).to(device)}
        if mask is not None:
            arguments["attention_mask"] = torch.from_numpy(mask.astype(np.int64)).to(device)
        if self._takes_type_ids:
            arguments["token_type_ids"] = torch.from_numpy(type_ids.astype(np.int64)).to(device)
        hidden: Tensor = self._body(**arguments, return_dict=True).last_hidden_state
        return hidden
