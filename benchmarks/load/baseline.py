"""sentence-transformers without a server, at its default batch of 32: what a Python program does today, and what vectors must equal.

python -m benchmarks.load.baseline FOLDER THREADS
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.load import workloads
from benchmarks.load.bare import bulk
from benchmarks.load.commands import answer_commands, own_output

BATCH_TEXTS = 32


def main() -> None:
    """Answers "bulk" and "vectors" commands."""
    output = own_output()
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(int(sys.argv[2]))
    model = SentenceTransformer(str(Path(sys.argv[1])), device="cpu")

    def embed(texts: list[str]):  # type: ignore[no-untyped-def]  # an array of numpy, of which its own types say Any
        return model.encode(texts, batch_size=BATCH_TEXTS, show_progress_bar=False)

    embed(workloads.texts("mixed", 64))
    answer_commands(
        {"versions": {name: version(name) for name in ("sentence-transformers", "transformers", "torch")}},
        {
            "bulk": lambda workload, count: bulk(embed, workload, count),
            "vectors": lambda workload, count: {"vectors": embed(workloads.texts(workload, count)).tolist()},
        },
        output,
    )


if __name__ == "__main__":
    main()
