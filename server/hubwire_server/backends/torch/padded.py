"""Running a model the usual way: texts padded to the longest, with a mask.

This takes the body of a model as well as one with a task head, whose class then runs as it is written.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hubwire_server.backends.base import Head, RaggedBatch, RowKind
from hubwire_server.backends.rows import Rows
from hubwire_server.backends.torch.packed import choose, takes_type_ids

MAX_RECTANGLE = 1 << 14
"""The most tokens, padding included, of a rectangle whose texts are of unlike lengths, unless it is one text. A head that gives a row a
text gets its hidden states padded even where they were computed packed: these are 50 MB at a hidden size of 768.
"""


def pad_id(body: Any) -> int:
    """The token that fills up the shorter texts of a batch. It is masked, so where the model names none any token serves."""
    token = getattr(body.config.get_text_config(), "pad_token_id", None)
    return token if isinstance(token, int) and token >= 0 else 0


def read_output(output: Any, head: Head) -> Tensor:
    """What a head gives, out of the output of its class: shape (texts, length, row_size), or (texts, row_size)."""
    if head is Head.BODY:
        values = output.last_hidden_state
    elif head is Head.QUESTION_ANSWERING:
        values = torch.stack([output.start_logits, output.end_logits], dim=-1)
    else:
        values = output.logits
    result: Tensor = values
    return result


def ends_with_eos(model: Any, head: Head) -> int | None:
    """The token that each text must have at its end for a head that reads the state of that token (BART, T5), or None."""
    config = model.config
    token = getattr(config, "eos_token_id", None)
    if head is Head.SEQUENCE_CLASSIFICATION and getattr(config, "is_encoder_decoder", False) and isinstance(token, int):
        return token
    return None


class PaddedEncoder:
    """A model with its own attention. With pad=False each text runs alone, for models that do not honour the mask.

    max_row_tokens is for a model whose body was wrapped by PackedEncoder.install, and is then that encoder's.
    """

    def __init__(self, model: Any, head: Head = Head.BODY, *, pad: bool = True, max_row_tokens: int | None = None) -> None:
        self.max_row_tokens = max_row_tokens
        self._model = model
        # Before a TokenHead of this body replaces it for the time of a call.
        self._forward = model.forward
        self._head = head
        self._pad = pad
        body = model if head is Head.BODY else model.base_model
        self._takes_type_ids = takes_type_ids(body) and "token_type_ids" in inspect.signature(type(model).forward).parameters
        self._pad_id = pad_id(body)
        self._eos = ends_with_eos(model, head)

    def forward_ragged(self, batch: RaggedBatch, rows: Rows = None) -> Tensor:
        """The output of the head, a row a text or a row a token (base.py), on the model's device."""
        if self._head.row_kind is RowKind.TEXT:
            return self._forward_texts(batch)
        if self._pad:
            return choose(self._run_padded(batch, np.arange(len(batch.offsets) - 1)), rows)
        texts = np.flatnonzero(np.diff(batch.offsets))
        return choose(torch.cat([self._run_padded(batch, text) for text in np.split(texts, len(texts))]), rows)

    def _forward_texts(self, batch: RaggedBatch) -> Tensor:
        groups = list(self._groups(batch, np.arange(len(batch.offsets) - 1)))
        if len(groups) == 1:
            return self._run_padded(batch, groups[0])
        results = torch.cat([self._run_padded(batch, texts) for texts in groups])
        return results[torch.from_numpy(np.argsort(np.concatenate(groups))).to(results.device)]

    def _groups(self, batch: RaggedBatch, texts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The texts in parts that run as one rectangle each."""
        if not self._pad:
            yield from np.split(texts, len(texts))
            return
        if self._eos is not None:
            # Such a class refuses a rectangle in which one text has more of this token than another.
            counts = np.add.reduceat(batch.ids == self._eos, batch.offsets[:-1], dtype=np.int64)
            for number in np.unique(counts):
                yield from _halved(batch, texts[counts == number])
            return
        yield from _halved(batch, texts)

    def _run_padded(self, batch: RaggedBatch, texts: NDArray[np.int64]) -> Tensor:
        """One call of the model: the rows of these texts."""
        starts, lengths = batch.offsets[:-1][texts], np.diff(batch.offsets)[texts]
        columns = np.arange(lengths.max())
        mask = columns < lengths[:, None]
        places = np.where(mask, starts[:, None] + columns, 0)
        device = self._model.device
        arguments = {"input_ids": torch.from_numpy(np.where(mask, batch.ids[places], self._pad_id).astype(np.int64)).to(device)}
        if self._pad:
            arguments["attention_mask"] = torch.from_numpy(mask.astype(np.int64)).to(device)
        if self._takes_type_ids:
            arguments["token_type_ids"] = torch.from_numpy(np.where(mask, batch.type_ids[places], 0).astype(np.int64)).to(device)
        values = read_output(self._forward(**arguments, return_dict=True), self._head)
        if self._head.row_kind is RowKind.TEXT:
            return values
        return values.flatten(0, 1) if mask.all() else values[torch.from_numpy(mask).to(values.device)]


def _halved(batch: RaggedBatch, texts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The texts in one part, or in several of like lengths where their rectangle would be too large."""
    lengths = np.diff(batch.offsets)[texts]
    if len(texts) == 1 or len(texts) * lengths.max() <= MAX_RECTANGLE or lengths.min() == lengths.max():
        yield texts
        return
    in_order = texts[np.argsort(lengths, kind="stable")]
    for half in np.array_split(in_order, 2):
        yield from _halved(batch, half)
