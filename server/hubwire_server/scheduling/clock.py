"""Time, as something that is handed in."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Gives the time in nanoseconds on a clock that never goes back."""

MONOTONIC: Clock = time.monotonic_ns
