"""Texts to tokens and back. The front does this alone, with the tokenizer of any model that is served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hubwire_server._native import NativeError, RaggedBatch
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.registry import ReadyModel
from hubwire_server.tasks.answer import Timings, Usage
from hubwire_server.tasks.decoding import INLINE_DECODE_TOKENS, decode, known_ids, offsets_of
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import Truncation, count_mismatch, limit_tokens

if TYPE_CHECKING:
    from hubwire_server._native import OffsetUnit

MAX_TOKENIZE_BYTES = 1_048_576
"""The most bytes of the texts of a request for tokens, all together: an answer says much of each token, and is many times their size."""
MAX_DETOKENIZE_IDS = 262_144
"""The most ids of a request to write as text, which takes the tokenizer about a second."""
MAX_COUNT_BYTES = 8_388_608
"""The most bytes of the texts of a request for numbers of tokens, all together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeOptions:
    """How texts become tokens: see hubwire.v1.TokenizeOptions."""

    skip_special_tokens: bool = False
    truncation: Truncation | None = None
    offset_unit: OffsetUnit = "code_point"
    ids_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeRequest:
    """The tokens of each text, or of each pair of texts[i] and pairs[i]. pairs is empty for single texts."""

    texts: Sequence[str]
    pairs: Sequence[str] = ()
    model: str = ""
    options: TokenizeOptions = field(default_factory=TokenizeOptions)
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    """As in EmbedRequest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeResult:
    """The tokens of all texts, one after the other. batch has spans, and tokens is there, unless only ids were asked for."""

    batch: RaggedBatch
    tokens: Sequence[str] | None
    model: ReadyModel
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class DetokenizeRequest:
    """The text of each list of ids."""

    ids: Sequence[NDArray[np.int64]]
    model: str = ""
    keep_special_tokens: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DetokenizeResult:
    """One text for each list of ids."""

    texts: Sequence[str]
    model: ReadyModel


@dataclass(frozen=True, slots=True, kw_only=True)
class CountTokensRequest:
    """How many tokens each text has, or each pair."""

    texts: Sequence[str]
    pairs: Sequence[str] = ()
    model: str = ""
    skip_special_tokens: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CountTokensResult:
    """counts has shape (n,)."""

    counts: NDArray[np.int64]
    model: ReadyModel


class TokenizationTask:
    """Tokenizes, and turns tokens back into texts. It takes no time of a device, so that nothing here waits in a queue."""

    def __init__(self, texts: TextTask) -> None:
        self._registry = texts.registry
        self._texts = texts.texts

    async def tokenize(self, request: TokenizeRequest) -> TokenizeResult:
        """The tokens of all texts. Raises HubwireError for the first text that the server does not take."""
        options = request.options
        model = self._model(request.model)
        maximum = None
        if options.truncation is not None:
            maximum = limit_tokens(model, options.truncation, "options.truncation", pair=bool(request.pairs))
        self._check(request.texts, request.pairs, MAX_TOKENIZE_BYTES)
        encode = partial(
            model.tokenizer.encode,
            request.texts,
            request.pairs or None,
            add_special_tokens=not options.skip_special_tokens,
            max_tokens=maximum,
            truncation_side="right" if options.truncation is None else options.truncation.side,
            spans=None if options.ids_only else options.offset_unit,
        )

        def work() -> tuple[RaggedBatch, list[str] | None]:
            batch = encode()
            return batch, None if options.ids_only else model.tokenizer.tokens(batch.ids)

        start = time.perf_counter_ns()
        timings = Timings(decode_ns=start - request.arrived_ns)
        try:
            batch, tokens = await self._texts.run(work, _characters(request.texts, request.pairs))
        except NativeError as error:
            raise HubwireError(Reason.INTERNAL, f"the tokenizer failed: {error}") from error
        timings.tokenize_ns = time.perf_counter_ns() - start
        truncated = np.count_nonzero(batch.token_counts > np.diff(batch.offsets))
        usage = Usage(input_tokens=len(batch.ids), truncated_texts=int(truncated))
        return TokenizeResult(batch=batch, tokens=tokens, model=model, usage=usage, timings=timings)

    async def detokenize(self, request: DetokenizeRequest) -> DetokenizeResult:
        """The text of each list of ids. Raises HubwireError for the first id that the vocabulary lacks."""
        model = self._model(request.model)
        self._texts.check_count(len(request.ids), "texts")
        offsets = offsets_of([len(ids) for ids in request.ids])
        flat = np.concatenate(request.ids)
        known = known_ids(model.tokenizer, flat)
        if not known.all():
            raise _unknown_id(model, flat, offsets, int(np.argmin(known)))
        work = partial(decode, model, flat.astype(np.int32), offsets, skip_special_tokens=not request.keep_special_tokens)
        texts = await asyncio.to_thread(work) if len(flat) > INLINE_DECODE_TOKENS else work()
        return DetokenizeResult(texts=texts, model=model)

    async def count(self, request: CountTokensRequest) -> CountTokensResult:
        """How many tokens each text has. Raises HubwireError for the first text that the server does not take."""
        model = self._model(request.model)
        self._check(request.texts, request.pairs, MAX_COUNT_BYTES)
        work = partial(model.tokenizer.encode, request.texts, request.pairs or None, add_special_tokens=not request.skip_special_tokens)
        try:
            batch = await self._texts.run(work, _characters(request.texts, request.pairs))
        except NativeError as error:
            raise HubwireError(Reason.INTERNAL, f"the tokenizer failed: {error}") from error
        return CountTokensResult(counts=batch.token_counts, model=model)

    def _model(self, name: str) -> ReadyModel:
        """A model of any task, whose tokenizer is here."""
        model = self._registry.ready(name, None)
        _ = model.tokenizer  # refuses a model whose tokenizer is not here, before anything else is said of the request
        return model

    def _check(self, texts: Sequence[str], pairs: Sequence[str], limit: int) -> None:
        """Raises HubwireError for what the server does not take, also texts of more than limit bytes together. A text without characters is
        fine here."""
        self._texts.check_count(len(texts), "texts")
        if pairs and len(pairs) != len(texts):
            raise count_mismatch(len(texts), len(pairs), "text_pairs")
        for field_name, some in (("texts", texts), ("text_pairs", pairs)):
            for index, text in enumerate(some):
                if text and (error := self._texts.text_error(text, f"{field_name}[{index}]")) is not None:
                    raise error
        size = sum(len(text.encode()) for some in (texts, pairs) for text in some)
        if size > limit:
            raise HubwireError(
                Reason.TEXT_TOO_LARGE,
                f"the texts have {size} bytes together; the server takes {limit} in such a request",
                field="texts",
                metadata={"size_bytes": str(size), "limit_bytes": str(limit)},
            )


def _characters(texts: Sequence[str], pairs: Sequence[str]) -> int:
    return sum(map(len, texts)) + sum(map(len, pairs))


def _unknown_id(model: ReadyModel, flat: NDArray[np.int64], offsets: NDArray[np.int64], position: int) -> HubwireError:
    """The error for one id of a request."""
    text = int(np.searchsorted(offsets, position, side="right")) - 1
    maximum = len(model.tokenizer.token_lengths()) - 1
    return HubwireError(
        Reason.VALUE_OUT_OF_RANGE,
        f'{flat[position]} is no id of the vocabulary of "{model.name}", which has 0 to {maximum}',
        field=f"texts[{text}].token_ids[{position - offsets[text]}]",
        metadata={"minimum": "0", "maximum": str(maximum)},
        model=model.name,
    )
