"""A model as the worker's loop uses it: a backend for the forward, and the operations of its task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hubwire_server.backends.base import Head, LoadOptions, RaggedBatch
from hubwire_server.backends.loading import LoadedModel, load_model
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import (
    BackendCandidate,
    ClassificationDetails,
    EmbeddingDetails,
    MaskedLanguageModelDetails,
    ModelDescription,
    Task,
    TokenizerDetails,
)
from hubwire_server.workers import operations
from hubwire_server.workers.operations import Computed, Engine, Operation, Ragged
from hubwire_server.workers.spent import Spent

HEADS: Mapping[Task, Head] = {
    Task.EMBEDDING: Head.BODY,
    Task.SPARSE_EMBEDDING: Head.MASKED_LM,
    Task.TEXT_CLASSIFICATION: Head.SEQUENCE_CLASSIFICATION,
    Task.ZERO_SHOT_CLASSIFICATION: Head.SEQUENCE_CLASSIFICATION,
    Task.TOKEN_CLASSIFICATION: Head.TOKEN_CLASSIFICATION,
    Task.QUESTION_ANSWERING: Head.QUESTION_ANSWERING,
    Task.FILL_MASK: Head.MASKED_LM,
    Task.RERANK: Head.SEQUENCE_CLASSIFICATION,
}
"""The head that each task needs."""


class Model:
    """See workers.main.WorkerModel."""

    def __init__(self, loaded: LoadedModel, task: Task, threads: int) -> None:
        self.spent = Spent()
        self._backend = loaded.backend
        self._engine = Engine(backend=loaded.backend, row_size=loaded.backend.description.row_size, threads=threads, spent=self.spent)
        self._operations = _operations(loaded)
        self._segments = loaded.tokenizer.segments
        self.tokenizer_json = loaded.tokenizer.json
        self.description = _describe(loaded, task)

    def compute(self, operation: str, option: str, batch: RaggedBatch, extra: Ragged | None) -> Computed:
        """See WorkerModel."""
        if not self._segments:
            batch = RaggedBatch(batch.ids, np.zeros_like(batch.type_ids), batch.offsets)
        return self._operations[operation](self._engine, option, batch, extra)

    def close(self) -> None:
        """See WorkerModel."""
        self._backend.close()


def load(path: Path, options: LoadOptions, task: Task) -> Model:
    """Loads the model of a folder for a task. Raises HubwireError as load_model."""
    model = Model(load_model(path, HEADS[task], options), task, options.threads)
    if not _fits(model.description):
        model.close()
        labels = ", ".join(model.description.classification.labels[:8]) if model.description.classification else ""
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the model cannot be served for {task}: its labels are {labels}")
    return model


def _fits(description: ModelDescription) -> bool:
    """Whether a classification head has the labels that its task needs."""
    head = description.classification
    if head is None:
        return True
    if description.task is Task.ZERO_SHOT_CLASSIFICATION:
        return head.entailment is not None and len(head.labels) > 1
    return description.task is not Task.RERANK or len(head.labels) <= 2


def _operations(loaded: LoadedModel) -> Mapping[str, Operation]:
    """What the head of a model computes, by name."""
    match loaded.backend.description.head:
        case Head.BODY:
            assert loaded.embedding_head is not None
            return {"pool": operations.pool(loaded.embedding_head), "tokens": operations.tokens}
        case Head.MASKED_LM:
            return operations.MASKED_LM
        case Head.SEQUENCE_CLASSIFICATION:
            return {"logits": operations.texts}
        case _:
            return {"logits": operations.tokens}


def _describe(loaded: LoadedModel, task: Task) -> ModelDescription:
    backend, tokenizer = loaded.backend.description, loaded.tokenizer
    embedding = classification = masked = None
    if (head := loaded.embedding_head) is not None:
        embedding = EmbeddingDetails(
            hidden_size=backend.row_size,
            dimensions=head.dimensions,
            pooling=head.pooling,
            pooling_fixed=head.pooling_fixed,
            normalize=head.normalize,
            include_prompt=head.include_prompt,
            prompts=head.prompts,
            default_prompt_name=head.default_prompt_name,
        )
    if backend.head in (Head.SEQUENCE_CLASSIFICATION, Head.TOKEN_CLASSIFICATION):
        classification = ClassificationDetails(labels=loaded.labels, problem_type=loaded.problem_type)
    if backend.head is Head.MASKED_LM:
        masked = MaskedLanguageModelDetails(mask_token=tokenizer.mask_token, vocabulary_size=backend.row_size)
    return ModelDescription(
        fingerprint=loaded.fingerprint,
        task=task,
        architecture=backend.architecture,
        backend=backend.backend,
        device=backend.device,
        dtype=backend.dtype,
        packed=backend.packed,
        packed_note=backend.packed_note,
        candidates=tuple(BackendCandidate(**dataclasses.asdict(candidate)) for candidate in loaded.candidates),
        max_tokens=loaded.max_tokens,
        tokenizer=TokenizerDetails(
            special_ids=tokenizer.special_ids,
            unk_token_id=tokenizer.unk_token_id,
            cls_token_id=tokenizer.cls_token_id,
            mask_token_id=tokenizer.mask_token_id,
            mask_token=tokenizer.mask_token,
            word_pieces=tokenizer.word_pieces,
            clean_up_spaces=tokenizer.clean_up_spaces,
        ),
        embedding=embedding,
        classification=classification,
        masked_language_model=masked,
    )
