"""Exporting: ONNX Runtime gives what torch gives, for every family and head, and the weights stay in the model's own file."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import transformers
from onnx import TensorProto

from hubwire_server.backends.base import Head
from hubwire_server.backends.onnx.export import ExportError, export_model, quantize
from hubwire_server.backends.onnx.session import GRAPH, OWNED, SessionOptions, open_session
from hubwire_server.backends.onnx.weights import SMALL_BYTES, WEIGHTS, _folded
from hubwire_server.backends.torch.packed import takes_type_ids
from hubwire_server.backends.torch.padded import read_output
from tests.unit.backends.tiny_models import EXPORTED, make_model

TOKENS = 1000
"""The vocabulary of these models: a large one only makes them slower to write."""

HEADS = {
    "Model": Head.BODY,
    "ForSequenceClassification": Head.SEQUENCE_CLASSIFICATION,
    "ForTokenClassification": Head.TOKEN_CLASSIFICATION,
    "ForQuestionAnswering": Head.QUESTION_ANSWERING,
    "ForMaskedLM": Head.MASKED_LM,
}
WITH_A_DECODER = {("T5", "ForSequenceClassification"), ("T5", "ForQuestionAnswering")}
"""Heads that sit on the states of a decoder, which is no encoder's business."""

CASES = [
    (family, head)
    for family, head in itertools.product(EXPORTED, HEADS)
    if hasattr(transformers, EXPORTED[family][0] + head) and (family, head) not in WITH_A_DECODER
]

SHAPES = ((7, 23, 2, 41), (1, 64), (5, 5, 5), (1,), (2,), (33,), (120,), (1, 1, 2))
"""Lengths of the texts of each batch."""

MAX_DIFFERENCE = 1e-3
"""In standard deviations of what torch gives."""

FUSED = {"Gte", "NomicBert", "JinaEmbeddingsV3"}
"""Families whose checkpoint holds several weights in one tensor, so that not all of them are in it as the graph needs them."""


