"""The worker process: it loads models and computes batches, one after the other, for the front at the other end of a socket.

All of it runs in one thread, the engine's thread: a second thread that enters the engine's thread pool would slow both down.
It ends when the front closes the socket, and when the front is gone while a computation runs.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hubwire_server.backends.base import LoadOptions, RaggedBatch
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import ModelDescription, Task
from hubwire_server.workers import frames
from hubwire_server.workers.operations import Computed, Ragged
from hubwire_server.workers.spent import Spent

log = logging.getLogger("hubwire.worker")

PARENT_CHECK_SECONDS = 1.0


class WorkerModel(Protocol):
    """A model as the worker's loop uses it: that of model.py, or the fake of testing.py."""

    @property
    def description(self) -> ModelDescription:
        """What was loaded."""
        ...

    @property
    def tokenizer_json(self) -> str:
        """The tokenizer, for the front."""
        ...

    @property
    def spent(self) -> Spent:
        """Where the time of its computations went, up to now."""
        ...

    def compute(self, operation: str, option: str, batch: RaggedBatch, extra: Ragged | None) -> Computed:
        """Runs an operation (operations.py) on a batch. Raises HubwireError where some text has no answer."""
        ...

    def close(self) -> None:
        """Frees the model's memory."""
        ...


LoadModel = Callable[[Path, LoadOptions, Task], WorkerModel]


def serve(sock: socket.socket, load: LoadModel) -> None:
    """Answers frames until the front closes the socket."""
    models: dict[str, WorkerModel] = {}
    frames.send_frame(sock, frames.Hello(pid=os.getpid()))
    for message, arrays in frames.receive_frames(sock):
        match message:
            case frames.Forward():
                frames.send_frame(sock, *_forward(models, message, arrays))
            case frames.Load():
                answer = _load(models, message, load)
                _keep_from_collector()
                frames.send_frame(sock, *answer)
            case frames.Unload():
                if (model := models.pop(message.key, None)) is not None:
                    model.close()
                del model
                _keep_from_collector()
            case _:
                raise AssertionError(f"the front sent {type(message).__name__}. This is a bug.")


def _keep_from_collector() -> None:
    """Takes what is there now out of the search for garbage: an engine is hundreds of thousands of objects, and a batch would wait."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _load(models: dict[str, WorkerModel], message: frames.Load, load: LoadModel) -> tuple[frames.AnyMessage, list[NDArray[Any]]]:
    spec = message.spec
    options = LoadOptions(
        device=spec.device,
        backend=spec.backend,
        dtype=spec.dtype,
        threads=spec.threads,
        cache_dir=Path(spec.cache_dir) if spec.cache_dir else None,
        allow_pickle=spec.allow_pickle,
        allow_remote_code=spec.allow_remote_code,
        pipeline_task=spec.pipeline_task,
    )
    try:
        model = load(Path(spec.path), options, spec.task)
    except HubwireError as error:
        return frames.LoadFailed(key=spec.key, reason=error.reason, text=error.message), []
    except Exception:
        log.exception("loading %s failed", spec.key)
        text = "the model could not be loaded; the server's log says why"
        return frames.LoadFailed(key=spec.key, reason=Reason.MODEL_LOAD_FAILED, text=text), []
    models[spec.key] = model
    tokenizer = np.frombuffer(model.tokenizer_json.encode(), dtype=np.uint8)
    return frames.Loaded(key=spec.key, description=model.description), [tokenizer]


def _forward(
    models: dict[str, WorkerModel], message: frames.Forward, arrays: list[NDArray[Any]]
) -> tuple[frames.AnyMessage, list[NDArray[Any]]]:
    start = time.perf_counter_ns()
    batch = RaggedBatch(*arrays[:3])
    extra = Ragged(*arrays[3:]) if len(arrays) > 3 else None
    count = len(batch.offsets) - 1
    failures: list[frames.ItemFailure] = []
    try:
        model = models[message.model]
        spent = model.spent
        forward_ns, pool_ns = spent.forward_ns, spent.pool_ns
        try:
            output = model.compute(message.operation, message.option, batch, extra)
        except Exception as error:
            if not isinstance(error, HubwireError):
                log.exception("a batch of %d texts failed; each is tried alone", count)
            output, failures = _compute_alone(model, message, batch, extra)
    except Exception:
        log.exception("a batch of %d texts failed", count)
        return frames.BatchFailed(batch=message.batch, reason=Reason.INTERNAL, text="the computation failed"), []
    computed = frames.Computed(
        batch=message.batch,
        compute_ns=time.perf_counter_ns() - start,
        forward_ns=spent.forward_ns - forward_ns,
        pool_ns=spent.pool_ns - pool_ns,
        ragged=output.offsets is not None,
        failures=tuple(failures),
    )
    return computed, [*output.arrays] if output.offsets is None else [output.offsets, *output.arrays]


def _compute_alone(
    model: WorkerModel, message: frames.Forward, batch: RaggedBatch, extra: Ragged | None
) -> tuple[Computed, list[frames.ItemFailure]]:
    """One text at a time: a bad one must not spoil its neighbours, and there may be several. Failed texts have rows of zeros, or none where
    the output is ragged."""
    parts: list[Computed | None] = []
    failures = []
    for index in range(len(batch.offsets) - 1):
        low, high = batch.offsets[index], batch.offsets[index + 1]
        alone = RaggedBatch(batch.ids[low:high], batch.type_ids[low:high], np.array([0, high - low], dtype=np.int64))
        try:
            own = None if extra is None else Ragged(extra.text(index), np.array([0, len(extra.text(index))], dtype=np.int64))
            parts.append(model.compute(message.operation, message.option, alone, own))
        except HubwireError as error:
            parts.append(None)
            failures.append(frames.ItemFailure(index, error.reason, error.message))
        except Exception:
            log.exception("a text of %d tokens failed", high - low)
            parts.append(None)
            failures.append(frames.ItemFailure(index, Reason.INTERNAL, "the computation failed"))
    return _joined(parts), failures


def _joined(parts: Sequence[Computed | None]) -> Computed:
    """The outputs of single texts as one."""
    form = next((part for part in parts if part is not None), None)
    if form is None:
        return Computed((), None)
    rows = 0 if form.offsets is not None else 1
    empty = tuple(np.zeros((rows, *array.shape[1:]), array.dtype) for array in form.arrays)
    filled = [empty if part is None else part.arrays for part in parts]
    arrays = tuple(map(np.concatenate, zip(*filled, strict=True)))
    if form.offsets is None:
        return Computed(arrays)
    counts = [len(part[0]) for part in filled]
    return Computed(arrays, np.array([0, *accumulate(counts)], dtype=np.int64))


def end_with_parent() -> None:
    """Ends this process soon after its parent has gone, also while a computation runs that would never notice."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def run(argv: list[str], load: LoadModel) -> int:
    """Serves on the socket whose descriptor the command line names."""
    parser = argparse.ArgumentParser(prog="hubwire-worker", description="Started by the server, not by hand.")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--log-level", default="INFO")
    args = parser.parse_args(argv)
    logging.basicConfig(level=args.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    end_with_parent()
    with socket.socket(fileno=args.fd) as sock:
        try:
            serve(sock, load)
        except (BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
            return 1
    # Taking an engine apart takes seconds and serves nobody.
    logging.shutdown()
    os._exit(0)


def main() -> int:
    """The worker with the real backends."""
    from hubwire_server.workers.model import load

    return run(sys.argv[1:], load)


if __name__ == "__main__":
    sys.exit(main())
