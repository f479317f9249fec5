"""Running a head that looks at one token at a time on hidden states that were computed in any way.

A class of transformers with such a head calls its body and applies the head to what it gets. TokenHead runs the body itself, packed where
that is possible, keeps the tokens that are wanted, and lets the class run with these in place of its body: so the head is the class's own
code, and what the vocabulary of a masked language model costs is paid for the masked tokens alone.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from hubwire_server.backends.base import Head, RaggedBatch
from hubwire_server.backends.rows import Rows
from hubwire_server.backends.torch.packed import vocabulary_size
from hubwire_server.backends.torch.padded import read_output

MAX_VALUES = 1 << 24
"""The most values that one call of a head over a vocabulary gives: 64 MB in float32. Its layers before the last give as much again."""


class Body(Protocol):
    """A way to run the body of a model."""

    max_row_tokens: int | None

    def forward_ragged(self, batch: RaggedBatch, rows: Rows = None) -> Tensor:
        """The last hidden states of the chosen tokens, shape (m, hidden_size)."""
        ...


class TokenHead:
    """The head of a model on the hidden states that a way of running its body gives."""

    def __init__(self, model: Any, head: Head, body: Body) -> None:
        self.max_row_tokens = body.max_row_tokens
        self._model = model
        self._head = head
        self._body = body
        self._step = max(1, MAX_VALUES // vocabulary_size(model.base_model)) if head is Head.MASKED_LM else None

    def forward_ragged(self, batch: RaggedBatch, rows: Rows = None) -> Tensor:
        """The output of the head for all tokens, or for the chosen ones, shape (m, row_size), on the model's device."""
        hidden = self._body.forward_ragged(batch, rows)
        if self._step is None or len(hidden) <= self._step:
            return self._apply(hidden)
        first = self._apply(hidden[: self._step])
        output = first.new_empty(len(hidden), first.shape[1])
        output[: self._step] = first
        for start in range(self._step, len(hidden), self._step):
            output[start : start + self._step] = self._apply(hidden[start : start + self._step])
        return output

    def _apply(self, hidden: Tensor) -> Tensor:
        body = self._model.base_model
        before = vars(body).get("forward")
        states = _States(hidden[None])
        body.forward = lambda *args, **kwargs: states
        try:
            ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
            return read_output(self._model(input_ids=ids, return_dict=True), self._head)[0]
        finally:
            if before is None:
                del body.forward
            else:
                body.forward = before


class _States:
    """The output of a body as a head reads it: hidden states, and nothing else."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: Any) -> Any:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        """What a class hands on into its own output without looking at it."""
        if name.startswith("__"):
            raise AttributeError(name)
