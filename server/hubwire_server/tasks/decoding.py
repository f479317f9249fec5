"""What tasks share after the worker answered: from token ids back to text, as transformers writes it, and logits to probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hubwire_server._native import NativeError, Tokenizer
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.registry import ReadyModel

Floats = TypeVar("Floats", bound=np.floating[Any])

INLINE_DECODE_TOKENS = 4_000
"""Up to so many tokens are decoded on the event loop, which takes about 1.5 ms; above, in a thread, with the GIL released."""
INLINE_LABEL_TOKENS = 5_000
"""Up to so many tokens with logits become entities or answers on the event loop; above, in a thread."""

_SPACES = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
"""What is replaced where a tokenizer is set to clean up (tokenization_utils_base.py, clean_up_tokenization), in this order."""


def decode(model: ReadyModel, ids: NDArray[np.int32], offsets: NDArray[np.int64], *, skip_special_tokens: bool) -> list[str]:
    """The text of each row of ids, shape (T,), cut by offsets, shape (n + 1,): what `tokenizer.decode` of transformers gives.

    Ids that the vocabulary lacks are left out. Raises HubwireError (INTERNAL) where the tokenizer's decoder fails.
    """
    try:
        texts = model.tokenizer.decode(ids, offsets, skip_special_tokens=skip_special_tokens)
    except NativeError as error:
        raise HubwireError(Reason.INTERNAL, f"the tokenizer failed: {error}") from error
    return [_clean_up(text) for text in texts] if model.description.tokenizer.clean_up_spaces else texts


def known_ids(tokenizer: Tokenizer, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which ids the vocabulary has, in the shape of ids, none of which is negative. A head may have columns for more."""
    lengths = tokenizer.token_lengths()
    known: NDArray[np.bool_] = ids < len(lengths)
    known[known] = lengths[ids[known]] > 0
    return known


def vocabulary_entries(tokenizer: Tokenizer, ids: NDArray[np.int32]) -> list[str]:
    """The entry of the vocabulary of each id; empty for one that it lacks."""
    known = known_ids(tokenizer, ids.astype(np.int64))
    if known.all():
        return tokenizer.tokens(ids)
    entries = np.full(len(ids), "", dtype=object)
    entries[known] = tokenizer.tokens(ids[known])
    listed: list[str] = entries.tolist()
    return listed


def softmax(logits: NDArray[Floats]) -> NDArray[Floats]:
    """The probabilities over the last axis, in the type of the logits."""
    scores: NDArray[Floats] = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def offsets_of(lengths: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
    """Where rows of these lengths begin in a flat array, shape (n + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _clean_up(text: str) -> str:
    for old, new in _SPACES:
        text = text.replace(old, new)
    return text
