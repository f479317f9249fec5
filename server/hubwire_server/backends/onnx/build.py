"""Exporting a model into a folder that OnnxBackend opens: the graph, what is known of the model, and the probe.

Only a start without a warm cache comes here, as with export.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hubwire_server.backends.base import Head
from hubwire_server.backends.onnx.backend import OnnxBackend
from hubwire_server.backends.onnx.check import MAX_DIFFERENCE, Probe, probe_difference, probe_lengths, read_probe, write_probe
from hubwire_server.backends.onnx.export import export_model, quantize
from hubwire_server.backends.onnx.info import ExportError, OnnxInfo, read_info, write_info
from hubwire_server.backends.onnx.session import SessionOptions
from hubwire_server.backends.rows import probe_rows
from hubwire_server.backends.torch.check import random_texts
from hubwire_server.backends.torch.model import max_tokens
from hubwire_server.backends.torch.packed import takes_type_ids, vocabulary_size
from hubwire_server.backends.torch.padded import PaddedEncoder, ends_with_eos, pad_id

MAX_EXPORT_BYTES = 2**31
"""A model with more weights than this stays on torch: exporting would hold several copies of them, and its matrices are so large that torch
multiplies them as fast as the hardware can."""


def build_export(model: Any, head: Head, folder: Path, *, weights: Path, threads: int) -> None:
    """Exports a model of transformers with this head in float32, loaded from the folder weights, and compares the export with torch, one
    text at a time.

    Raises ExportError where it cannot be exported or differs, OSError where the disk is full.
    """
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if size > MAX_EXPORT_BYTES:
        raise ExportError(f"its weights have {size / 1e9:.1f} GB, and models above {MAX_EXPORT_BYTES / 1e9:.1f} GB are not exported")
    export_model(model, folder, weights=weights, head=head)
    body = model if head is Head.BODY else model.base_model
    limit = max_tokens(body)
    batch = random_texts(model, probe_lengths(getattr(model.config, "sliding_window", None), limit), limit, head)
    rows = probe_rows(head, batch)
    with torch.inference_mode():
        output = PaddedEncoder(model, head, pad=False).forward_ragged(batch, rows).numpy()
    eos = ends_with_eos(model, head)
    info = OnnxInfo(
        architecture=type(model).__name__,
        head=head,
        row_size=output.shape[1],
        max_tokens=limit,
        vocabulary_size=vocabulary_size(body),
        pad_id=pad_id(body),
        takes_type_ids=takes_type_ids(body),
        eos_id=-1 if eos is None else eos,
    )
    write_info(folder, info)
    write_probe(folder, Probe(head=head, batch=batch, rows=rows, output=output))
    backend = OnnxBackend(folder, info, SessionOptions(threads=threads))
    difference = probe_difference(backend, folder)
    backend.close()
    if not difference <= MAX_DIFFERENCE:
        raise ExportError(f"the exported graph differs from torch by {difference:.1e} root mean squares")


def build_quantized(exported: Path, folder: Path, *, threads: int) -> None:
    """Makes an export in int8 out of one in float32. Its probe holds its own output, so that a later start finds it as it is now.

    Raises ExportError, and OSError where the disk is full.
    """
    quantize(exported, folder)
    backend = OnnxBackend(folder, read_info(folder), SessionOptions(threads=threads))
    probe = read_probe(folder)
    write_probe(folder, probe.with_output(backend.forward(probe.batch, probe.rows)[0].copy()))
    backend.close()
