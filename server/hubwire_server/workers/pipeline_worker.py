"""How the worker process of pipelines is started. They have one to themselves, so that a slow one never holds up the other tasks, and its
end takes nothing else down."""

from __future__ import annotations

import dataclasses
import sys

from hubwire_server.workers.supervisor import WorkerOptions

COMMAND = (sys.executable, "-m", "hubwire_server.workers.pipeline_model")
HANG_FACTOR = 10
"""How much longer than a batch of texts an input of a pipeline may take: it may be a document to be summarized, or a long recording."""


def worker_options(worker: WorkerOptions) -> WorkerOptions:
    """How the pipeline worker is started and watched, after how the other one is."""
    return dataclasses.replace(worker, command=COMMAND, hang_timeout_s=HANG_FACTOR * worker.hang_timeout_s)
