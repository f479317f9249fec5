"""Entities from the logits of tokens, by the rules of the token-classification pipeline of transformers, on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hubwire_server._native import aggregate_entities
from hubwire_server.models.registry import ReadyModel
from hubwire_server.tasks.decoding import softmax
from hubwire_server.tasks.spans import convert_spans, follows_no_space, repeat_rows
from hubwire_server.tasks.texts import Tokenized

if TYPE_CHECKING:
    from hubwire_server._native import AggregationStrategy, OffsetUnit


class Entity(NamedTuple):
    """A labelled part of a text, from start to end in the unit of the request. words is the range of words that it covers, where the caller
    split them. A text may have thousands, and a frozen dataclass takes three times as long to make."""

    label: str
    score: float
    start: int
    end: int
    text: str
    words: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class LabelTable:
    """The labels of a model, each with its tag as a number and with whether it begins an entity, and the names of its entities.

    Labels of one tag ("B-PER", "I-PER", "PER") have one number. An entity is named by what follows the first hyphen of a label.
    """

    labels: tuple[str, ...]
    groups: tuple[str, ...]
    tags: NDArray[np.int32]
    begins: NDArray[np.bool_]

    def names(self, aggregation: AggregationStrategy) -> tuple[str, ...]:
        """What an entity is called, by the label of its first token."""
        return self.labels if aggregation == "none" else self.groups


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledTokens:
    """Rows of a batch with the logits of their tokens, shape (T, labels). sources, shape (rows,), counts the texts from 0."""

    logits: NDArray[np.float32]
    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sources: NDArray[np.int64]
    spans: NDArray[np.int64]
    """In code points of the text, or of the word where word_ids are there, shape (T, 2)."""
    special: NDArray[np.bool_]
    word_ids: NDArray[np.int32]

    @classmethod
    def of(cls, tokenized: Tokenized, logits: NDArray[np.float32], first: int, last: int) -> LabelledTokens:
        """The rows first to last, exclusive, of a batch with spans."""
        batch = tokenized.batch
        assert batch.spans is not None
        assert batch.special_tokens_mask is not None
        assert batch.word_ids is not None
        offsets = batch.offsets
        low, high = offsets[first], offsets[last]
        sources = batch.sources[first:last]
        return cls(
            logits=logits,
            ids=batch.ids[low:high],
            offsets=offsets[first : last + 1] - low,
            sources=sources - sources[0],
            spans=batch.spans[low:high].astype(np.int64),
            special=batch.special_tokens_mask[low:high],
            word_ids=batch.word_ids[low:high],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityRules:
    """How the tokens of a model become entities. ignored, shape (labels,), says by the label of its first token whether one is left out."""

    model: ReadyModel
    aggregation: AggregationStrategy
    table: LabelTable
    ignored: NDArray[np.bool_]
    offset_unit: OffsetUnit

    @classmethod
    def of(cls, model: ReadyModel, aggregation: AggregationStrategy, ignored: Sequence[str], offset_unit: OffsetUnit) -> EntityRules:
        """The rules of a request. What it ignores are the names under which it would see entities."""
        table = label_table(model.classification.labels)
        names = frozenset(ignored)
        mask = np.array([name in names for name in table.names(aggregation)], dtype=np.bool_)
        return cls(model=model, aggregation=aggregation, table=table, ignored=mask, offset_unit=offset_unit)


@lru_cache(maxsize=256)
def label_table(labels: tuple[str, ...]) -> LabelTable:
    """The table of some labels. A label that begins with neither "B-" nor "I-" goes on with what is before it, as in transformers."""
    tags = [label[2:] if label.startswith(("B-", "I-")) else label for label in labels]
    numbers = {tag: number for number, tag in enumerate(dict.fromkeys(tags))}
    return LabelTable(
        labels=labels,
        groups=tuple(label.split("-", 1)[-1] for label in labels),
        tags=np.array([numbers[tag] for tag in tags], dtype=np.int32),
        begins=np.array([label.startswith("B-") for label in labels], dtype=np.bool_),
    )


def find_entities(
    rules: EntityRules, texts: Sequence[str], tokens: LabelledTokens, words: Sequence[Sequence[str]] | None = None
) -> list[list[Entity]]:
    """The entities of each text. words is those of each where the caller split them; texts then holds them joined by single spaces.

    What the rules ignore is left out before windows are joined, as in transformers.
    """
    spans = tokens.spans if words is None else tokens.spans + _word_starts(words, tokens)[:, None]
    table = rules.table
    found = aggregate_entities(
        softmax(tokens.logits),
        tokens.offsets,
        ~tokens.special,
        _continues_word(rules.model, texts, tokens, spans),
        table.tags,
        table.begins,
        strategy=rules.aggregation,
    )
    kept = np.flatnonzero(~rules.ignored[found.labels])
    sources = tokens.sources[found.rows[kept]]
    places = np.stack([spans[found.first[kept], 0], spans[found.last[kept], 1]], axis=1)
    if len(tokens.sources) > len(texts):
        order = _join_windows(tokens.sources, sources, places, found.scores[kept])
        kept, sources, places = kept[order], sources[order], places[order]
    first, last = tokens.word_ids[found.first[kept]], tokens.word_ids[found.last[kept]] + 1
    covered = list(zip(first.tolist(), last.tolist(), strict=True)) if words is not None else [None] * len(kept)
    labels, scores = found.labels[kept].tolist(), found.scores[kept].tolist()
    names = rules.table.names(rules.aggregation)
    entities: list[list[Entity]] = [[] for _ in texts]
    bounds = [*np.flatnonzero(np.diff(sources, prepend=-1)).tolist(), len(kept)]
    for low, high in pairwise(bounds):
        source = int(sources[low])
        text, own = texts[source], places[low:high]
        values = zip(
            labels[low:high],
            scores[low:high],
            own.tolist(),
            convert_spans(text, own, rules.offset_unit).tolist(),
            covered[low:high],
            strict=True,
        )
        entities[source] = [
            Entity(names[label], score, start, end, text[low:high], range_) for label, score, (low, high), (start, end), range_ in values
        ]
    return entities


def _word_starts(words: Sequence[Sequence[str]], tokens: LabelledTokens) -> NDArray[np.int64]:
    """Where in its text the word of each token begins, shape (T,); anything for special tokens."""
    lengths = np.array([len(word) + 1 for text in words for word in text], dtype=np.int64)
    counts = np.array([len(text) for text in words])
    first_word = np.cumsum(counts) - counts
    begins = np.cumsum(lengths) - lengths
    begins -= np.repeat(begins[first_word], counts)
    own_first = repeat_rows(first_word[tokens.sources], tokens.offsets)
    starts: NDArray[np.int64] = begins[own_first + np.maximum(tokens.word_ids, 0)]
    return starts


def _continues_word(model: ReadyModel, texts: Sequence[str], tokens: LabelledTokens, spans: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each token is a later part of a word, by the rules of gather_pre_entities in the pipeline of transformers, shape (T,)."""
    details = model.description.tokenizer
    if details.word_pieces:
        subword = model.tokenizer.token_lengths()[tokens.ids] != spans[:, 1] - spans[:, 0]
    else:
        subword = follows_no_space(texts, repeat_rows(tokens.sources, tokens.offsets), spans[:, 0])
    result: NDArray[np.bool_] = subword & (tokens.ids != details.unk_token_id)
    return result


def _join_windows(
    sources_of_rows: NDArray[np.int64], sources: NDArray[np.int64], places: NDArray[np.int64], scores: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Which entities stay, in the order of their texts and places, where windows overlap.

    As aggregate_overlapping_entities in transformers: of two that overlap the longer one stays, of equally long ones the more certain one.
    A text of one window keeps the order and all of its entities.
    """
    several = np.bincount(sources_of_rows) > 1
    order = np.lexsort((np.where(several[sources], places[:, 0], 0), sources))
    values = zip(order.tolist(), sources[order].tolist(), places[order].tolist(), scores[order].tolist(), strict=True)
    stay: list[int] = []
    before: tuple[int, int, int, float] | None = None
    """The text, start, end and score of the last that stays."""
    for index, source, (start, end), score in values:
        if before is not None and several[source] and source == before[0] and before[1] <= start < before[2]:
            if (end - start, score) > (before[2] - before[1], before[3]):
                stay[-1] = index
                before = (source, start, end, score)
        else:
            stay.append(index)
            before = (source, start, end, score)
    return np.array(stay, dtype=np.int64)
