"""From the texts of a request to tokens: the checks, truncation and tokenization that every task on text shares."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from hubwire_server._native import NativeError, RaggedBatch
from hubwire_server.errors import HubwireError, Reason, out_of_range
from hubwire_server.models.registry import ReadyModel

if TYPE_CHECKING:
    from hubwire_server._native import OffsetUnit, PairTruncation

R = TypeVar("R")

MAX_LABEL_BYTES = 1_024
"""The longest label, or word to choose from, that a caller may name."""
MAX_WINDOWS = 4_096
"""The most windows of a request. Each is an item of work, and takes about 2 us of the event loop before it is computed."""
MAX_WINDOW_TOKENS = 524_288
"""The most tokens of the windows of a request: about a minute of work on two cores. Without windows max_texts bounds a request."""
MOST_TOKEN_BYTES = 16
"""Few tokens of any vocabulary have more bytes. What has more bytes than so many tokens would is refused before it is tokenized."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Permission to read a long text in overlapping parts. stride, in tokens, is what neighbours share; None is a quarter of
    max_tokens. max_tokens is the size of a part; 0 is the default of the task."""

    stride: int | None = None
    max_tokens: int = 0

    def stride_of(self, limit_tokens: int) -> int:
        """The stride of windows of so many tokens."""
        return limit_tokens // 4 if self.stride is None else self.stride


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How texts become tokens. truncation and windows exclude each other; None for both refuses a text that is longer than the model reads.

    prompt is put before each text. only says which text of a pair is cut or read in windows; "longest_first" cuts the longer one. spans is
    the unit of the places of tokens, None for no places. limit_tokens is the most tokens of a text, a pair or a window.
    """

    limit_tokens: int
    truncation: Truncation | None = None
    windows: Windows | None = None
    only: PairTruncation = "longest_first"
    prompt: str = ""
    spans: OffsetUnit | None = None


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Texts as tokens. A row of batch is a text, a pair of texts, or a window; batch.sources says of which text.

    too_long holds the index of each text that is over the limit although the request does not allow cutting. skip, shape (rows,), is how
    many of the first tokens of each row are a prompt that takes no part in pooling. truncated, shape (rows,), says which were cut.
    """

    batch: RaggedBatch
    skip: NDArray[np.int64]
    truncated: NDArray[np.bool_]
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

    def check(self, texts: Sequence[str], field: str = "texts") -> None:
        """Raises HubwireError for the first text that no model would read."""
        self.check_count(len(texts), field)
        for index, text in enumerate(texts):
            if (error := self.text_error(text, f"{field}[{index}]")) is not None:
                raise error

    def check_pairs(self, texts: Sequence[str], pairs: Sequence[str], field: str) -> None:
        """Raises HubwireError where pairs are not as many as the texts, or one of them would be read by no model."""
        if len(pairs) != len(texts):
            raise count_mismatch(len(texts), len(pairs), field)
        self.check(pairs, field)

    def check_count(self, count: int, field: str) -> None:
        """Raises HubwireError where a message holds no texts, or too many."""
        if count == 0:
            raise HubwireError(Reason.FIELD_REQUIRED, f"{field} is empty: give at least one", field=field)
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

    def check_short(self, texts: Sequence[str], limit_bytes: int, field: str) -> None:
        """Raises HubwireError for the first of some labels or words that has more bytes than such a thing has."""
        for index, text in enumerate(texts):
            if (size := len(text.encode())) > limit_bytes:
                raise HubwireError(
                    Reason.TEXT_TOO_LARGE,
                    f"it has {size} bytes; the server takes {limit_bytes} here",
                    field=f"{field}[{index}]",
                    metadata={"size_bytes": str(size), "limit_bytes": str(limit_bytes)},
                )

    def check_windows(self, texts: Sequence[str], pairs: Sequence[str] | None) -> None:
        """Raises HubwireError where texts that are to be read in windows are more than a request may hold, as their bytes tell."""
        size = sum(map(len, texts)) + sum(map(len, pairs or ()))  # code points: never more than bytes
        if size > MAX_WINDOW_TOKENS * MOST_TOKEN_BYTES:
            raise too_many_windows(size // MOST_TOKEN_BYTES, MAX_WINDOW_TOKENS, "tokens")

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

    def check_read_bytes(self, size: int, field: str) -> None:
        """Raises HubwireError where the texts of a request, counted as often as they are read, have more bytes than a message may hold."""
        limit = self._limits.max_request_bytes
        if size > limit:
            raise HubwireError(
                Reason.TEXT_TOO_LARGE,
                f"a text is read once for each that it is paired with; that makes {size} bytes, and the server reads {limit} at once",
                field=field,
                metadata={"size_bytes": str(size), "limit_bytes": str(limit)},
            )

    async def run(self, work: Callable[[], R], characters: int) -> R:
        """Runs work of the tokenizer on texts of so many characters: at once where they are few, in the tokenizer's thread otherwise."""
        if characters <= INLINE_TOKENIZE_CHARACTERS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def tokenize(
        self,
        model: ReadyModel,
        texts: Sequence[str],
        reading: Reading,
        *,
        pairs: Sequence[str] | None = None,
        words: Sequence[Sequence[str]] | None = None,
    ) -> Tokenized:
        """Tokenizes checked texts, or pairs of texts, or texts that were split into words (texts then holds them joined).

        Raises HubwireError: VALUE_OUT_OF_RANGE for windows that leave no room.
        """
        start = time.perf_counter_ns()
        encode = partial(self._encode, model, texts, reading, pairs, words)
        try:
            batch, prompt_tokens = await self.run(
                encode, sum(map(len, texts)) + sum(map(len, pairs or ())) + len(reading.prompt) * len(texts)
            )
        except NativeError as error:
            raise HubwireError(Reason.INTERNAL, f"the tokenizer failed: {error}") from error
        counts = batch.token_counts
        cut = counts > reading.limit_tokens
        skip = np.zeros(len(counts), dtype=np.int64)
        if prompt_tokens:
            kept = np.diff(batch.offsets)
            skip = np.minimum(prompt_tokens, kept)
            if reading.truncation is not None and reading.truncation.side == "left":  # what was cut was the prompt first
                skip = np.maximum(0, skip - (counts - kept))
        if reading.windows is not None:
            cut = np.zeros(len(counts), dtype=np.bool_)
        too_long = [] if reading.truncation is not None else cut.nonzero()[0].tolist()
        return Tokenized(batch, skip, cut, too_long, reading.limit_tokens, time.perf_counter_ns() - start)

    def _encode(
        self,
        model: ReadyModel,
        texts: Sequence[str],
        reading: Reading,
        pairs: Sequence[str] | None,
        words: Sequence[Sequence[str]] | None,
    ) -> tuple[RaggedBatch, int]:
        """The batch, and how many of the first tokens of each text are a prompt that takes no part in pooling."""
        truncation, windows, prompt = reading.truncation, reading.windows, reading.prompt
        stride = None if windows is None else windows.stride_of(reading.limit_tokens)
        max_tokens = None if truncation is None and windows is None else reading.limit_tokens
        side = "right" if truncation is None else truncation.side
        tokenizer = model.tokenizer
        if words is not None:
            batch = tokenizer.encode_words(
                words, max_tokens=max_tokens, truncation_side=side, stride=stride, spans=reading.spans, threads=self._threads
            )
            return batch, 0
        batch = tokenizer.encode(
            [prompt + text for text in texts] if prompt else texts,
            pairs,
            max_tokens=max_tokens,
            truncation_side=side,
            truncation=reading.only,
            stride=stride,
            spans=reading.spans,
            threads=self._threads,
        )
        if not prompt or model.embedding.include_prompt:
            return batch, 0
        # As sentence-transformers counts them: the prompt alone, without a closing special token.
        ids = tokenizer.encode([prompt], max_tokens=reading.limit_tokens).ids
        special = model.description.tokenizer.special_ids
        return batch, len(ids) - 1 if len(ids) and int(ids[-1]) in special else len(ids)


