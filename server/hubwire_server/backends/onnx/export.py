"""Exporting a model: the graph as torch traces it, its weights where they already are.

Only a start without a warm cache comes here: this file imports torch and onnx, and takes seconds.

The graph is traced with eager attention, by torch's legacy exporter and without folding constants: of all ways tried this one is right for
every family, and it leaves each weight as it stands in the checkpoint. So the graph's weights need no second copy (weights.py).

int8 is made of an exported model, not of the one in torch (quantize).
"""

from __future__ import annotations

import importlib
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import msgspec
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from hubwire_server.backends.onnx.check import PROBE
from hubwire_server.backends.onnx.info import INFO, ExportError, read_info, write_info
from hubwire_server.backends.onnx.session import GRAPH
from hubwire_server.backends.onnx.weights import load_graph, save_graph
from hubwire_server.backends.torch.packed import takes_type_ids

OPSET = 17

_SAMPLE_IDS = ((7, 8, 9, 10, 11, 12, 13), (14, 15, 16, 17, 0, 0, 0))
_SAMPLE_LENGTHS = (7, 4)


def export_model(model: torch.nn.Module, folder: Path, *, weights: Path, outputs: Sequence[str] = ("last_hidden_state",)) -> None:
    """Writes graph.onnx, and what it needs of weights, into a folder.

    model is one of transformers in float32 on the CPU: a body, or one with a task head. weights is the folder it was loaded from. outputs
    names the fields of its output that the graph gives; "logits" for most heads, "start_logits" and "end_logits" for question answering.
    The graph takes input_ids, attention_mask and, where the model has segments, token_type_ids: int64, shape (texts, length).

    The model is left as it was found. Raises ExportError where it cannot be traced, OSError where the disk is full.
    """
    scratch = folder / "traced"
    try:
        scratch.mkdir()
        with _ready_to_trace(model):
            _trace(model, scratch / GRAPH, outputs)
        save_graph(load_graph(scratch), folder, weights)
    except (ExportError, OSError):
        raise
    except Exception as error:
        # Tracing runs the model's own code on stand-ins for tensors, so it may fail in any way.
        raise ExportError(_one_line(error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def quantize(folder_in: Path, folder_out: Path) -> None:
    """Makes an exported float32 model into one whose matrix products run in int8, and copies what lies beside its graph.

    Weights are signed and have one scale a column. Activations get one scale a run, which is why OnnxBackend runs one text at a time.
    Raises ExportError where the model cannot be quantized, OSError where the disk is full.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]  # it ships no types

    scratch = folder_out / "quantized"
    try:
        scratch.mkdir()
        graph = load_graph(folder_in)
        _transpose_weights(graph)
        # Says that the graph was prepared, as it was above; otherwise a warning is logged on the root logger.
        onnx.helper.set_model_props(graph, {"onnx.quant.pre_process": "onnxruntime.quant"})
        with _quiet():
            quantize_dynamic(
                graph,
                scratch / GRAPH,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        # What was not quantized, such as the table of embeddings, is still that of the model's own weights.
        save_graph(load_graph(scratch), folder_out, folder_in)
        if (folder_in / INFO).exists():
            write_info(folder_out, msgspec.structs.replace(read_info(folder_in), dtype="int8"))
        if (folder_in / PROBE).exists():
            shutil.copyfile(folder_in / PROBE, folder_out / PROBE)
    except (ExportError, OSError):
        raise
    except Exception as error:
        # The quantizer raises whatever a graph that it was not written for leads to.
        raise ExportError(_one_line(error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Traced(torch.nn.Module):
    """The model as a function of tensors, with the outputs that are wanted and no others."""

    def __init__(self, model: torch.nn.Module, names: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self._model = model
        self._names = names
        self._outputs = outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        output = self._model(**dict(zip(self._names, inputs, strict=True)), return_dict=True)
        missing = [name for name in self._outputs if output.get(name) is None]
        if missing:
            raise ExportError(f"{type(self._model).__name__} gives no {', '.join(missing)}")
        return tuple(output[name] for name in self._outputs)


def _trace(model: torch.nn.Module, path: Path, outputs: Sequence[str]) -> None:
    base: Any = getattr(model, "base_model", model)
    # Two texts, one of them padded: a tracer that sees no padding may believe that there never is any.
    ids = torch.tensor(_SAMPLE_IDS)
    mask = (torch.arange(ids.shape[1]) < torch.tensor(_SAMPLE_LENGTHS)[:, None]).long()
    inputs = {"input_ids": ids.clamp(max=base.get_input_embeddings().weight.shape[0] - 1), "attention_mask": mask}
    if takes_type_ids(base):
        inputs["token_type_ids"] = torch.zeros_like(ids)
    dynamic = {name: {0: "texts", 1: "length"} for name in inputs}
    with torch.no_grad():
        torch.onnx.export(
            _Traced(model, list(inputs), outputs).eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=dynamic | {name: {0: "texts"} for name in outputs},
            opset_version=OPSET,
            do_constant_folding=False,
            dynamo=False,
        )


@contextmanager
def _ready_to_trace(model: Any) -> Iterator[None]:
    """Puts a model into the state that is traced, silences what exporters say to their developers, and undoes both."""
    if model.dtype is not torch.float32:
        raise ExportError(f"the model is in {str(model.dtype).removeprefix('torch.')}; float32 is exported")
    attention = model.config._attn_implementation
    use_cache = getattr(model.config, "use_cache", None)
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        model.set_attn_implementation("eager")
        if use_cache is not None:
            model.config.use_cache = False
        with _quiet():
            yield
    finally:
        model.set_attn_implementation(attention)
        if use_cache is not None:
            model.config.use_cache = use_cache
        for module, was in training.items():
            module.training = was


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences warnings and logs."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), _quiet_exporter():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keeps the exporter from printing its whole graph where it fails. It has an option for that, and turns it on itself: in torch 2.15
    setup_onnx_logging asks a function for its truth instead of calling it. Private to torch, so one without it prints.
    """
    exporter: Any = None
    with suppress(ImportError):
        exporter = importlib.import_module("torch.onnx._internal.torchscript_exporter.utils")
    original = getattr(exporter, "setup_onnx_logging", None)
    if original is None:
        yield
        return
    exporter.setup_onnx_logging = lambda verbose: nullcontext()
    try:
        yield
    finally:
        exporter.setup_onnx_logging = original


def _transpose_weights(model: onnx.ModelProto) -> None:
    """Turns each transposed weight into a weight of its own: the quantizer only takes a matrix product with a constant."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.input[0] in constants and len(constants[node.input[0]].dims) == 2:
            matrix = numpy_helper.to_array(constants[node.input[0]]).T.copy()
            model.graph.initializer.append(numpy_helper.from_array(matrix, node.output[0]))
        else:
            kept.append(node)
    used = {name for node in kept for name in node.input}
    constant = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    del model.graph.initializer[:]
    model.graph.initializer.extend(constant)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
