"""Tokenize, Detokenize and CountTokens."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hubwire import errors
from hubwire._arguments import check_flag, check_iterable, check_text, check_texts, check_uint32
from hubwire._calls.common import OFFSET_UNIT, pairs_of, spans_array, truncation
from hubwire._calls.question import Question, check_number
from hubwire._names import TruncationSideName
from hubwire._types import TokenizedText
from hubwire.v1 import tokenization_pb2

TokenizeQuestion: TypeAlias = Question[tokenization_pb2.TokenizeRequest, tokenization_pb2.TokenizeResponse, list[TokenizedText]]
DetokenizeQuestion: TypeAlias = Question[tokenization_pb2.DetokenizeRequest, tokenization_pb2.DetokenizeResponse, list[str]]
CountTokensQuestion: TypeAlias = Question[tokenization_pb2.CountTokensRequest, tokenization_pb2.CountTokensResponse, npt.NDArray[np.int64]]


def tokenize(
    texts: Iterable[str],
    pairs: Iterable[str] | None = None,
    *,
    model: str = "",
    skip_special_tokens: bool = False,
    truncate: bool | TruncationSideName | None = None,
    max_tokens: int | None = None,
    ids_only: bool = False,
) -> TokenizeQuestion:
    """Tokenize: the tokens of each text, or of each pair."""
    checked = check_texts("texts", texts, async_hint="")
    request = tokenization_pb2.TokenizeRequest(
        model=check_text("model", model),
        texts=checked,
        text_pairs=pairs_of(checked, pairs, async_hint=""),
        options=tokenization_pb2.TokenizeOptions(
            skip_special_tokens=check_flag("skip_special_tokens", skip_special_tokens),
            truncation=truncation(truncate, max_tokens),
            offset_unit=OFFSET_UNIT,
            ids_only=check_flag("ids_only", ids_only),
        ),
    )
    return Question(request, partial(_tokenized, count=len(checked), ids_only=ids_only))


def detokenize(token_ids: Iterable[Iterable[int]], *, model: str = "", keep_special_tokens: bool = False) -> DetokenizeQuestion:
    """Detokenize: the text of each list of token ids."""
    request = tokenization_pb2.DetokenizeRequest(
        model=check_text("model", model), keep_special_tokens=check_flag("keep_special_tokens", keep_special_tokens)
    )
    for index, ids in enumerate(check_iterable("token_ids", token_ids, async_hint="", of="lists of token ids")):
        request.texts.add(token_ids=_check_ids(f"token_ids[{index}]", ids))
    return Question(request, partial(_texts, count=len(request.texts)))


def count_tokens(
    texts: Iterable[str], pairs: Iterable[str] | None = None, *, model: str = "", skip_special_tokens: bool = False
) -> CountTokensQuestion:
    """CountTokens: (n,) the number of tokens of each text, or of each pair."""
    checked = check_texts("texts", texts, async_hint="")
    request = tokenization_pb2.CountTokensRequest(
        model=check_text("model", model),
        texts=checked,
        text_pairs=pairs_of(checked, pairs, async_hint=""),
        skip_special_tokens=check_flag("skip_special_tokens", skip_special_tokens),
    )
    return Question(request, partial(_counts, count=len(checked)))


def _check_ids(name: str, ids: object) -> list[int]:
    if isinstance(ids, np.ndarray):
        # A whole array is looked at once; its numbers one by one would cost a call each.
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise TypeError(f"{name} must be one row of token ids, not an array of shape {ids.shape} and dtype {ids.dtype}")
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < 2**32:
            raise ValueError(f"{name} must hold numbers between 0 and {2**32 - 1}")
        row: list[int] = ids.tolist()
        return row
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise TypeError(f"{name} must be a list of token ids, not {type(ids).__name__}")
    return [check_uint32(f"{name}[{place}]", one) for place, one in enumerate(ids)]


def _tokenized(response: tokenization_pb2.TokenizeResponse, *, count: int, ids_only: bool) -> list[TokenizedText]:
    check_number(response.texts, count)
    return [_tokenized_text(message, ids_only) for message in response.texts]


def _tokenized_text(message: tokenization_pb2.TokenizedText, ids_only: bool) -> TokenizedText:
    lists = (message.tokens, message.spans, message.special_tokens_mask, message.type_ids, message.sequence_ids)
    expected = 0 if ids_only else len(message.token_ids)
    if any(len(one) != expected for one in lists):
        raise errors.contract_error(f"the server sent {len(message.token_ids)} token ids with {[len(one) for one in lists]} details")
    return TokenizedText(
        token_ids=np.array(message.token_ids, dtype=np.int64),
        tokens=tuple(message.tokens),
        spans=spans_array(message.spans),
        special_tokens_mask=np.array(message.special_tokens_mask, dtype=np.bool_),
        type_ids=np.array(message.type_ids, dtype=np.int64),
        sequence_ids=np.array(message.sequence_ids, dtype=np.int64),
        token_count=message.token_count,
    )


def _texts(response: tokenization_pb2.DetokenizeResponse, *, count: int) -> list[str]:
    check_number(response.texts, count)
    return list(response.texts)


def _counts(response: tokenization_pb2.CountTokensResponse, *, count: int) -> npt.NDArray[np.int64]:
    check_number(response.token_counts, count)
    return np.array(response.token_counts, dtype=np.int64)
