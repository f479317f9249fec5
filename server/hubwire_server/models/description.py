"""What the server knows of a model that a worker has loaded."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Task(StrEnum):
    """What a model is served for."""

    EMBEDDING = "embedding"


class BackendCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A way in which a model could run: see hubwire.v1.BackendCandidate."""

    backend: str
    dtype: str
    chosen: bool
    cosine: float
    short_ns: int
    mixed_ns: int
    note: str


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded model. The fields that hubwire.v1.Model has too are documented there."""

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
    hidden_size: int
    """The size of a token's vector, before pooling and the modules after it."""
    dimensions: int
    max_tokens: int
    pooling: tuple[str, ...]
    """The model's own pooling modes, in the words of sentence-transformers; several are concatenated."""
    pooling_fixed: bool
    """Whether the modules after pooling fit the model's own pooling alone, so that a request cannot choose another."""
    normalize: bool
    include_prompt: bool
    """Whether the tokens of a prompt take part in pooling."""
    prompts: dict[str, str]
    default_prompt_name: str
    special_ids: tuple[int, ...]
    """The ids of all special tokens of the tokenizer."""


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


class LoadedModel(msgspec.Struct, frozen=True):
    """What a worker says of a model that it loaded. tokenizer_json is the form of the `tokenizers` library."""

    description: ModelDescription
    tokenizer_json: str
