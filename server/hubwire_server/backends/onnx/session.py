"""Opening an exported graph with ONNX Runtime.

Measured on two AVX2 cores with MiniLM: what the idle threads do is the one option that matters. Every other option of a session either
changed nothing (graph level, memory pattern, denormals) or made it slower (prepacking off, parallel execution, more threads than cores).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]  # it ships no types
from numpy.typing import NDArray

from hubwire_server.backends.onnx.info import why
from hubwire_server.errors import HubwireError, Reason

GRAPH = "graph.onnx"

OWNED = "owned.json"
"""The list of the weights that a session has in memory of its own."""

Spinning = Literal["default", "stop", "none"]

_QUIET = 4
"""ONNX Runtime's severity FATAL. Its warnings are about graphs, for those who write exporters, and its errors are raised as well: logging
them, too, would fill a log with those that are handled, such as that of a batch that is too large for the memory.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How a session computes. One run at a time: two runs in one session with several threads are slower than one after the other."""

    threads: int = 1
    spinning: Spinning = "stop"
    """What the threads do when a run has ended: "default" spins for some 40 ms, which takes a core from everybody else; "stop" spins
    during a run alone; "none" never does, so that every part of a run wakes them up.
    """
    affinity: bool = False
    """Ties each thread to a core of its own, the caller's during its runs (cores). Without it a thread that was asleep may wake up on the
    core on which the caller spins, and wait there until its time is up: 9 instead of 3.5 ms for a short text after a pause of 25 ms.
    """


class OwnedWeight(msgspec.Struct, frozen=True):
    """A float32 weight of the graph that lies in the model's own file, from offset on, and that a session reads at every run.

    ONNX Runtime would leave it mapped from there. Then a file that is written to would change vectors, and one that is cut would end the
    process. Matrices are none of these: what ONNX Runtime keeps of them is transposed and packed.
    """

    name: str
    file: str
    offset: int
    shape: tuple[int, ...]


def open_session(folder: Path, options: SessionOptions) -> ort.InferenceSession:
    """A session for the graph of a folder. Raises HubwireError (MODEL_LOAD_FAILED) with one line on what is wrong."""
    ort.set_default_logger_severity(_QUIET)
    settings = ort.SessionOptions()
    settings.log_severity_level = _QUIET
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    for name, value in _entries(options).items():
        settings.add_session_config_entry(name, value)
    try:
        weights = _read_owned(folder)
        settings.add_external_initializers(list(weights), [ort.OrtValue.ortvalue_from_numpy(each) for each in weights.values()])
        session = ort.InferenceSession(str(folder / GRAPH), settings, providers=["CPUExecutionProvider"])
        # Has copied the weights, so that they are let go of here. A fallback would make the session again, from what is gone by then.
        session.disable_fallback()
        return session
    except Exception as error:
        # ONNX Runtime's exceptions share no base class but this one, and any of them means that the folder is of no use.
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"ONNX Runtime cannot open the exported model: {why(error, folder)}") from error


def cores(options: SessionOptions) -> list[int]:
    """The core of each thread, the caller's first. None where the options want none, and where this process may use more cores than there
    are threads, since others would tie their threads to the same ones.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return allowed if options.affinity and 1 < options.threads == len(allowed) else []


def run_options(*, trim_memory: bool = False) -> Any:
    """The options of a run, which may be used again and again. With trim_memory the run gives the memory that it needed back at its end."""
    options = ort.RunOptions()
    options.log_severity_level = _QUIET
    if trim_memory:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _read_owned(folder: Path) -> dict[str, NDArray[np.float32]]:
    """The weights of OWNED by their names. Raises OSError, ValueError or MsgspecError where a file is missing or broken."""
    weights = msgspec.json.decode((folder / OWNED).read_bytes(), type=list[OwnedWeight])
    return {
        each.name: np.fromfile(folder / each.file, np.float32, math.prod(each.shape), offset=each.offset).reshape(each.shape)
        for each in weights
    }


def _entries(options: SessionOptions) -> dict[str, str]:
    entries = {}
    if options.spinning == "none":
        entries["session.intra_op.allow_spinning"] = "0"
    elif options.spinning == "stop":
        entries["session.force_spinning_stop"] = "1"
    if own := cores(options):
        # One for each thread but the caller's, which is none of ONNX Runtime's. It counts processors from 1.
        entries["session.intra_op_thread_affinities"] = ";".join(str(core + 1) for core in own[1:])
    return entries
