"""The tokens that fit where texts hold the mask token of a masked language model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hubwire_server._native import RaggedBatch
from hubwire_server.errors import HubwireError, Reason, out_of_range
from hubwire_server.models.description import Task
from hubwire_server.models.registry import ReadyModel
from hubwire_server.scheduling.item import BatchKey
from hubwire_server.tasks.answer import Timings, Usage
from hubwire_server.tasks.decoding import INLINE_DECODE_TOKENS, decode, offsets_of
from hubwire_server.tasks.text_task import TextTask, TextWork, batch_key
from hubwire_server.tasks.texts import MAX_LABEL_BYTES, Caller, Reading, Tokenized, Truncation, check_unique, limit_tokens

if TYPE_CHECKING:
    from hubwire_server._native import OffsetUnit

DEFAULT_TOP_K = 5
MAX_TOP_K = 1_000
MAX_SEQUENCE_TOKENS = 4_194_304
"""What the sequences of an answer may hold together: each token for each mask comes with its whole text, so that an answer can be a million
times larger than its request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillMaskOptions:
    """How masks are filled: see hubwire.v1.FillMaskOptions."""

    top_k: int = 0
    targets: Sequence[str] = ()
    truncation: Truncation | None = None
    offset_unit: OffsetUnit = "code_point"


@dataclass(frozen=True, slots=True, kw_only=True)
class FillMaskRequest:
    """The tokens for each mask of each text."""

    texts: Sequence[str]
    model: str = ""
    options: FillMaskOptions = field(default_factory=FillMaskOptions)
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    """As in EmbedRequest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillMaskResult:
    """k tokens for each of m masks, the most probable first. Text i of n has the masks mask_offsets[i] to mask_offsets[i + 1].

    mask_offsets has shape (n + 1,), spans (m, 2), ids and scores (m, k); tokens and sequences have m * k entries, mask after mask.
    """

    mask_offsets: NDArray[np.int64]
    spans: NDArray[np.uint32]
    ids: NDArray[np.int32]
    scores: NDArray[np.float32]
    tokens: Sequence[str]
    sequences: Sequence[str]
    model: ReadyModel
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Masks:
    """The masks of a batch of n texts: their positions in its flat arrays, shape (m,), and the offsets of the masks of each text,
    shape (n + 1,)."""

    positions: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def texts(self) -> NDArray[np.int64]:
        """The text of each mask, shape (m,)."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


@dataclass(frozen=True, slots=True)
class FillMaskPlan:
    """The options of a request, settled for one model. targets is the ids to choose from, rising; empty for the whole vocabulary."""

    model: ReadyModel
    key: BatchKey
    reading: Reading
    top_k: int
    targets: NDArray[np.int32]

    def extras(self, tokenized: Tokenized) -> Sequence[NDArray[Any]]:
        """The positions of the masks in each text, then -1 and the targets. Raises HubwireError for a text without a mask, and for an
        answer that would be too large."""
        masks = find_masks(tokenized.batch, self.model.description.tokenizer.mask_token_id)
        counts = np.diff(masks.offsets)
        if not counts.all():
            mask_token = self.model.masked_language_model.mask_token
            index = int(np.argmin(counts))
            cut = ", since it was cut" if tokenized.truncated[index] else ""
            text = f'the text does not hold the mask token "{mask_token}"{cut}'
            raise HubwireError(Reason.MASK_NOT_FOUND, text, field=f"texts[{index}]", metadata={"mask_token": mask_token})
        _check_answer_size(int((counts * np.diff(tokenized.batch.offsets)).sum()) * self.top_k, len(counts))
        places = (masks.positions - tokenized.batch.offsets[masks.texts]).astype(np.int32)
        tail = np.concatenate([[-1], self.targets]).astype(np.int32)
        return [np.concatenate([part, tail]) for part in np.split(places, masks.offsets[1:-1])]


