"""The trained head of the sentiment model, written out as the last layers of a BertForSequenceClassification.

The class reads the first token alone, which says little in all-MiniLM-L6-v2: it was trained for the mean of all tokens. So the head begins
with a layer that gathers from all of them. Each of its attention heads weights the tokens by one learned direction, whatever token asks:
the query is a constant, which the bias gives, and the key has one row that is not zero. Values are learned, and so are the pooler and the
classifier behind it. Everything else in the layer is zero or one, and is not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

STORED = (
    "attention.key.weight",
    "attention.value.weight",
    "attention.value.bias",
    "pooler.dense.weight",
    "pooler.dense.bias",
    "classifier.weight",
    "classifier.bias",
)
"""The tensors of the file, float16. attention.key.weight has a row for each attention head; the others are as transformers has them."""


def expand(head: Mapping[str, NDArray[Any]], layer: int, intermediate_size: int) -> dict[str, NDArray[np.float32]]:
    """The tensors of the head under their names in transformers, in float32. layer is the place of the gathering layer, counted from 0.

    Raises ValueError where the head's tensors are not those of STORED.
    """
    if set(head) != set(STORED):
        raise ValueError(f"the sentiment head has the tensors {', '.join(sorted(head))}, and not {', '.join(sorted(STORED))}")
    stored = {name: tensor.astype(np.float32) for name, tensor in head.items()}
    prefix = f"bert.encoder.layer.{layer}"
    expanded = _constants(stored["attention.key.weight"].shape[1], intermediate_size)
    query, key = _query_and_key(stored["attention.key.weight"])
    expanded |= {"attention.self.query.bias": query, "attention.self.key.weight": key}
    expanded |= {f"attention.self.value.{part}": stored[f"attention.value.{part}"] for part in ("weight", "bias")}
    tensors = {f"{prefix}.{name}": tensor for name, tensor in expanded.items()}
    tensors |= {f"bert.pooler.dense.{part}": stored[f"pooler.dense.{part}"] for part in ("weight", "bias")}
    tensors |= {f"classifier.{part}": stored[f"classifier.{part}"] for part in ("weight", "bias")}
    return tensors


def _query_and_key(directions: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The query's bias and the key's weight of which the scaled product is, in each head, its direction times the token."""
    heads, hidden = directions.shape
    size = hidden // heads
    query = np.zeros(hidden, np.float32)
    query[::size] = np.sqrt(size)  # attention divides by it
    key = np.zeros((hidden, hidden), np.float32)
    key[::size] = directions
    return query, key


def _constants(hidden: int, intermediate: int) -> dict[str, NDArray[np.float32]]:
    """What the layer does not learn: its output passes what was gathered on, and its feed-forward part adds nothing."""

    def zeros(*shape: int) -> NDArray[np.float32]:
        return np.zeros(shape, np.float32)

    return {
        "attention.self.query.weight": zeros(hidden, hidden),
        "attention.self.key.bias": zeros(hidden),
        "attention.output.dense.weight": np.eye(hidden, dtype=np.float32),
        "attention.output.dense.bias": zeros(hidden),
        "attention.output.LayerNorm.weight": np.ones(hidden, np.float32),
        "attention.output.LayerNorm.bias": zeros(hidden),
        "intermediate.dense.weight": zeros(intermediate, hidden),
        "intermediate.dense.bias": zeros(intermediate),
        "output.dense.weight": zeros(hidden, intermediate),
        "output.dense.bias": zeros(hidden),
        "output.LayerNorm.weight": np.ones(hidden, np.float32),
        "output.LayerNorm.bias": zeros(hidden),
    }
