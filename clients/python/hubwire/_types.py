"""The types that both clients take and give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from hubwire._names import PoolingName, TruncationSideName

Matrix = npt.NDArray[np.float32]
PackedMatrix = npt.NDArray[np.uint8]


class EmbedOptions(TypedDict, total=False):
    """The keyword arguments that `embed` and `stream_embed` share, `encoding` aside. Client.embed documents them."""

    model: str
    pooling: PoolingName | None
    normalize: bool | None
    truncate: bool | TruncationSideName | None
    max_tokens: int | None
    dimensions: int | None
    prompt_name: str | None
    prompt: str | None
    timeout_s: float | None


class StreamOptions(EmbedOptions, total=False):
    """The keyword arguments of `stream_embed`, `encoding` aside. Client.stream_embed documents them."""

    ordered: bool
    batch_size: int
    max_in_flight: int


# Arrays have no truth value, so a generated __eq__ would raise: two results are equal only where they are one object.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenEmbeddings:
    """The vectors of the t tokens of one text, special tokens included."""

    vectors: Matrix | PackedMatrix
    """(t, dimensions) float32, one row a token; with encoding="binary" (t, ceil(dimensions / 8)) uint8, one bit a value."""
    token_ids: npt.NDArray[np.int64]
    """(t,) the vocabulary number of each token."""
    spans: npt.NDArray[np.int64]
    """(t, 2) start and end of each token in its text, in code points as Python counts them: text[start:end]. 0 and 0 for special tokens."""
    special_tokens_mask: npt.NDArray[np.bool_]
    """(t,) True for each token that the tokenizer added ("[CLS]", "</s>", ...)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SparseVector:
    """The entries of a vector over the vocabulary that are not zero: n of `dimensions`."""

    indices: npt.NDArray[np.int64]
    """(n,) vocabulary numbers, ascending."""
    values: npt.NDArray[np.float32]
    """(n,) the weight of each, above 0."""
    tokens: tuple[str, ...]
    """The vocabulary's text of each; empty where it was not asked for."""
    dimensions: int
    """The size of the vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Classification:
    """The n labels of one text, the highest score first."""

    labels: tuple[str, ...]
    scores: npt.NDArray[np.float32]
    """(n,) the score of each label."""

    @property
    def label(self) -> str:
        """The label with the highest score."""
        return self.labels[0]

    @property
    def score(self) -> float:
        """The highest score."""
        return float(self.scores[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """A labelled part of a text: text[start:end]."""

    label: str
    score: float
    start: int
    """Where it begins, in code points as Python counts them. In words joined by single spaces, where words were given."""
    end: int
    text: str
    words: tuple[int, int] | None = None
    """The first of its words and the one after its last; None where a text was given, not words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A part of a context that answers a question: context[start:end]. An empty text with 0 and 0 says that there is no answer."""

    text: str
    score: float
    start: int
    """Where it begins, in code points as Python counts them."""
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAnswers:
    """The answers to one question, the highest score first. There may be none."""

    answers: tuple[Answer, ...]
    no_answer_score: float
    """The score of there being no answer; 0 for a model that cannot say so."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskPrediction:
    """The k tokens that fit one mask best, the most probable first."""

    start: int
    """Where the mask begins in its text, in code points as Python counts them."""
    end: int
    tokens: tuple[str, ...]
    token_ids: npt.NDArray[np.int64]
    """(k,) the vocabulary number of each token."""
    scores: npt.NDArray[np.float32]
    """(k,) the probability of each token."""
    sequences: tuple[str, ...]
    """The text with each token in place of this mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedDocument:
    """A document and how relevant it is."""

    index: int
    """Its place in the list that was ranked."""
    score: float
    document: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedText:
    """The t tokens of one text, or of one pair. With ids_only all but token_ids and token_count is empty."""

    token_ids: npt.NDArray[np.int64]
    """(t,) vocabulary numbers."""
    tokens: tuple[str, ...]
    """The entries of the vocabulary, as the tokenizer writes them ("##ing", "Ġthe")."""
    spans: npt.NDArray[np.int64]
    """(t, 2) start and end of each token in its own text, in code points as Python counts them: text[start:end]. 0 and 0 for special
    tokens.
    """
    special_tokens_mask: npt.NDArray[np.bool_]
    """(t,) True for each token that the tokenizer added."""
    type_ids: npt.NDArray[np.int64]
    """(t,) the segment number of each token."""
    sequence_ids: npt.NDArray[np.int64]
    """(t,) 0 for tokens of the text, 1 for those of its pair, -1 for special tokens."""
    token_count: int
    """How many tokens there were before truncation."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A file for a pipeline, or from one: an image, a sound, a mask."""

    data: bytes
    media_type: str = ""
    """What the bytes are, as "image/png". May be left out in an input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineTask:
    """A kind of pipeline that a server can load a model for."""

    name: str
    """As `load_model(pipeline_task=...)` takes it."""
    service: str
    """The typed service that serves it better, as "hubwire.v1.TextClassificationService"; "" where there is none."""
