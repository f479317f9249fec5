"""The types that both clients take and give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from hubwire._names import PoolingName, TruncationSideName

Matrix = npt.NDArray[np.float32]
PackedMatrix = npt.NDArray[np.uint8]


class EmbedOptions(TypedDict, total=False):
    """The keyword arguments that `embed` and `stream_embed` share, `encoding` aside. Client.embed documents them."""

    model: str
    pooling: PoolingName | None
    normalize: bool | None
    truncate: bool | TruncationSideName | None
    max_tokens: int | None
    dimensions: int | None
    prompt_name: str | None
    prompt: str | None
    timeout_s: float | None


class StreamOptions(EmbedOptions, total=False):
    """The keyword arguments of `stream_embed`, `encoding` aside. Client.stream_embed documents them."""

    ordered: bool
    batch_size: int
    max_in_flight: int


# Arrays have no truth value, so a generated __eq__ would raise: two results are equal only where they are one object.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenEmbeddings:
    """The vectors of the t tokens of one text, special tokens included."""

    vectors: Matrix | PackedMatrix
    """(t, dimensions) float32, one row a token; with encoding="binary" (t, ceil(dimensions / 8)) uint8, one bit a value."""
    token_ids: npt.NDArray[np.int64]
    """(t,) the vocabulary number of each token."""
    spans: npt.NDArray[np.int64]
    """(t, 2) start and end of each token in its text, in code points as Python counts them: text[start:end]. 0 and 0 for special tokens."""
    special_tokens_mask: npt.NDArray[np.bool_]
    """(t,) True for each token that the tokenizer added ("[CLS]", "</s>", ...)."""
