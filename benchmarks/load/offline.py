"""Hubwire's own backend without a server: the best throughput that the same engine reaches on texts that lie ready.

    python -m benchmarks.load.offline FOLDER OPTIONS_JSON

OPTIONS_JSON holds fields of hubwire_server.backends.base.LoadOptions. Texts are tokenized, sorted by length, run in calls of so many
tokens, pooled and normalized. How many tokens a call holds best is measured once, by "tune".
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import workloads
from benchmarks.load.bare import bulk
from benchmarks.load.commands import answer_commands, own_output

CALL_TOKENS = (192, 384, 768, 1536, 3072)
"""The sizes of a call that are tried."""
TUNE_ROUNDS = 3


class Offline:
    """A loaded model with its tokenizer. call_tokens is the size of a call to the backend."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        from hubwire_server._native import Tokenizer, convert
        from hubwire_server.backends.base import LoadOptions, RaggedBatch
        from hubwire_server.models.description import Task
        from hubwire_server.workers.model import load

        if "cache_dir" in options:
            options["cache_dir"] = Path(options["cache_dir"]).expanduser()
        self._model = load(folder, LoadOptions(**options), Task.EMBEDDING)
        self._tokenizer = Tokenizer(self._model.tokenizer_json)
        self._threads = options["threads"]
        self._convert, self._batch = convert, RaggedBatch
        self.call_tokens = CALL_TOKENS[-1]
        self.description = {"backend": self._model.description.backend, "dtype": self._model.description.dtype}

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """The vectors of texts, shape (n, dimensions), in their order."""
        limit = self._model.description.max_tokens
        batch = self._tokenizer.encode(texts, max_tokens=limit, threads=self._threads)
        lengths = np.diff(batch.offsets)
        order = np.argsort(lengths, kind="stable")
        parts = [self._call(batch, order[part]) for part in self._calls(lengths[order])]
        vectors = np.empty((len(texts), parts[0].shape[1]), dtype=np.float32)
        vectors[order] = np.concatenate(parts)
        return vectors

    def _call(self, batch: Any, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        spans = [slice(batch.offsets[n], batch.offsets[n + 1]) for n in chosen]
        offsets = np.zeros(len(chosen) + 1, dtype=np.int64)
        np.cumsum(np.diff(batch.offsets)[chosen], out=offsets[1:])
        ragged = self._batch(
            np.concatenate([batch.ids[span] for span in spans]), np.concatenate([batch.type_ids[span] for span in spans]), offsets
        )
        pooled = self._model.compute("pool", "", ragged, None).arrays[0]
        return self._convert(pooled, normalize=self._model.description.embedding.normalize)[0]

    def _calls(self, lengths: NDArray[np.int64]) -> list[slice]:
        first, parts = 0, []
        ends = np.cumsum(lengths)
        while first < len(lengths):
            done = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, done + self.call_tokens, side="right")))
            parts.append(slice(first, last))
            first = last
        return parts

    def tune(self, workload: str, count: int) -> dict[str, Any]:
        """Finds the best size of a call for a workload, and keeps it."""
        rates: dict[int, list[float]] = {tokens: [] for tokens in CALL_TOKENS}
        for _ in range(TUNE_ROUNDS):
            for self.call_tokens in CALL_TOKENS:
                rates[self.call_tokens].append(bulk(self.embed, workload, count)["texts_per_s"])
        medians = {tokens: statistics.median(values) for tokens, values in rates.items()}
        self.call_tokens = max(medians, key=lambda tokens: medians[tokens])
        return {"call_tokens": self.call_tokens, "texts_per_s": medians}


def main() -> None:
    """Answers "tune", "bulk" and "vectors" commands."""
    output = own_output()
    start = time.perf_counter()
    offline = Offline(Path(sys.argv[1]), json.loads(sys.argv[2]))
    ready = offline.description | {"load_s": time.perf_counter() - start}
    offline.embed(workloads.texts("mixed", 64))

    def measure(workload: str, count: int, call_tokens: int) -> dict[str, Any]:
        offline.call_tokens = call_tokens
        return bulk(offline.embed, workload, count)

    answer_commands(
        ready,
        {
            "tune": offline.tune,
            "bulk": measure,
            "vectors": lambda workload, count: {"vectors": offline.embed(workloads.texts(workload, count)).tolist()},
        },
        output,
    )


if __name__ == "__main__":
    main()
