"""Entities inside their text: in colour on a terminal, as plain marks elsewhere."""

from __future__ import annotations

import os
import sys
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hubwire.v1 import token_classification_pb2

_COLOURS = (41, 42, 43, 44, 45, 46)
"""Backgrounds of ANSI terminals. Black text is readable on each."""


def is_colourful() -> bool:
    """True where stdout is a terminal that shows colours, and nobody asked for none (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def highlight(text: str, entities: Sequence[token_classification_pb2.Entity], *, colourful: bool) -> str:
    """The text with the label of each entity behind it: "Ada [PER] was born in London [LOC]". The first of overlapping ones is shown."""
    parts: list[str] = []
    position = 0
    for entity in entities:
        start, end = entity.span.start, entity.span.end
        if start < position or start == end:
            continue
        parts.append(text[position:start])
        parts.append(_mark(text[start:end], entity.label, colourful=colourful))
        position = end
    return "".join([*parts, text[position:]])


def _mark(text: str, label: str, *, colourful: bool) -> str:
    if not colourful:
        return f"{text} [{label}]"
    # The colour follows from the label alone, so that it is the same in every line and in every run.
    colour = _COLOURS[zlib.crc32(label.encode()) % len(_COLOURS)]
    return f"\x1b[30;{colour}m{text}\x1b[0m \x1b[1m[{label}]\x1b[0m"
