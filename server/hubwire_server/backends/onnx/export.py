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
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import msgspec
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from hubwire_server.backends.base import Head, RowKind
from hubwire_server.backends.onnx.check import PROBE
from hubwire_server.backends.onnx.info import INFO, ExportError, read_info, write_info
from hubwire_server.backends.onnx.session import GRAPH
from hubwire_server.backends.onnx.weights import load_graph, save_graph
from hubwire_server.backends.torch.packed import takes_type_ids
from hubwire_server.backends.torch.padded import ends_with_eos, pad_id, read_output

OPSET = 17

OUTPUT = "output"
"""The name of the graph's one output."""

POSITIONS = "positions"
"""The name of the input that chooses tokens."""

_SAMPLE_IDS = ((7, 8, 9, 10, 11, 12, 13), (14, 15, 16, 17, 0, 0, 0))
_SAMPLE_LENGTHS = (7, 4)
_SAMPLE_POSITIONS = (0, 2, 6, 7, 10)


def export_model(model: torch.nn.Module, folder: Path, *, weights: Path, head: Head = Head.BODY) -> None:
    """Writes graph.onnx, and what it needs of weights, into a folder.

    model is one of transformers in float32 on the CPU: a body, or one with a task head. weights is the folder it was loaded from.

    The graph takes input_ids, attention_mask and, where the model has segments, token_type_ids: int64, shape (texts, length). It gives
    hidden states of shape (texts, length, hidden_size) for a body, and (texts, labels) for a head that gives a row a text. A head that
    gives a row a token takes positions, too, int64 of shape (m,): the places in the flattened rectangle of the tokens that go through the
    head, which gives (m, row_size).

    The model is left as it was found. Raises ExportError where it cannot be traced, OSError where the disk is full.
    """
    scratch = folder / "traced"
    try:
        scratch.mkdir()
        with _ready_to_trace(model):
            _trace(model, scratch / GRAPH, head)
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
    """The model as a function of tensors, with the output that is wanted and no other."""

    def __init__(self, model: torch.nn.Module, head: Head, names: list[str]) -> None:
        super().__init__()
        self._model = model
        self._head = head
        self._names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        arguments = dict(zip(self._names, inputs, strict=True))
        if POSITIONS not in arguments:
            return read_output(self._model(**arguments, return_dict=True), self._head)
        with _choosing(self._model.base_model, arguments.pop(POSITIONS)):
            return read_output(self._model(**arguments, return_dict=True), self._head)[0]


@contextmanager
def _choosing(body: Any, positions: Tensor) -> Iterator[None]:
    """Lets a body give the states of tokens at these positions of its flattened rectangle alone, as one row of tokens."""
    forward = body.forward

    def chosen(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output["last_hidden_state"] = output.last_hidden_state.flatten(0, 1)[positions][None]
        return output

    body.forward = chosen
    try:
        yield
    finally:
        del body.forward


def _trace(model: Any, path: Path, head: Head) -> None:
    inputs = _sample(model, head)
    dynamic = {name: {0: "tokens"} if name == POSITIONS else {0: "texts", 1: "length"} for name in inputs}
    with torch.no_grad():
        torch.onnx.export(
            _Traced(model, head, list(inputs)).eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=[OUTPUT],
            dynamic_axes=dynamic | {OUTPUT: {0: "tokens" if POSITIONS in inputs else "texts"}},
            opset_version=OPSET,
            do_constant_folding=False,
            dynamo=False,
        )


def _sample(model: Any, head: Head) -> dict[str, Tensor]:
    """Two texts, one of them padded: a tracer that sees no padding may believe that there never is any."""
    body = model if head is Head.BODY else model.base_model
    ids = torch.tensor(_SAMPLE_IDS).clamp(max=body.get_input_embeddings().weight.shape[0] - 1)
    mask = torch.arange(ids.shape[1]) < torch.tensor(_SAMPLE_LENGTHS)[:, None]
    if (eos := ends_with_eos(model, head)) is not None:
        ids[range(len(ids)), [length - 1 for length in _SAMPLE_LENGTHS]] = eos
    inputs = {"input_ids": torch.where(mask, ids, pad_id(body)), "attention_mask": mask.long()}
    if takes_type_ids(body):
        inputs["token_type_ids"] = torch.zeros_like(ids)
    if head is not Head.BODY and head.row_kind is RowKind.TOKEN:
        inputs[POSITIONS] = torch.tensor(_SAMPLE_POSITIONS)
    return inputs


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
