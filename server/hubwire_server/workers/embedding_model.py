"""An embedding model as the worker's loop uses it: a backend for the forward, a head for what follows it."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubwire_server.backends.base import LoadOptions, RaggedBatch
from hubwire_server.backends.loading import LoadedEmbeddingModel, load_embedding_model
from hubwire_server.models.description import BackendCandidate, ModelDescription, Task
from hubwire_server.workers.spent import Spent


class EmbeddingModel:
    """See workers.main.WorkerModel."""

    def __init__(self, loaded: LoadedEmbeddingModel, threads: int) -> None:
        self._backend = loaded.backend
        self._head = loaded.head
        self._threads = threads
        self.spent = Spent()
        self.tokenizer_json = loaded.tokenizer_json
        backend, head = loaded.backend.description, loaded.head
        self.description = ModelDescription(
            fingerprint=loaded.fingerprint,
            task=Task.EMBEDDING,
            architecture=backend.architecture,
            backend=backend.backend,
            device=backend.device,
            dtype=backend.dtype,
            packed=backend.packed,
            packed_note=backend.packed_note,
            candidates=tuple(BackendCandidate(**dataclasses.asdict(candidate)) for candidate in loaded.candidates),
            hidden_size=backend.hidden_size,
            dimensions=head.dimensions,
            max_tokens=loaded.max_tokens,
            pooling=head.pooling,
            pooling_fixed=head.pooling_fixed,
            normalize=head.normalize,
            include_prompt=head.include_prompt,
            prompts=head.prompts,
            default_prompt_name=head.default_prompt_name,
            special_ids=loaded.special_ids,
        )

    def pool(self, batch: RaggedBatch, pooling: str, skip: NDArray[np.int64]) -> NDArray[np.float32]:
        """See WorkerModel."""
        hidden, dtype = self._forward(batch)
        start = time.perf_counter_ns()
        skip_or_none = skip if np.count_nonzero(skip) else None
        vectors = self._head.pool(hidden, dtype, batch.offsets, mode=pooling or None, skip=skip_or_none, threads=self._threads)
        self.spent.pool_ns += time.perf_counter_ns() - start
        return vectors

    def tokens(self, batch: RaggedBatch) -> NDArray[np.float32]:
        """See WorkerModel."""
        return _float32(*self._forward(batch))

    def close(self) -> None:
        """See WorkerModel."""
        self._backend.close()

    def _forward(self, batch: RaggedBatch) -> tuple[NDArray[Any], str]:
        start = time.perf_counter_ns()
        try:
            return self._backend.forward(batch)
        finally:
            self.spent.forward_ns += time.perf_counter_ns() - start


def load(path: Path, options: LoadOptions) -> EmbeddingModel:
    """Loads the model of a folder. Raises HubwireError as load_embedding_model."""
    return EmbeddingModel(load_embedding_model(path, options), options.threads)


def _float32(hidden: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """The values of an array of any of a backend's dtypes."""
    if dtype == "bfloat16":  # its 16 bits are the upper half of a float32
        return (hidden.astype(np.uint32) << 16).view(np.float32)
    return hidden.astype(np.float32, copy=False)
