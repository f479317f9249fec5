"""The check of an exported model: does it give what torch gave when it was exported, on this machine and with these session options?

At export torch runs a few texts of random tokens, one at a time and in float32. They and what its head gives of them are stored beside the
graph, and the graph is run on them whenever it is opened, so that neither a broken file, nor another kernel of another processor, nor an
exporter that lost the mask stays unseen. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hubwire_server.backends.base import Head, RaggedBatch
from hubwire_server.backends.onnx.info import why
from hubwire_server.backends.rows import Rows, count, texts_of
from hubwire_server.errors import HubwireError, Reason

PROBE = "probe.npz"

LENGTHS = (7, 23, 2, 41, 8, 23, 38, 7)
"""Tokens of the texts of the probe: the micro-batches that they are cut into are (2), (7, 7, 8), (23, 23) and (38, 41), so there are texts
that run alone, equal ones, and padded ones.
"""

MAX_WINDOW = 1024
"""A model with a sliding window up to this gets one more text that is longer than the window, as in torch/check.py."""

MAX_DIFFERENCE = 3e-4
"""The largest difference allowed to torch, in root mean squares of the output, as in torch/check.py. Measured: 1e-6 to 3e-5; a graph that
lost its mask differs by more than 0.1.
"""

INDEPENDENCE = 1e-5
"""The largest move allowed of a text whose neighbours change, as in torch/check.py. Measured: 0."""


class Runnable(Protocol):
    """A way to run a model."""

    def forward(self, batch: RaggedBatch, rows: Rows = None) -> tuple[NDArray[Any], str]:
        """The output of the model's head, and its dtype (base.py)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Texts, the tokens of them that are looked at, and torch's output for these, shape (rows, row_size)."""

    head: Head
    batch: RaggedBatch
    rows: Rows
    output: NDArray[np.float32]

    def with_output(self, output: NDArray[np.float32]) -> Probe:
        """The same texts with another output."""
        return replace(self, output=output)


def probe_lengths(window: Any, max_tokens: int) -> Sequence[int]:
    """Tokens of the texts of a probe, for a model with this sliding window, or with None, that reads texts of max_tokens."""
    if isinstance(window, int) and window <= min(MAX_WINDOW, max_tokens - 9):
        return (*LENGTHS, window + 9)
    return LENGTHS


def write_probe(folder: Path, probe: Probe) -> None:
    """Stores a probe in the folder of an export. Raises OSError."""
    batch, output, rows = probe.batch, probe.output, probe.rows
    expected = count(probe.head, batch, rows)
    if output.dtype != np.float32 or output.ndim != 2 or len(output) != expected:
        raise ValueError(f"an output in {output.dtype} of shape {output.shape} for {expected} rows")
    arrays = {"ids": batch.ids, "type_ids": batch.type_ids, "offsets": batch.offsets, "output": output}
    if rows is not None:
        arrays["rows"] = rows
    np.savez(folder / PROBE, head=np.array(str(probe.head)), **arrays)  # type: ignore[arg-type]  # its names may not be allow_pickle


def read_probe(folder: Path) -> Probe:
    """What write_probe stored. Raises HubwireError (MODEL_LOAD_FAILED) where it is missing or broken."""
    try:
        with (folder / PROBE).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            batch = RaggedBatch(ids=arrays["ids"], type_ids=arrays["type_ids"], offsets=arrays["offsets"])
            rows = arrays.get("rows")
            return Probe(head=Head(arrays["head"].item()), batch=batch, rows=rows, output=arrays["output"])
    except Exception as error:
        # zipfile, zlib and numpy each have exceptions of their own for a file that is cut or changed.
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"the exported model's {PROBE} cannot be read: {why(error, folder)}") from error


def probe_difference(backend: Runnable, folder: Path) -> float:
    """The largest difference of a backend to the probe of its folder, in root mean squares of the probe. Infinite where its output has
    another shape or is not finite, and where a text moves with its neighbours by more than INDEPENDENCE.

    The caller compares it with MAX_DIFFERENCE; int8 is far above that, and what it costs is for cosines to say. Raises HubwireError
    (MODEL_LOAD_FAILED) where the backend fails on these texts, and what read_probe raises.
    """
    probe = read_probe(folder)
    batch, expected = probe.batch, probe.output
    output = _run(backend, batch, probe.rows)
    if output.shape != expected.shape or not np.isfinite(output).all():
        return math.inf
    scale = max(float(np.sqrt(np.square(expected).mean())), 1e-12)
    moved = _run(backend, _with_other_neighbours(batch), probe.rows)
    kept = _keeps(batch)[texts_of(probe.head, batch, probe.rows)]
    move = float(np.abs(moved[kept] - output[kept]).max()) / scale
    if not move <= INDEPENDENCE:  # not, so that NaN is a move
        return math.inf
    return float(np.abs(output - expected).max()) / scale


def _run(backend: Runnable, batch: RaggedBatch, rows: Rows) -> NDArray[Any]:
    try:
        return backend.forward(batch, rows)[0].copy()  # it is valid until the next call only
    except HubwireError:
        raise
    except Exception as error:
        # A graph that only runs on texts like those that it was traced with fails in ways of its own (mixtures of experts).
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"the exported model fails on texts of random tokens: {line[:300]}") from error


def _keeps(batch: RaggedBatch) -> NDArray[np.bool_]:
    """Which texts keep their tokens where their neighbours change. Sorted by length, every other one does, so that each micro-batch of
    several texts holds both kinds.
    """
    rank = np.argsort(np.argsort(np.diff(batch.offsets), kind="stable"))
    kept: NDArray[np.bool_] = rank % 2 == 0
    return kept


def _with_other_neighbours(batch: RaggedBatch) -> RaggedBatch:
    """The same batch, with the tokens in reverse order of the texts that _keeps does not keep, all but the last one, which a head may look
    for.
    """
    ids = batch.ids.copy()
    for text in np.flatnonzero(~_keeps(batch)).tolist():
        start, stop = batch.offsets[text], batch.offsets[text + 1] - 1
        ids[start:stop] = batch.ids[start:stop][::-1]
    return RaggedBatch(ids=ids, type_ids=batch.type_ids, offsets=batch.offsets)
