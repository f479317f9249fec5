"""The floor: tokenizers and ONNX Runtime in a loop, with no server around them.

    python -m benchmarks.load.bare FOLDER THREADS

FOLDER is what export.py wrote. Nothing that serves a text can take less than this loop on the same engine: it tokenizes, pads, runs, takes
the mean and normalizes. Many texts are sorted by length and run in batches of similar ones.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import workloads
from benchmarks.load.commands import answer_commands, own_output

MAX_PADDING = 0.2
"""The largest part of a batch that may be padding."""
BATCH_TOKENS = 768
BATCH_TEXTS = 64
"""Larger batches give a few percent on short texts and lose more on mixed ones, by their activations."""
MAX_TOKENS = 256


class BareLoop:
    """A session with its tokenizer."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(folder / "onnx/model.onnx"), options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def embed_one(self, text: str) -> NDArray[np.float32]:
        """The vector of a text, shape (1, dimensions)."""
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        return self._run(ids, np.ones_like(ids))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of many texts, shape (n, dimensions), in their order."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
        parts = []
        for batch in microbatches([len(rows[n]) for n in order]):
            chosen = [rows[n] for n in order[batch]]
            mask = (np.arange(len(chosen[-1])) < np.array([[len(row)] for row in chosen])).astype(np.int64)
            ids = np.zeros_like(mask)
            ids[mask == 1] = np.concatenate(chosen)
            parts.append(self._run(ids, mask))
        vectors = np.empty((len(rows), parts[0].shape[1]), dtype=np.float32)
        vectors[order] = np.concatenate(parts)
        return vectors

    def _run(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, feed)[0]
        pooled: NDArray[np.float32] = np.einsum("ntd,nt->nd", hidden, mask.astype(np.float32)) if mask.min() == 0 else hidden.sum(axis=1)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)  # the length takes care of the mean's divisor


def microbatches(lengths: Sequence[int]) -> Iterator[slice]:
    """Slices of lengths, which rise, within BATCH_TOKENS, BATCH_TEXTS and MAX_PADDING."""
    first = total = 0
    for last, length in enumerate(lengths):
        size = last - first + 1
        full = size > BATCH_TEXTS or size * length > BATCH_TOKENS or (total + length) < (1 - MAX_PADDING) * size * length
        if full and last > first:
            yield slice(first, last)
            first, total = last, 0
        total += length
    yield slice(first, len(lengths))


def one_by_one(embed_one: Any, texts: Sequence[str], count: int) -> dict[str, Any]:
    """Count texts, the given ones over and over, one after the other."""
    return at_rate(embed_one, texts, count, math.inf)


def at_rate(embed_one: Any, texts: Sequence[str], count: int, rate_per_s: float) -> dict[str, Any]:
    """An open loop without a server: text n is due at n / rate, and they wait for each other. Sending is when a text is taken up."""
    begins, latencies = [], []
    start = time.perf_counter()
    for number, text in enumerate(itertools.islice(itertools.cycle(texts), count)):
        due = start + number / rate_per_s
        while (now := time.perf_counter()) < due:
            time.sleep(due - now)
        embed_one(text)
        begins.append(now)
        latencies.append(time.perf_counter() - now)
    return {"begins_s": begins, "latencies_s": latencies}


def in_batches(embed: Any, texts: Sequence[str], count: int) -> dict[str, Any]:
    """Count texts, given at once, which is the best that any number of callers can hope for: they come back evenly over the time it
    took.
    """
    chosen = list(itertools.islice(itertools.cycle(texts), count))
    start = time.perf_counter()
    embed(chosen)
    each = (time.perf_counter() - start) / count
    return {"begins_s": [start + number * each for number in range(count)], "latencies_s": [each] * count}


def bulk(embed: Any, workload: str, count: int) -> dict[str, Any]:
    """The throughput over count texts given at once."""
    texts = workloads.texts(workload, count)
    start = time.perf_counter()
    embed(texts)
    return {"texts_per_s": count / (time.perf_counter() - start)}


def main() -> None:
    """Answers "one_by_one", "at_rate", "in_batches" and "vectors" commands."""
    output = own_output()
    import onnxruntime

    loop = BareLoop(Path(sys.argv[1]), int(sys.argv[2]))
    loop.embed(workloads.texts("mixed", 64))
    answer_commands(
        {"versions": {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__}},
        {
            "one_by_one": lambda texts, count: one_by_one(loop.embed_one, texts, count),
            "at_rate": lambda texts, count, rate_per_s: at_rate(loop.embed_one, texts, count, rate_per_s),
            "in_batches": lambda texts, count: in_batches(loop.embed, texts, count),
            "vectors": lambda texts: {"vectors": loop.embed(texts).tolist()},
        },
        output,
    )


if __name__ == "__main__":
    main()
