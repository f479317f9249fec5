"""Exporting the body of a model into a folder that OnnxBackend opens: the graph, what is known of the model, and the probe.

Only a start without a warm cache comes here, as with export.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hubwire_server.backends.onnx.backend import OnnxBackend
from hubwire_server.backends.onnx.check import MAX_DIFFERENCE, probe_difference, probe_lengths, read_probe, write_probe
from hubwire_server.backends.onnx.export import export_model, quantize
from hubwire_server.backends.onnx.info import ExportError, OnnxInfo, read_info, write_info
from hubwire_server.backends.onnx.session import SessionOptions
from hubwire_server.backends.torch.check import random_texts
from hubwire_server.backends.torch.model import max_tokens
from hubwire_server.backends.torch.packed import takes_type_ids, vocabulary_size
from hubwire_server.backends.torch.padded import PaddedEncoder, pad_id

MAX_EXPORT_BYTES = 2**31
"""A model with more weights than this stays on torch: exporting would hold several copies of them, and its matrices are so large that torch
multiplies them as fast as the hardware can."""


def export_body(body: Any, folder: Path, *, weights: Path, threads: int) -> None:
    """Exports a body of transformers in float32, loaded from the folder weights, and compares the export with torch, one text at a time.

    Raises ExportError where it cannot be exported or differs, OSError where the disk is full.
    """
    size = sum(parameter.numel() * parameter.element_size() for parameter in body.parameters())
    if size > MAX_EXPORT_BYTES:
        raise ExportError(f"its weights have {size / 1e9:.1f} GB, and models above {MAX_EXPORT_BYTES / 1e9:.1f} GB are not exported")
    export_model(body, folder, weights=weights)
    limit = max_tokens(body)
    probe = random_texts(body, probe_lengths(getattr(body.config, "sliding_window", None), limit), limit)
    with torch.inference_mode():
        hidden = PaddedEncoder(body, pad=False).forward_ragged(probe).numpy()
    info = OnnxInfo(
        architecture=type(body).__name__,
        hidden_size=hidden.shape[1],
        max_tokens=limit,
        vocabulary_size=vocabulary_size(body),
        pad_id=pad_id(body),
        takes_type_ids=takes_type_ids(body),
    )
    write_info(folder, info)
    write_probe(folder, probe, hidden)
    backend = OnnxBackend(folder, info, SessionOptions(threads=threads))
    difference = probe_difference(backend, folder)
    backend.close()
    if not difference <= MAX_DIFFERENCE:
        raise ExportError(f"the exported graph differs from torch by {difference:.1e} standard deviations")


def quantize_body(exported: Path, folder: Path, *, threads: int) -> None:
    """Makes an export in int8 out of one in float32. Its probe holds its own hidden states, so that a later start finds it as it is now.

    Raises ExportError, and OSError where the disk is full.
    """
    quantize(exported, folder)
    backend = OnnxBackend(folder, read_info(folder), SessionOptions(threads=threads))
    probe, _ = read_probe(folder)
    write_probe(folder, probe, backend.forward(probe)[0].copy())
    backend.close()
