"""A pipeline as the worker's loop uses it, and the entry of the worker process that pipelines have to themselves.

The one operation is "pipeline". A batch is one input: its payload is in extra, it has no tokens, and the answer, or its error, is a payload
too (pipelines.py). So a bad input is computed once, and not again alone as texts of a batch are.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from hubwire_server.backends.base import LoadOptions, RaggedBatch
from hubwire_server.errors import HubwireError
from hubwire_server.models.description import ModelDescription, PipelineDetails, Task, TokenizerDetails
from hubwire_server.pipelines import Payload, Refused, read_call, to_payload
from hubwire_server.workers import main as worker_main
from hubwire_server.workers.operations import Computed, Ragged
from hubwire_server.workers.spent import Spent

MAX_TEXT = 4_000
"""Of an error: pipelines put much into some."""


class PipelineModel:
    """See workers.main.WorkerModel."""

    def __init__(self, path: Path, options: LoadOptions) -> None:
        # Here, since importing torch takes seconds, and the front waits for the worker to say that it is there.
        from hubwire_server.backends.pipeline.loading import load_pipeline
        from hubwire_server.backends.pipeline.running import Runner

        loaded = load_pipeline(path, options.pipeline_task, options)
        self._runner: Runner | None = Runner(loaded)
        self.spent = Spent()
        self.tokenizer_json = ""
        self.description = ModelDescription(
            fingerprint=loaded.fingerprint,
            task=Task.PIPELINE,
            architecture=loaded.architecture,
            backend="torch",
            device=loaded.device,
            dtype=loaded.dtype,
            packed=False,
            packed_note="a pipeline pads as it likes",
            candidates=(),
            max_tokens=0,
            tokenizer=TokenizerDetails(special_ids=()),
            pipeline=PipelineDetails(pipeline_task=loaded.task),
        )

    def compute(self, operation: str, option: str, batch: RaggedBatch, extra: Ragged | None) -> Computed:
        """See WorkerModel."""
        if operation != "pipeline" or extra is None:
            raise AssertionError(f"a pipeline does not compute {operation!r}. This is a bug.")
        answers = [self._run(extra.text(index)) for index in range(len(batch.offsets) - 1)]
        return Computed((np.concatenate(answers),), np.cumsum([0, *map(len, answers)], dtype=np.int64))

    def close(self) -> None:
        """See WorkerModel."""
        self._runner = None

    def _run(self, payload: Payload) -> Payload:
        assert self._runner is not None
        start = time.perf_counter_ns()
        try:
            return to_payload(self._runner.run(read_call(payload)))
        except HubwireError as error:
            return to_payload(Refused(reason=error.reason, text=error.message[:MAX_TEXT]))
        finally:
            self.spent.forward_ns += time.perf_counter_ns() - start


def load(path: Path, options: LoadOptions, task: Task) -> PipelineModel:
    """Loads the model of a folder for a pipeline. Raises HubwireError as load_pipeline."""
    return PipelineModel(path, options)


if __name__ == "__main__":
    sys.exit(worker_main.run(sys.argv[1:], load))
