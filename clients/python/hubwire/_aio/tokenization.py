"""Texts to tokens and back: tokenize, detokenize and count_tokens."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from hubwire._aio.core import Core
from hubwire._calls import tokenization as calls
from hubwire._names import TruncationSideName
from hubwire._types import TokenizedText


class TokenizationMethods(Core):
    """Methods of Client, which hubwire.Client documents."""

    async def tokenize(
        self,
        texts: Iterable[str],
        pairs: Iterable[str] | None = None,
        *,
        model: str = "",
        skip_special_tokens: bool = False,
        truncate: bool | TruncationSideName | None = None,
        max_tokens: int | None = None,
        ids_only: bool = False,
        timeout_s: float | None = None,
    ) -> list[TokenizedText]:
        """Show how a served model reads texts, as hubwire.Client.tokenize."""
        question = calls.tokenize(
            texts,
            pairs,
            model=model,
            skip_special_tokens=skip_special_tokens,
            truncate=truncate,
            max_tokens=max_tokens,
            ids_only=ids_only,
        )
        return await self._ask(self._tokenization.Tokenize, question, timeout_s)

    async def detokenize(
        self,
        token_ids: Iterable[Iterable[int]],
        *,
        model: str = "",
        keep_special_tokens: bool = False,
        timeout_s: float | None = None,
    ) -> list[str]:
        """The text of each list (or array) of token ids, as hubwire.Client.detokenize."""
        question = calls.detokenize(token_ids, model=model, keep_special_tokens=keep_special_tokens)
        return await self._ask(self._tokenization.Detokenize, question, timeout_s)

    async def count_tokens(
        self,
        texts: Iterable[str],
        pairs: Iterable[str] | None = None,
        *,
        model: str = "",
        skip_special_tokens: bool = False,
        timeout_s: float | None = None,
    ) -> npt.NDArray[np.int64]:
        """As hubwire.Client.count_tokens."""
        question = calls.count_tokens(texts, pairs, model=model, skip_special_tokens=skip_special_tokens)
        return await self._ask(self._tokenization.CountTokens, question, timeout_s)