def padded_inputs(model: Any, lengths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Texts of random tokens, padded to the longest."""
    generator = torch.Generator().manual_seed(sum(lengths))
    shape = (len(lengths), max(lengths))
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(200, TOKENS, shape, generator=generator)
    inputs = {"input_ids": torch.where(mask.bool(), ids, model.config.pad_token_id), "attention_mask": mask}
    if takes_type_ids(model.base_model):
        inputs["token_type_ids"] = torch.randint(0, 2, shape, generator=generator) * mask
    return inputs


def run(session: Any, inputs: dict[str, torch.Tensor], head: Head = Head.BODY, positions: Any = None) -> np.ndarray[Any, Any]:
    """What the graph gives: of the tokens that are not padding, or of these positions of the flattened rectangle; or of all texts."""
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    real = np.flatnonzero(feeds["attention_mask"]) if positions is None else positions
    if head in (Head.BODY, Head.SEQUENCE_CLASSIFICATION):
        (output,) = session.run(None, feeds)
        return output.reshape(-1, output.shape[-1])[real] if head is Head.BODY else output
    return session.run(None, {**feeds, "positions": real})[0]


def expect(model: Any, inputs: dict[str, torch.Tensor], head: Head) -> np.ndarray[Any, Any]:
    """The same of torch."""
    with torch.inference_mode():
        output = read_output(model(**inputs), head)
    return (output if head is Head.SEQUENCE_CLASSIFICATION else output[inputs["attention_mask"].bool()]).numpy()


def difference(expected: np.ndarray[Any, Any], output: np.ndarray[Any, Any]) -> float:
    assert output.shape == expected.shape
    return float(np.abs(expected - output).max())


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def external(graph: onnx.ModelProto) -> dict[str, int]:
    """How many bytes of weights lie in each file beside a graph."""
    total: dict[str, int] = {}
    for tensor in graph.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            total[place["location"]] = total.get(place["location"], 0) + int(place["length"])
    return total


def mapped(folder: Path) -> list[str]:
    """The parts of a folder's safetensors files that this process has mapped. On other systems than Linux it cannot be told."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    return [line for line in lines if str(folder) in line and ".safetensors" in line]


def test_weights_that_have_other_uses_besides_being_transposed_are_not_taken_for_folded() -> None:
    nodes = [
        onnx.helper.make_node("Transpose", ["linear"], ["a"]),
        onnx.helper.make_node("Transpose", ["tied"], ["b"]),
        onnx.helper.make_node("Gather", ["tied", "ids"], ["c"]),
        onnx.helper.make_node("Transpose", ["branched"], ["d"]),
    ]
    inner = onnx.helper.make_graph([onnx.helper.make_node("Transpose", ["branched"], ["e"])], "inner", [], [])
    nodes.append(onnx.helper.make_node("If", ["condition"], ["f"], then_branch=inner, else_branch=inner))
    assert _folded(onnx.helper.make_graph(nodes, "outer", [], [])) == {"linear"}


@pytest.mark.parametrize(("family", "head"), CASES)
def test_an_exported_model_gives_what_torch_gives(family: str, head: str, tmp_path: Path) -> None:
    model = make_model(family, head, vocab_size=TOKENS)
    weights = saved(model, tmp_path / "model")
    attention = model.config._attn_implementation
    folder = tmp_path / "export"
    folder.mkdir()
    kind = HEADS[head]

    export_model(model, folder, weights=weights, head=kind)

    assert model.config._attn_implementation == attention
    session = open_session(folder, SessionOptions(threads=1))
    mask_matters = scale = 0.0
    for lengths in SHAPES:
        inputs = padded_inputs(model, lengths)
        expected = expect(model, inputs, kind)
        scale = scale or float(expected.std())
        given = run(session, inputs, kind)
        assert difference(expected, given) < MAX_DIFFERENCE * scale, lengths
        real = np.flatnonzero(inputs["attention_mask"])
        if kind is not Head.SEQUENCE_CLASSIFICATION:
            assert difference(expected[::3], run(session, inputs, kind, real[::3])) < MAX_DIFFERENCE * scale, lengths
        without_mask = run(session, {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}, kind, real)
        mask_matters = max(mask_matters, difference(expected, without_mask) / scale)
    # The control: a graph that had lost its mask would have failed above.
    assert mask_matters > 100 * MAX_DIFFERENCE
    assert (folder / GRAPH).stat().st_size < 1 << 20
    assert {path.name for path in folder.iterdir()} == {GRAPH, OWNED, "model.safetensors"}
    assert mapped(folder) == []
    if family not in FUSED:
        inline = sum(
            len(tensor.raw_data)
            for tensor in onnx.load(folder / GRAPH, load_external_data=False).graph.initializer
            if len(tensor.raw_data) >= SMALL_BYTES and tensor.data_type == TensorProto.FLOAT
        )
        assert inline == 0


def test_weights_are_the_very_bytes_of_the_models_own_file(tmp_path: Path) -> None:
    model = make_model("Bert", vocab_size=TOKENS)
    real = saved(model, tmp_path / "blobs") / "model.safetensors"
    weights = tmp_path / "snapshot"
    weights.mkdir()
    (weights / "model.safetensors").symlink_to(real)  # as in the hub's cache
    folder = tmp_path / "export"
    folder.mkdir()
    export_model(model, folder, weights=weights)
    link = folder / "model.safetensors"
    assert not link.is_symlink()
    assert os.path.samefile(link, real)
    shared = external(onnx.load(folder / GRAPH, load_external_data=False))
    held = sum(tensor.nbytes for name, tensor in model.state_dict().items() if "pooler" not in name and tensor.nbytes >= SMALL_BYTES)
    assert shared == {"model.safetensors": held}


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM], ids=errno.errorcode.get)
def test_weights_are_copied_where_no_link_is_possible(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    model = make_model("Bert", vocab_size=TOKENS)
    weights = saved(model, tmp_path / "model")
    folder = tmp_path / "export"
    folder.mkdir()
    monkeypatch.setattr(os, "link", refuse)
    export_model(model, folder, weights=weights)
    assert not os.path.samefile(folder / "model.safetensors", weights / "model.safetensors")
    assert_same(model, folder)


def test_a_checkpoint_in_several_files_is_shared_from_each(tmp_path: Path) -> None:
    model = make_model("Bert", vocab_size=TOKENS)
    weights = tmp_path / "model"
    model.save_pretrained(weights, max_shard_size="100kB")
    folder = tmp_path / "export"
    folder.mkdir()
    export_model(model, folder, weights=weights)
    files = {path.name for path in weights.glob("*.safetensors")}
    assert len(files) > 1
    assert files & {path.name for path in folder.iterdir()} == set(external(onnx.load(folder / GRAPH, load_external_data=False)))
    assert not (folder / WEIGHTS).exists()
    assert_same(model, folder)


@pytest.mark.parametrize("kind", ["half precision", "a pickle"])
def test_weights_that_are_in_no_file_as_they_are_get_a_file_of_their_own(kind: str, tmp_path: Path) -> None:
    model = make_model("Bert", vocab_size=10 * TOKENS)
    weights = tmp_path / "model"
    if kind == "half precision":
        model.half().save_pretrained(weights)
        model = transformers.AutoModel.from_pretrained(weights, dtype=torch.float32)
    else:
        weights.mkdir()
        torch.save(model.state_dict(), weights / "pytorch_model.bin")
    folder = tmp_path / "export"
    folder.mkdir()
    export_model(model, folder, weights=weights)
    assert {path.name for path in folder.iterdir()} == {GRAPH, OWNED, WEIGHTS}
    assert (folder / GRAPH).stat().st_size < 1 << 20
    assert_same(model, folder)


def test_exporting_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = make_model("T5", vocab_size=TOKENS)
    model.encoder.block[0].train()  # a state of which no single flag of the whole tells
    weights = saved(model, tmp_path / "model")
    before = ({name: module.training for name, module in model.named_modules()}, model.config.to_dict(), model.config._attn_implementation)
    folder = tmp_path / "export"
    folder.mkdir()
    export_model(model, folder, weights=weights)
    assert before == (
        {name: module.training for name, module in model.named_modules()},
        model.config.to_dict(),
        model.config._attn_implementation,
    )


class Untraceable(torch.nn.Module):
    """A part of a model that looks at values, and fails on those of the sample."""

    def forward(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("this layer\nneeds a GPU")


def test_a_model_that_cannot_be_traced_says_why_in_one_line(tmp_path: Path) -> None:
    model = make_model("Bert", vocab_size=TOKENS)
    weights = saved(model, tmp_path / "model")
    model.encoder.layer[1] = Untraceable()
    with pytest.raises(ExportError, match=r"^RuntimeError: this layer$"):
        export_model(model, tmp_path, weights=weights)
    assert model.config._attn_implementation == "sdpa"
    assert not (tmp_path / "traced").exists()


def test_a_model_with_an_operator_that_onnx_does_not_have_says_so_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = make_model("FNet", vocab_size=TOKENS)
    with pytest.raises(ExportError, match=r"^UnsupportedOperatorError: .*fft"):
        export_model(model, tmp_path, weights=tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("prepare", "head", "says"),
    [
        (lambda model: model.half(), Head.BODY, "the model is in float16; float32 is exported"),
        (lambda model: model, Head.SEQUENCE_CLASSIFICATION, "has no attribute 'logits'"),
    ],
    ids=["half precision", "an output that the model does not have"],
)
def test_what_is_not_exported_says_why(prepare: Any, head: Head, says: str, tmp_path: Path) -> None:
    model = prepare(make_model("Bert", vocab_size=TOKENS))
    with pytest.raises(ExportError, match=says):
        export_model(model, tmp_path, weights=tmp_path, head=head)


@pytest.mark.parametrize("family", ["Bert", "T5", "ModernBert"])
def test_int8_is_close_to_float32_and_shares_what_is_not_quantized(family: str, tmp_path: Path) -> None:
    model = make_model(family, vocab_size=TOKENS)
    weights = saved(model, tmp_path / "model")
    exported, folder = tmp_path / "export", tmp_path / "int8"
    exported.mkdir()
    folder.mkdir()
    export_model(model, exported, weights=weights)
    quantize(exported, folder)
    graph = onnx.load(folder / GRAPH, load_external_data=False)
    operators = [node.op_type for node in graph.graph.node]
    linears = sum(isinstance(module, torch.nn.Linear) and "pooler" not in name for name, module in model.named_modules())
    assert operators.count("MatMulInteger") == linears
    assert os.path.samefile(folder / "model.safetensors", weights / "model.safetensors")
    assert external(graph)["model.safetensors"] >= TOKENS * 32 * 4
    inputs = padded_inputs(model, (23,))
    with torch.inference_mode():
        expected = model(**inputs).last_hidden_state[0].mean(0).numpy()
    session = open_session(folder, SessionOptions(threads=1))
    assert mapped(folder) == []
    given = run(session, inputs).mean(0)
    cosine = expected @ given / np.linalg.norm(expected) / np.linalg.norm(given)
    assert 0.97 < cosine < 1 - 1e-6


def assert_same(model: Any, folder: Path) -> None:
    inputs = padded_inputs(model, SHAPES[0])
    expected = expect(model, inputs, Head.BODY)
    session = ort.InferenceSession(str(folder / GRAPH), providers=["CPUExecutionProvider"])
    assert difference(expected, run(session, inputs)) < MAX_DIFFERENCE * float(expected.std())
