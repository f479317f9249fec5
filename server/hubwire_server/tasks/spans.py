"""Places inside texts, in arrays: from code points, in which tasks slice texts, to the unit that a caller counts in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hubwire_server._native import OffsetUnit

_SPACE = ord(" ")


def convert_spans(text: str, spans: NDArray[Any], unit: OffsetUnit) -> NDArray[Any]:
    """Positions inside a text, of any shape, from code points to another unit. ASCII has the same positions in all of them."""
    if unit == "code_point" or text.isascii():
        return spans
    points = code_points(text)
    if unit == "utf16_unit":
        widths = 1 + (points > 0xFFFF).astype(np.int64)
    else:
        widths = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    converted: NDArray[Any] = np.concatenate([[0], np.cumsum(widths)])[spans]
    return converted


def code_points(text: str) -> NDArray[Any]:
    """The number of each code point of a text, shape (len(text),)."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def follows_no_space(texts: Sequence[str], sources: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether tokens stand inside a text without a space before them or as their first character, shape (T,).

    sources says of which text each token is, starts is its first code point; both have that shape.

    This is how transformers takes a token for a part of a word where its vocabulary does not say: `start > 0 and " " not in
    text[start - 1 : start + 1]`.
    """
    # One more character ends each text, for a token that starts where its text ends.
    spaces = code_points("\0".join([*texts, ""])) == _SPACE
    lengths = np.array([len(text) + 1 for text in texts], np.int64)
    places = (np.cumsum(lengths) - lengths)[sources] + starts
    inside = starts > 0
    result: NDArray[np.bool_] = inside & ~spaces[places] & ~spaces[places - inside]
    return result


def repeat_rows(values: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[Any]:
    """The value of each row, once for each of its tokens: values has shape (n,), offsets (n + 1,), the result (T,)."""
    return np.repeat(values, np.diff(offsets))