class FillMaskTask:
    """Fills masks."""

    def __init__(self, texts: TextTask) -> None:
        self.texts = texts

    async def fill_mask(self, request: FillMaskRequest, caller: Caller) -> FillMaskResult:
        """The tokens for each mask, or HubwireError for the first text that has none."""
        plan = await self.plan(request.model, request.options)
        self.texts.texts.check(request.texts)
        work = TextWork(model=plan.model, key=plan.key, reading=plan.reading, texts=request.texts, extras=plan.extras)
        done = await self.texts.compute(work, caller, request.arrived_ns)
        batch = done.tokenized.batch
        masks = find_masks(batch, plan.model.description.tokenizer.mask_token_id)
        ids, scores = done.array(0), done.array(1)
        write = partial(write_candidates, plan.model, batch, masks, ids)
        size = int(np.diff(batch.offsets)[masks.texts].sum()) * plan.top_k
        tokens, sequences = await asyncio.to_thread(write) if size > INLINE_DECODE_TOKENS else write()
        return FillMaskResult(
            mask_offsets=masks.offsets,
            spans=mask_spans(batch, masks, plan),
            ids=ids,
            scores=scores,
            tokens=tokens,
            sequences=sequences,
            model=plan.model,
            usage=done.usage,
            timings=done.timings,
        )

    async def plan(self, model_name: str, options: FillMaskOptions) -> FillMaskPlan:
        """Settles the options of a request. Raises HubwireError with the option that does not fit."""
        model = self.texts.registry.ready(model_name, Task.FILL_MASK)
        if model.description.tokenizer.mask_token_id < 0:
            raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f'the tokenizer of "{model.name}" has no mask token', model=model.name)
        if options.top_k > MAX_TOP_K:
            raise out_of_range(f"top_k is {options.top_k}; the server returns at most {MAX_TOP_K}", "options.top_k", 0, MAX_TOP_K)
        targets = np.zeros(0, np.int32)
        if options.targets:
            self.texts.texts.check(options.targets, "options.targets")
            self.texts.texts.check_short(options.targets, MAX_LABEL_BYTES, "options.targets")
            check_unique(options.targets, "options.targets")
            targets = await self.texts.texts.run(partial(target_ids, model, options.targets), sum(map(len, options.targets)))
        choice = len(targets) or model.masked_language_model.vocabulary_size
        top_k = min(options.top_k or DEFAULT_TOP_K, choice)
        return FillMaskPlan(
            model=model,
            key=batch_key(model, "fill", str(top_k)),
            reading=Reading(
                limit_tokens=limit_tokens(model, options.truncation, "options.truncation"),
                truncation=options.truncation,
                spans=options.offset_unit,
            ),
            top_k=top_k,
            targets=targets,
        )


def find_masks(batch: RaggedBatch, mask_token_id: int) -> Masks:
    """Where the texts of a batch hold the mask token."""
    positions = np.flatnonzero(batch.ids == mask_token_id)
    return Masks(positions, np.searchsorted(positions, batch.offsets))


def target_ids(model: ReadyModel, targets: Sequence[str]) -> NDArray[np.int32]:
    """The ids of words, rising, each once. A word is an entry of the vocabulary as it stands, or else one that the tokenizer reads as one
    token, at the beginning of a text or after a space.

    Raises HubwireError (TARGET_NOT_FOUND) for the first that is neither.
    """
    tokenizer = model.tokenizer
    ids = np.array([-1 if (found := tokenizer.token_to_id(target)) is None else found for target in targets], dtype=np.int64)
    if (missing := np.flatnonzero(ids < 0)).size:
        words = [targets[index] for index in missing.tolist()]
        # Byte-level vocabularies hold most words with the space before them.
        read = tokenizer.encode([*words, *(f" {word}" for word in words)], add_special_tokens=False)
        single = np.diff(read.offsets) == 1
        first = np.full(len(single), -1, dtype=np.int64)
        first[single] = read.ids[read.offsets[:-1][single]]
        first[first == model.description.tokenizer.unk_token_id] = -1
        bare, spaced = first[: len(words)], first[len(words) :]
        ids[missing] = np.where(bare >= 0, bare, spaced)
    # A tokenizer may have more entries than the head has columns.
    bad = (ids < 0) | (ids >= model.masked_language_model.vocabulary_size)
    if bad.any():
        index = int(np.argmax(bad))
        raise HubwireError(
            Reason.TARGET_NOT_FOUND,
            f'"{targets[index]}" is not one token of the model "{model.name}"',
            field=f"options.targets[{index}]",
            metadata={"value": targets[index]},
            model=model.name,
        )
    return np.unique(ids).astype(np.int32)


