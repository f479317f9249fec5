"""Tokens for the gaps in texts: fill_mask."""

from __future__ import annotations

from collections.abc import Iterable

from hubwire._aio.core import Core
from hubwire._calls import fill_mask as calls
from hubwire._names import TruncationSideName
from hubwire._types import MaskPrediction


class FillMaskMethods(Core):
    """Methods of Client, which hubwire.Client documents."""

    async def fill_mask(
        self,
        texts: Iterable[str],
        *,
        model: str = "",
        top_k: int | None = None,
        targets: Iterable[str] | None = None,
        truncate: bool | TruncationSideName | None = None,
        max_tokens: int | None = None,
        timeout_s: float | None = None,
    ) -> list[list[MaskPrediction]]:
        """Find the tokens that fit where texts hold the mask token of a masked language model, as hubwire.Client.fill_mask."""
        question = calls.fill_mask(texts, model=model, top_k=top_k, targets=targets, truncate=truncate, max_tokens=max_tokens)
        return await self._ask(self._fill_mask.FillMask, question, timeout_s)
