"""Parts of requests and of responses that several protos share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from hubwire._arguments import check_choice, check_flag, check_positive, check_texts, check_uint32
from hubwire._names import TruncationSideName
from hubwire.v1 import common_pb2

_SIDES: Mapping[TruncationSideName, common_pb2.TruncationSide.ValueType] = {
    "right": common_pb2.TRUNCATION_SIDE_RIGHT,
    "left": common_pb2.TRUNCATION_SIDE_LEFT,
}
# Python indexes text by code points.
OFFSET_UNIT = common_pb2.OFFSET_UNIT_CODE_POINT


def truncation(truncate: bool | TruncationSideName | None, max_tokens: int | None) -> common_pb2.Truncation | None:
    """The permission to cut texts; None where they must not be cut."""
    if truncate is None or truncate is False:
        if max_tokens is not None:
            raise ValueError("max_tokens cuts texts, which must be allowed: pass truncate=True as well")
        return None
    side = check_choice("truncate", "right" if truncate is True else truncate, _SIDES)
    return common_pb2.Truncation(side=side, max_tokens=0 if max_tokens is None else check_uint32("max_tokens", max_tokens))


def windows(stride: int | None, max_tokens: int | None) -> common_pb2.Windows:
    """How a long text is read in parts that overlap. None is the server's default."""
    return common_pb2.Windows(
        stride=stride if stride is None else check_uint32("stride", stride),
        max_tokens=0 if max_tokens is None else check_positive("max_tokens", max_tokens),
    )


def limit(name: str, value: int | None) -> int:
    """A number of results, as the contract has it: 0 is its default. In Python that is None, and 0 is a mistake."""
    return 0 if value is None else check_positive(name, value)


def optional_flag(name: str, value: bool | None) -> bool | None:
    """A flag, or None for what the model does itself."""
    return None if value is None else check_flag(name, value)


def pairs_of(texts: list[str], pairs: Iterable[str] | None, *, async_hint: str) -> list[str]:
    """The second texts of pairs; none where there are no pairs. A list that is not as long as the texts is a ValueError: an empty one would
    else mean that there are no pairs.
    """
    if pairs is None:
        return []
    checked = check_texts("pairs", pairs, async_hint=async_hint)
    if len(checked) != len(texts):
        raise ValueError(f"pairs must have a text for each of the {len(texts)} texts, not {len(checked)}")
    return checked


def choices(name: str, values: Iterable[str] | None, *, meaning: str) -> list[str]:
    """Names that restrict an answer. None is no restriction, `meaning` says which; an empty list would leave nothing and is refused."""
    if values is None:
        return []
    checked = check_texts(name, values, async_hint="")
    if not checked:
        raise ValueError(f"{name} is empty: pass None for {meaning}")
    return checked


def spans_array(spans: Iterable[common_pb2.Span]) -> npt.NDArray[np.int64]:
    """(n, 2) starts and ends."""
    return np.array([(span.start, span.end) for span in spans], dtype=np.int64).reshape(-1, 2)
