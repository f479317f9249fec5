"""Tokens for the gaps in texts: fill_mask."""

from __future__ import annotations

from collections.abc import Iterable

from hubwire._calls import fill_mask as calls
from hubwire._names import TruncationSideName
from hubwire._sync.core import Core
from hubwire._types import MaskPrediction


class FillMaskMethods(Core):
    """Methods of Client."""

    def fill_mask(
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
        """Find the tokens that fit where texts hold the mask token of a masked language model.

        Args:
            texts: at least one text, each with at least one mask token: `get_model(name).masked_language_model.mask_token`, often
            "[MASK]" or
                "<mask>".
            model: the name of a served model; "" for the default one.
            top_k: how many tokens to return for each mask; None for 5.
            targets: restrict the answer to these words; scores are what they would be without it. None for the whole vocabulary.
            truncate, max_tokens, timeout_s: as in `embed`.

        Returns:
            For each text, in their order, one MaskPrediction a mask: tokens, token_ids, scores, sequences, the most probable first.
        """
        question = calls.fill_mask(texts, model=model, top_k=top_k, targets=targets, truncate=truncate, max_tokens=max_tokens)
        return self._ask(self._fill_mask.FillMask, question, timeout_s)