def limit_tokens(model: ReadyModel, truncation: Truncation | None, field: str = "truncation", *, pair: bool = False) -> int:
    """How many tokens of a text, or of a pair, are read. Raises HubwireError where the request asks for more than the model reads, or for
    nothing."""
    return _limit(model, 0 if truncation is None else truncation.max_tokens, f"{field}.max_tokens", pair, model.description.max_tokens)


def limit_window(model: ReadyModel, windows: Windows, default: int, field: str, *, pair: bool = False) -> int:
    """How many tokens a window has; default is for a request that does not say. Raises HubwireError where that is more than the model
    reads, or the stride more than half of it."""
    limit = _limit(model, windows.max_tokens, f"{field}.max_tokens", pair, min(default, model.description.max_tokens))
    # With more than half of it repeated, a short request would cost as much as thousands.
    most = min(limit // 2, limit - model.tokenizer.count_special_tokens(pair) - 1)
    if windows.stride is not None and windows.stride > most:
        raise out_of_range(f"stride is {windows.stride}; windows of {limit} tokens take 0 to {most}", f"{field}.stride", 0, most)
    return limit


def _limit(model: ReadyModel, asked: int, field: str, pair: bool, default: int) -> int:
    maximum = model.description.max_tokens
    if asked == 0:
        return default
    minimum = model.tokenizer.count_special_tokens(pair) + (2 if pair else 1)
    if not minimum <= asked <= maximum:
        raise out_of_range(f"max_tokens is {asked}; this model takes {minimum} to {maximum}", field, minimum, maximum)
    return asked


def check_unique(values: Sequence[str], field: str) -> None:
    """Raises HubwireError where a list that names each thing once names one twice."""
    seen = set()
    for index, value in enumerate(values):
        if value in seen:
            text = f'"{value}" is named twice'
            raise HubwireError(Reason.VALUE_REPEATED, text, field=f"{field}[{index}]", metadata={"value": value})
        seen.add(value)


def too_many_windows(count: int, limit: int, what: str) -> HubwireError:
    """The error for texts whose windows are more than a request may hold."""
    return HubwireError(
        Reason.TOO_MANY_TEXTS,
        f"the windows of these texts have at least {count} {what}; the server takes {limit} in one request",
        field="options.windows",
        metadata={"count": str(count), "limit": str(limit)},
    )


def count_mismatch(expected: int, count: int, field: str) -> HubwireError:
    """The error for two lists that belong together and have different lengths."""
    return HubwireError(
        Reason.COUNT_MISMATCH,
        f"{field} has {count} entries where there should be {expected}",
        field=field,
        metadata={"expected": str(expected), "count": str(count)},
    )
