"""Texts to tokens and back: tokenize, detokenize and count_tokens."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from hubwire._calls import tokenization as calls
from hubwire._names import TruncationSideName
from hubwire._sync.core import Core
from hubwire._types import TokenizedText


class TokenizationMethods(Core):
    """Methods of Client."""

    def tokenize(
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
        """Show how a served model reads texts.

        Args:
            texts: at least one text; empty ones are allowed.
            pairs: the second text of each pair; None for single texts.
            model: the name of a served model of any task; "" for the first one.
            skip_special_tokens: leave out the tokens that the tokenizer adds.
            truncate, max_tokens: as in `embed`, but without them nothing is cut or refused.
            ids_only: leave out all but the token ids.
            timeout_s: as in `embed`.

        Returns:
            One TokenizedText a text, in their order: token_ids, tokens, spans, special_tokens_mask, type_ids, sequence_ids, token_count.
        """
        question = calls.tokenize(
            texts,
            pairs,
            model=model,
            skip_special_tokens=skip_special_tokens,
            truncate=truncate,
            max_tokens=max_tokens,
            ids_only=ids_only,
        )
        return self._ask(self._tokenization.Tokenize, question, timeout_s)

    def detokenize(
        self,
        token_ids: Iterable[Iterable[int]],
        *,
        model: str = "",
        keep_special_tokens: bool = False,
        timeout_s: float | None = None,
    ) -> list[str]:
        """The text of each list (or array) of token ids.

        Args:
            token_ids: at least one list of ids.
            model: the name of a served model of any task; "" for the first one.
            keep_special_tokens: write special tokens into the text.
            timeout_s: as in `embed`.
        """
        question = calls.detokenize(token_ids, model=model, keep_special_tokens=keep_special_tokens)
        return self._ask(self._tokenization.Detokenize, question, timeout_s)

    def count_tokens(
        self,
        texts: Iterable[str],
        pairs: Iterable[str] | None = None,
        *,
        model: str = "",
        skip_special_tokens: bool = False,
        timeout_s: float | None = None,
    ) -> npt.NDArray[np.int64]:
        """Count the tokens of each text, or of each pair, also where they are more than the model reads: (n,). Arguments as in
        `tokenize`.
        """
        question = calls.count_tokens(texts, pairs, model=model, skip_special_tokens=skip_special_tokens)
        return self._ask(self._tokenization.CountTokens, question, timeout_s)