def write_candidates(model: ReadyModel, batch: RaggedBatch, masks: Masks, ids: NDArray[np.int32]) -> tuple[list[str], list[str]]:
    """The candidates ids, shape (m, k), as text, and the sequences with each in its place: m * k of both, mask after mask.

    As the fill-mask pipeline writes them. Where a text has several masks, the pipeline keeps all special tokens so that the other masks
    stay visible; here those that the tokenizer put around the text are left out.
    """
    unique, inverse = np.unique(ids, return_inverse=True)
    entries = decode(model, unique.astype(np.int32), np.arange(len(unique) + 1), skip_special_tokens=False)
    stripped = np.array([entry.lstrip(" ") for entry in entries], dtype=object)
    alone = np.diff(masks.offsets)[masks.texts] == 1
    sequences = np.full(ids.shape, "", dtype=object)
    for chosen, skip_special_tokens in ((alone, True), (~alone, False)):
        if chosen.any():
            flat, offsets = _sequences(batch, masks.positions[chosen], masks.texts[chosen], ids[chosen], keep_added=skip_special_tokens)
            texts = decode(model, flat, offsets, skip_special_tokens=skip_special_tokens)
            sequences[chosen] = np.array(texts, dtype=object).reshape(-1, ids.shape[1])
    return stripped[inverse].ravel().tolist(), sequences.ravel().tolist()


def mask_spans(batch: RaggedBatch, masks: Masks, plan: FillMaskPlan) -> NDArray[np.uint32]:
    """The place of each mask in its text, shape (m, 2). Some tokenizers count the spaces before a mask as a part of it; this does not."""
    assert batch.spans is not None
    assert plan.reading.spans is not None
    spans = batch.spans[masks.positions]
    mask_token = plan.model.masked_language_model.mask_token
    width = {"code_point": len(mask_token), "utf8_byte": len(mask_token.encode()), "utf16_unit": len(mask_token.encode("utf-16-le")) // 2}
    size = np.minimum(width[plan.reading.spans], spans[:, 1])
    spans[:, 0] = np.maximum(spans[:, 0], spans[:, 1] - size)
    return spans


def _sequences(
    batch: RaggedBatch, positions: NDArray[np.int64], texts: NDArray[np.int64], ids: NDArray[np.int32], *, keep_added: bool
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The tokens of each mask's text with each of its candidates in place, and the offsets of these m * k rows. keep_added False leaves out
    the special tokens that the tokenizer added."""
    k = ids.shape[1]
    starts = np.repeat(batch.offsets[texts], k)
    lengths = np.repeat(np.diff(batch.offsets)[texts], k)
    offsets = offsets_of(lengths)
    source = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    flat = batch.ids[source]
    flat[offsets[:-1] + np.repeat(positions, k) - starts] = ids.ravel()
    if keep_added:
        return flat, offsets
    assert batch.special_tokens_mask is not None
    kept = ~batch.special_tokens_mask[source]
    return flat[kept], offsets_of(kept)[offsets]


def _check_answer_size(tokens: int, texts: int) -> None:
    """Raises HubwireError where the sequences of an answer would hold too many tokens."""
    if tokens > MAX_SEQUENCE_TOKENS:
        raise HubwireError(
            Reason.TOO_MANY_TEXTS,
            f"the texts with each token in place would have {tokens} tokens; the server answers with at most {MAX_SEQUENCE_TOKENS}: "
            "ask for a smaller top_k, or for fewer texts at once",
            field="texts",
            metadata={"count": str(texts), "limit": str(max(1, texts * MAX_SEQUENCE_TOKENS // tokens))},
        )
