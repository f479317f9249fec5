"""The check of an exported model: does it give what torch gave when it was exported, on this machine and with these session options?

At export torch runs a few texts of random tokens, one at a time and in float32. They are stored beside the graph, and the graph is run on
them whenever it is opened, so that neither a broken file, nor another kernel of another processor, nor an exporter that lost the mask stays
unseen. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hubwire_server.backends.base import RaggedBatch
from hubwire_server.backends.onnx.info import why
from hubwire_server.errors import HubwireError, Reason

PROBE = "probe.npz"

LENGTHS = (7, 23, 2, 41, 8, 23, 38, 7)
"""Tokens of the texts of the probe: the micro-batches that they are cut into are (2), (7, 7, 8), (23, 23) and (38, 41), so there are texts
that run alone, equal ones, and padded ones.
"""

MAX_WINDOW = 1024
"""A model with a sliding window up to this gets one more text that is longer than the window, as in torch/check.py."""

MAX_DIFFERENCE = 3e-4
"""The largest difference allowed to torch, in standard deviations of the hidden states, as in torch/check.py. Measured: 1e-6 to 3e-5; a
graph that lost its mask differs by more than 0.1.
"""

INDEPENDENCE = 1e-5
"""The largest move allowed of a text whose neighbours change, as in torch/check.py. Measured: 0."""


class Runnable(Protocol):
    """A way to run a model."""

    def forward(self, batch: RaggedBatch) -> tuple[NDArray[Any], str]:
        """The last hidden states of all tokens, shape (T, hidden_size), and their dtype."""
        ...


def probe_lengths(window: Any, max_tokens: int) -> Sequence[int]:
    """Tokens of the texts of a probe, for a model with this sliding window, or with None, that reads texts of max_tokens."""
    if isinstance(window, int) and window <= min(MAX_WINDOW, max_tokens - 9):
        return (*LENGTHS, window + 9)
    return LENGTHS


def write_probe(folder: Path, batch: RaggedBatch, hidden: NDArray[np.float32]) -> None:
    """Stores texts and torch's hidden states of them, shape (T, hidden_size), in the folder of an export. Raises OSError."""
    if hidden.dtype != np.float32 or hidden.ndim != 2 or len(hidden) != len(batch.ids):
        raise ValueError(f"hidden states in {hidden.dtype} of shape {hidden.shape} for {len(batch.ids)} tokens")
    np.savez(folder / PROBE, ids=batch.ids, type_ids=batch.type_ids, offsets=batch.offsets, hidden=hidden)


def read_probe(folder: Path) -> tuple[RaggedBatch, NDArray[np.float32]]:
    """What write_probe stored. Raises HubwireError (MODEL_LOAD_FAILED) where it is missing or broken."""
    try:
        with (folder / PROBE).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            batch = RaggedBatch(ids=arrays["ids"], type_ids=arrays["type_ids"], offsets=arrays["offsets"])
            return batch, arrays["hidden"]
    except Exception as error:
        # zipfile, zlib and numpy each have exceptions of their own for a file that is cut or changed.
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"the exported model's {PROBE} cannot be read: {why(error, folder)}") from error


def probe_difference(backend: Runnable, folder: Path) -> float:
    """The largest difference of a backend to the probe of its folder, in standard deviations of the hidden states. Infinite where its
    output has another shape or is not finite, and where a text moves with its neighbours by more than INDEPENDENCE.

    The caller compares it with MAX_DIFFERENCE; int8 is far above that, and what it costs is for cosines to say. Raises HubwireError
    (MODEL_LOAD_FAILED) where the backend fails on these texts, and what read_probe raises.
    """
    batch, expected = read_probe(folder)
    hidden = _run(backend, batch)
    if hidden.shape != expected.shape or not np.isfinite(hidden).all():
        return math.inf
    scale = max(float(expected.std()), 1e-12)
    moved = _run(backend, _with_other_neighbours(batch))
    kept = np.repeat(_keeps(batch), np.diff(batch.offsets))
    move = float(np.abs(moved[kept] - hidden[kept]).max()) / scale
    if not move <= INDEPENDENCE:  # not, so that NaN is a move
        return math.inf
    return float(np.abs(hidden - expected).max()) / scale


def _run(backend: Runnable, batch: RaggedBatch) -> NDArray[Any]:
    try:
        return backend.forward(batch)[0].copy()  # it is valid until the next call only
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
    """The same batch, with the tokens in reverse order of the texts that _keeps does not keep."""
    ids = batch.ids.copy()
    for text in np.flatnonzero(~_keeps(batch)).tolist():
        start, stop = batch.offsets[text], batch.offsets[text + 1]
        ids[start:stop] = batch.ids[start:stop][::-1]
    return RaggedBatch(ids=ids, type_ids=batch.type_ids, offsets=batch.offsets)
