"""What the server knows of a model that a worker has loaded."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Task(StrEnum):
    """What a model is served for."""

    EMBEDDING = "embedding"
    SPARSE_EMBEDDING = "sparse_embedding"
    TEXT_CLASSIFICATION = "text_classification"
    ZERO_SHOT_CLASSIFICATION = "zero_shot_classification"
    TOKEN_CLASSIFICATION = "token_classification"
    QUESTION_ANSWERING = "question_answering"
    FILL_MASK = "fill_mask"
    RERANK = "rerank"
    PIPELINE = "pipeline"


class BackendCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A way in which a model could run: see hubwire.v1.BackendCandidate."""

    backend: str
    dtype: str
    chosen: bool
    cosine: float
    short_ns: int
    mixed_ns: int
    note: str


class TokenizerDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What the front must know of a tokenizer besides its JSON form. An id is -1 where there is no such token."""

    special_ids: tuple[int, ...]
    """The ids of all special tokens of the tokenizer."""
    unk_token_id: int = -1
    cls_token_id: int = -1
    mask_token_id: int = -1
    mask_token: str = ""
    word_pieces: bool = False
    """Whether the vocabulary marks the tokens that continue a word, which is how transformers tells them apart where it can."""
    clean_up_spaces: bool = False
    """Whether transformers takes the spaces before punctuation out of a decoded text (clean_up_tokenization_spaces)."""


class EmbeddingDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What only embedding models have. The fields that hubwire.v1.EmbeddingDetails has too are documented there."""

    hidden_size: int
    """The size of a token's vector, before pooling and the modules after it."""
    dimensions: int
    pooling: tuple[str, ...]
    """The model's own pooling modes, in the words of sentence-transformers; several are concatenated."""
    pooling_fixed: bool
    """Whether the modules after pooling fit the model's own pooling alone, so that a request cannot choose another."""
    normalize: bool
    include_prompt: bool
    """Whether the tokens of a prompt take part in pooling."""
    prompts: dict[str, str]
    default_prompt_name: str


class ClassificationDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What only models with a classification head have: see hubwire.v1.ClassificationDetails."""

    labels: tuple[str, ...]
    problem_type: str = ""

    @property
    def entailment(self) -> int | None:
        """The label that says that the first text entails the second, found by its name as in transformers; None where there is none."""
        return next((index for index, label in enumerate(self.labels) if label.lower().startswith("entail")), None)


class MaskedLanguageModelDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What only masked language models have: see hubwire.v1.MaskedLanguageModelDetails."""

    mask_token: str
    vocabulary_size: int


class PipelineDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What only models that a pipeline runs have: see hubwire.v1.PipelineDetails."""

    pipeline_task: str


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded model. The fields that hubwire.v1.Model has too are documented there. Of the details there are those of its task."""

    fingerprint: str
    task: Task
    architecture: str
    backend: str
    device: str
    dtype: str
    packed: bool
    packed_note: str
    candidates: tuple[BackendCandidate, ...]
    """How the backend and the number format were chosen; empty where there was nothing to choose."""
    max_tokens: int
    tokenizer: TokenizerDetails
    embedding: EmbeddingDetails | None = None
    classification: ClassificationDetails | None = None
    masked_language_model: MaskedLanguageModelDetails | None = None
    pipeline: PipelineDetails | None = None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Everything that the model serves: its task, then what else its head can do."""
        also: list[Task] = []
        if self.task in (Task.FILL_MASK, Task.SPARSE_EMBEDDING):
            also = [Task.FILL_MASK, Task.SPARSE_EMBEDDING]
        elif self.classification is not None and self.task is not Task.TOKEN_CLASSIFICATION:
            also.append(Task.TEXT_CLASSIFICATION)
            if self.classification.entailment is not None and len(self.classification.labels) > 1:
                also.append(Task.ZERO_SHOT_CLASSIFICATION)
            if len(self.classification.labels) <= 2:
                also.append(Task.RERANK)
        return (self.task, *(task for task in also if task is not self.task))


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told to load, and how: see backends.base.LoadOptions."""

    key: str
    """What tells this load of a model from any other, also from an earlier one of the same name."""
    path: str
    task: Task
    device: str
    backend: str
    dtype: str
    threads: int
    cache_dir: str
    """Empty for none."""
    allow_pickle: bool
    allow_remote_code: bool
    pipeline_task: str = ""
    """The pipeline of transformers that runs it; for Task.PIPELINE alone."""


class LoadedModel(msgspec.Struct, frozen=True):
    """What a worker says of a model that it loaded. tokenizer_json is the form of the `tokenizers` library; empty where it has none."""

    description: ModelDescription
    tokenizer_json: str
