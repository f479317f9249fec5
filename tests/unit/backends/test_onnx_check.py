"""The probe: it passes what gives torch's hidden states, and finds what does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from hubwire_server.backends.base import Head, RaggedBatch
from hubwire_server.backends.onnx import OnnxBackend, SessionOptions
from hubwire_server.backends.onnx.backend import BATCH_TOKENS
from hubwire_server.backends.onnx.check import (
    INDEPENDENCE,
    LENGTHS,
    MAX_DIFFERENCE,
    PROBE,
    Probe,
    _keeps,
    probe_difference,
    probe_lengths,
    read_probe,
    write_probe,
)
from hubwire_server.backends.onnx.export import export_model, quantize
from hubwire_server.backends.onnx.info import OnnxInfo, read_info, write_info
from hubwire_server.backends.onnx.microbatches import cut
from hubwire_server.backends.onnx.session import GRAPH
from hubwire_server.backends.torch import check as torch_check
from hubwire_server.backends.torch.padded import PaddedEncoder
from hubwire_server.errors import HubwireError, Reason
from tests.unit.backends.tiny_models import EXPORTED, make_model

TOKENS = 1000
OPTIONS = SessionOptions(threads=1)


def probed(model: Any, folder: Path, weights: Path) -> Path:
    """An export with its probe."""
    model.save_pretrained(weights)
    folder.mkdir()
    export_model(model, folder, weights=weights)
    pad = model.config.pad_token_id
    info = OnnxInfo(
        architecture="a model",
        row_size=32,
        max_tokens=160,
        vocabulary_size=TOKENS,
        pad_id=pad,
        takes_type_ids=getattr(model.config, "type_vocab_size", 1) > 1,
    )
    write_info(folder, info)
    batch = torch_check.random_texts(model, probe_lengths(getattr(model.config, "sliding_window", None), 160), 160)
    with torch.inference_mode():
        output = PaddedEncoder(model, pad=False).forward_ragged(batch).numpy()
    write_probe(folder, Probe(head=Head.BODY, batch=batch, rows=None, output=output))
    return folder


def measure(folder: Path) -> float:
    return probe_difference(OnnxBackend(folder, read_info(folder), OPTIONS), folder)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("probe")
    return probed(make_model("Bert", vocab_size=TOKENS), root / "export", root / "model")


def test_the_limits_are_those_of_torch() -> None:
    assert (MAX_DIFFERENCE, INDEPENDENCE) == (torch_check.MAX_DIFFERENCE, torch_check.INDEPENDENCE)


def test_the_probe_holds_every_kind_of_micro_batch() -> None:
    lengths = sorted(LENGTHS)
    parts = [lengths[first:last] for first, last in cut(lengths, BATCH_TOKENS)]
    assert min(lengths) >= 2
    assert any(len(part) == 1 for part in parts)
    assert any(len(part) > 1 and len(set(part)) == 1 for part in parts)
    assert sum(len(set(part)) > 1 for part in parts) > 1
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    kept = _keeps(RaggedBatch(ids=np.zeros(0, np.int32), type_ids=np.zeros(0, np.int32), offsets=offsets))
    in_order = kept[np.argsort(LENGTHS, kind="stable")]
    for first, last in cut(lengths, BATCH_TOKENS):
        assert last - first == 1 or set(in_order[first:last].tolist()) == {True, False}


@pytest.mark.parametrize(
    ("window", "max_tokens", "more"),
    [(None, 512, ()), (128, 512, (137,)), (128, 130, ()), (2048, 8192, ()), ("none", 512, ())],
    ids=str,
)
def test_a_sliding_window_gets_a_text_that_is_longer(window: Any, max_tokens: int, more: tuple[int, ...]) -> None:
    assert tuple(probe_lengths(window, max_tokens)) == (*LENGTHS, *more)


@pytest.mark.parametrize("family", EXPORTED)
def test_an_export_is_equal_to_torch(family: str, tmp_path: Path) -> None:
    folder = probed(make_model(family, vocab_size=TOKENS), tmp_path / "export", tmp_path / "model")
    assert 0 < measure(folder) < MAX_DIFFERENCE / 5
    assert (folder / PROBE).stat().st_size < 100_000


def test_a_family_that_mixes_the_texts_of_a_batch_is_found(tmp_path: Path) -> None:
    folder = probed(make_model("MobileBert", vocab_size=TOKENS), tmp_path / "export", tmp_path / "model")
    assert measure(folder) > MAX_DIFFERENCE


def test_a_graph_that_runs_on_its_sample_alone_is_refused(tmp_path: Path) -> None:
    folder = probed(make_model("SwitchTransformers", vocab_size=TOKENS), tmp_path / "export", tmp_path / "model")
    with pytest.raises(HubwireError, match=r"the exported model fails on texts of random tokens: .*Split") as caught:
        measure(folder)
    assert caught.value.reason is Reason.MODEL_LOAD_FAILED
    assert "\n" not in caught.value.message


def lose_the_mask(graph: onnx.ModelProto) -> None:
    """The graph of an exporter that took the mask of its sample for a constant: ones."""
    for node in graph.graph.node:
        node.input[:] = ["a mask of ones" if name == "attention_mask" else name for name in node.input]
    one = onnx.helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1])
    graph.graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", ["shape"], ["a mask of ones"], value=one))
    graph.graph.node.insert(0, onnx.helper.make_node("Shape", ["input_ids"], ["shape"]))


def lose_the_segments(graph: onnx.ModelProto) -> None:
    zero = onnx.helper.make_tensor("zero", onnx.TensorProto.INT64, [1], [0])
    for node in graph.graph.node:
        node.input[:] = ["segments of zeros" if name == "token_type_ids" else name for name in node.input]
    graph.graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", ["shape"], ["segments of zeros"], value=zero))
    graph.graph.node.insert(0, onnx.helper.make_node("Shape", ["input_ids"], ["shape"]))


def change_a_weight(graph: onnx.ModelProto) -> None:
    """The last bias is off by a thousandth of what it scales."""
    (bias,) = [tensor for tensor in graph.graph.initializer if tensor.name.endswith("layer.1.output.LayerNorm.bias")]
    values = np.frombuffer(bias.raw_data, np.float32).copy()
    values[3] += 1e-3
    bias.raw_data = values.tobytes()


def copy_with(export: Path, folder: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    for path in export.iterdir():
        (folder / path.name).hardlink_to(path)
    graph = onnx.load(folder / GRAPH, load_external_data=False)
    change(graph)
    (folder / GRAPH).unlink()
    (folder / GRAPH).write_bytes(graph.SerializeToString())
    return folder


@pytest.mark.parametrize("change", [lose_the_mask, lose_the_segments, change_a_weight], ids=lambda change: change.__name__)
def test_a_graph_that_is_wrong_is_found(change: Callable[[onnx.ModelProto], None], export: Path, tmp_path: Path) -> None:
    assert measure(copy_with(export, tmp_path, change)) > MAX_DIFFERENCE


def test_int8_is_far_outside_of_what_is_equal(export: Path, tmp_path: Path) -> None:
    quantize(export, tmp_path)
    assert read_info(tmp_path).dtype == "int8"
    assert MAX_DIFFERENCE < measure(tmp_path) < math.inf


class Changed:
    """A backend that gives back what change makes of another's hidden states."""

    def __init__(self, folder: Path, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        self._backend = OnnxBackend(folder, read_info(folder), OPTIONS)
        self._change = change

    def forward(self, batch: RaggedBatch, rows: NDArray[np.int64] | None = None) -> tuple[NDArray[Any], str]:
        hidden, dtype = self._backend.forward(batch, rows)
        return self._change(hidden), dtype


@pytest.mark.parametrize(
    "change",
    [lambda hidden: hidden * np.nan, lambda hidden: hidden[:-1], lambda hidden: hidden[:, :16]],
    ids=["not finite", "a token too few", "another width"],
)
def test_what_cannot_be_compared_is_infinitely_different(change: Any, export: Path) -> None:
    assert probe_difference(Changed(export, change), export) == math.inf


def test_a_text_that_moves_with_its_neighbours_is_infinitely_different(export: Path) -> None:
    """Each time a little: far less than the difference allowed, and more than rounding."""
    shifts = iter((0.0, 1e-4))
    assert probe_difference(Changed(export, lambda hidden: hidden + np.float32(next(shifts))), export) == math.inf
    assert probe_difference(Changed(export, lambda hidden: hidden), export) < MAX_DIFFERENCE


@pytest.mark.parametrize("damage", ["missing", "cut", "without an output", "pickled"])
def test_a_broken_probe_is_refused(damage: str, export: Path, tmp_path: Path) -> None:
    path = tmp_path / PROBE
    if damage == "cut":
        path.write_bytes((export / PROBE).read_bytes()[:-500])
    elif damage == "without an output":
        np.savez(path, ids=np.zeros(1, np.int32), type_ids=np.zeros(1, np.int32), offsets=np.array([0, 1]))
    elif damage == "pickled":
        np.savez(path, ids=np.array([print]))
    with pytest.raises(HubwireError, match=PROBE) as caught:
        read_probe(tmp_path)
    assert caught.value.reason is Reason.MODEL_LOAD_FAILED
    assert str(tmp_path) not in caught.value.message


def test_a_probe_comes_back_as_it_was_written(export: Path, tmp_path: Path) -> None:
    first = read_probe(export)
    chosen = replace(first, head=Head.MASKED_LM, rows=np.array([3, 9]), output=first.output[[3, 9]])
    for probe in (first, chosen):
        write_probe(tmp_path, probe)
        again = read_probe(tmp_path)
        assert again.head == probe.head
        for name in ("ids", "type_ids", "offsets"):
            assert np.array_equal(getattr(probe.batch, name), getattr(again.batch, name))
        assert np.array_equal(probe.output, again.output)
        assert probe.rows is again.rows if probe.rows is None else np.array_equal(probe.rows, again.rows)


@pytest.mark.parametrize("hidden", [np.zeros((3, 4), np.float16), np.zeros((2, 4), np.float32), np.zeros(3, np.float32)], ids=str)
def test_a_probe_that_does_not_fit_its_texts_is_not_written(hidden: Any, export: Path, tmp_path: Path) -> None:
    ids = np.zeros(3, np.int32)
    batch = RaggedBatch(ids=ids, type_ids=ids, offsets=np.array([0, 3]))
    with pytest.raises(ValueError, match="for 3 rows"):
        write_probe(tmp_path, Probe(head=Head.BODY, batch=batch, rows=None, output=hidden))
