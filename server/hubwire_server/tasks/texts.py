"""From the texts of a request to tokens: the checks, truncation and tokenization that every task on text shares."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from hubwire_server._native import NativeError, RaggedBatch
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.registry import ReadyModel

if TYPE_CHECKING:
    from hubwire_server._native import OffsetUnit

INLINE_TOKENIZE_CHARACTERS = 8_192
"""Requests up to this size are tokenized on the event loop: it takes well under 1 ms, and handing the work to a thread costs about 0.1
ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and until when. deadline_ns is on the scheduler's clock, None for no deadline."""

    client: str
    deadline_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """Permission to cut texts. max_tokens 0 is the model's own limit."""

    side: Literal["left", "right"] = "right"
    max_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLimits:
    """What a message may hold. max_request_bytes bounds all of its texts together, each with its prompt."""

    max_texts: int
    max_text_bytes: int
    max_request_bytes: int


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Texts as tokens.

    too_long holds the index of each text that is over the limit although the request does not allow cutting. skip, shape (n,), is how many
    of the first tokens of each text are a prompt that takes no part in pooling.
    """

    batch: RaggedBatch
    skip: np.ndarray[tuple[int], np.dtype[np.int64]]
    truncated: np.ndarray[tuple[int], np.dtype[np.bool_]]
    too_long: Sequence[int]
    limit_tokens: int
    elapsed_ns: int

    def too_long_error(self, index: int, field: str) -> HubwireError:
        """The error for one of too_long."""
        count = int(self.batch.token_counts[index])
        return HubwireError(
            Reason.TEXT_TOO_LONG,
            f"the text has {count} tokens and the model reads {self.limit_tokens}; set truncation to have it cut",
            field=field,
            metadata={"token_count": str(count), "limit_tokens": str(self.limit_tokens)},
        )


class Texts:
    """Checks and tokenizes texts. Large requests are tokenized in a thread, with the GIL released."""

    def __init__(self, limits: TextLimits, threads: int) -> None:
        self._limits = limits
        self._threads = threads
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize")

    def close(self) -> None:
        """Ends the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def check(self, texts: Sequence[str]) -> None:
        """Raises HubwireError for the first text that no model would read."""
        self.check_count(len(texts), "texts")
        for index, text in enumerate(texts):
            if (error := self.text_error(text, f"texts[{index}]")) is not None:
                raise error

    def check_count(self, count: int, field: str) -> None:
        """Raises HubwireError where a message holds no texts, or too many."""
        if count == 0:
            raise HubwireError(Reason.FIELD_REQUIRED, f"{field} is empty: give at least one text", field=field)
        if count > self._limits.max_texts:
            raise HubwireError(
                Reason.TOO_MANY_TEXTS,
                f"{count} texts in one message; the server takes {self._limits.max_texts}",
                field=field,
                metadata={"count": str(count), "limit": str(self._limits.max_texts)},
            )

    def text_error(self, text: str, field: str) -> HubwireError | None:
        """What is wrong with one text, before it is tokenized."""
        if not text:
            return HubwireError(Reason.TEXT_EMPTY, "the text is empty", field=field)
        limit = self._limits.max_text_bytes
        if len(text) * 4 > limit and (size := len(text.encode())) > limit:
            return HubwireError(
                Reason.TEXT_TOO_LARGE,
                f"the text has {size} bytes; the server takes {limit}",
                field=field,
                metadata={"size_bytes": str(size), "limit_bytes": str(limit)},
            )
        return None

    def check_prompt(self, prompt: str, count: int, field: str) -> None:
        """Raises HubwireError where a prompt before each of count texts is more than a message may hold."""
        size = len(prompt.encode())
        limit = min(self._limits.max_text_bytes, self._limits.max_request_bytes // count)
        if size > limit:
            raise HubwireError(
                Reason.TEXT_TOO_LARGE,
                f"the prompt has {size} bytes, before each of {count} texts; that is more than the server takes",
                field=field,
                metadata={"size_bytes": str(size), "limit_bytes": str(limit)},
            )

    async def tokenize(
        self,
        model: ReadyModel,
        texts: Sequence[str],
        *,
        prompt: str = "",
        truncation: Truncation | None = None,
        spans: OffsetUnit | None = None,
    ) -> Tokenized:
        """Tokenizes checked texts, each with the prompt before it."""
        start = time.perf_counter_ns()
        limit = limit_tokens(model, truncation)
        try:
            if sum(map(len, texts)) + len(prompt) * len(texts) <= INLINE_TOKENIZE_CHARACTERS:
                batch, prompt_tokens = self._encode(model, texts, prompt, limit, truncation, spans)
            else:
                encode = partial(self._encode, model, texts, prompt, limit, truncation, spans)
                batch, prompt_tokens = await asyncio.get_running_loop().run_in_executor(self._pool, encode)
        except NativeError as error:
            raise HubwireError(Reason.INTERNAL, f"the tokenizer failed: {error}") from error
        counts = batch.token_counts
        cut = counts > limit
        skip = np.zeros(len(counts), dtype=np.int64)
        if prompt_tokens:
            kept = np.diff(batch.offsets)
            skip = np.minimum(prompt_tokens, kept)
            if truncation is not None and truncation.side == "left":  # what was cut was the prompt first
                skip = np.maximum(0, skip - (counts - kept))
        too_long = [] if truncation is not None else cut.nonzero()[0].tolist()
        return Tokenized(batch, skip, cut, too_long, limit, time.perf_counter_ns() - start)

    def _encode(
        self, model: ReadyModel, texts: Sequence[str], prompt: str, limit: int, truncation: Truncation | None, spans: OffsetUnit | None
    ) -> tuple[RaggedBatch, int]:
        """The batch, and how many of the first tokens of each text are a prompt that takes no part in pooling."""
        batch = model.tokenizer.encode(
            [prompt + text for text in texts] if prompt else texts,
            max_tokens=limit if truncation is not None else None,
            truncation_side=truncation.side if truncation is not None else "right",
            spans=spans,
            threads=self._threads,
        )
        if not prompt or model.description.include_prompt:
            return batch, 0
        # As sentence-transformers counts them: the prompt alone, without a closing special token.
        ids = model.tokenizer.encode([prompt], max_tokens=limit).ids
        return batch, len(ids) - 1 if len(ids) and int(ids[-1]) in model.description.special_ids else len(ids)


def limit_tokens(model: ReadyModel, truncation: Truncation | None, field: str = "truncation") -> int:
    """How many tokens of a text are read. Raises HubwireError where the request asks for more than the model reads, or for nothing."""
    maximum = model.description.max_tokens
    if truncation is None or truncation.max_tokens == 0:
        return maximum
    minimum = model.tokenizer.count_special_tokens() + 1
    if not minimum <= truncation.max_tokens <= maximum:
        raise HubwireError(
            Reason.VALUE_OUT_OF_RANGE,
            f"max_tokens is {truncation.max_tokens}; this model takes {minimum} to {maximum}",
            field=f"{field}.max_tokens",
            metadata={"minimum": str(minimum), "maximum": str(maximum)},
        )
    return truncation.max_tokens
