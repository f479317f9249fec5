"""How the files of the demo models are read and written: safetensors, 4-bit layers, the sentiment head."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification

from hubwire_server.demo_models.train_sentiment import Head, Sentences, split
from hubwire_server.models.demo.quantized_graph import read_weights, unpack_layer
from hubwire_server.models.demo.sentiment_head import STORED, expand
from hubwire_server.models.demo.tensor_file import read_tensors, write_tensors

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.arange(3, dtype=np.float16),
    "one": np.array(3.5, np.float32),
    "none": np.empty((0, 4), np.float32),
}


def test_a_written_file_is_read_by_safetensors(tmp_path):
    write_tensors(tmp_path / "file.safetensors", TENSORS)
    read = load_file(tmp_path / "file.safetensors")
    assert set(read) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)


def test_a_file_of_safetensors_is_read(tmp_path):
    save_file(TENSORS, tmp_path / "file.safetensors", metadata={"format": "pt"})
    read = read_tensors(tmp_path / "file.safetensors")
    assert set(read) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 40, b"\x04" + bytes(7) + b"{ab}"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"no safetensors file|property name"):
        read_tensors(tmp_path / "file")


def test_a_number_format_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(ValueError, match="float64"):
        write_tensors(tmp_path / "file", {"a": np.zeros(2)})
    save_file({"a": np.zeros(2)}, tmp_path / "file")
    with pytest.raises(ValueError, match="F64"):
        read_tensors(tmp_path / "file")


def test_a_layer_is_unpacked_number_by_number():
    generator = np.random.default_rng(3)
    packed = generator.integers(0, 256, (5, 2, 16), np.uint8)
    scales = generator.standard_normal((5, 2), np.float32)
    wanted = np.empty((5, 64), np.float32)
    for output in range(5):
        for column in range(64):
            block, place = divmod(column, 32)
            byte = int(packed[output, block, place // 2])
            number = byte >> 4 if place % 2 else byte & 0x0F
            wanted[output, column] = np.float32(number - 8) * scales[output, block]
    np.testing.assert_array_equal(unpack_layer(packed, scales), wanted)


@pytest.mark.parametrize(("bits", "inputs"), [(8, ["x", "w", "s"]), (4, ["x", "w", "s", "zeros"])])
def test_a_layer_that_is_stored_in_another_way_is_refused(tmp_path, bits, inputs):
    node = helper.make_node(
        "MatMulNBits", inputs, ["y"], name="/layer/MatMul_Q4", domain="com.microsoft", bits=bits, block_size=32, K=32, N=4
    )
    stored = {"w": np.zeros((4, 1, 16), np.uint8), "s": np.zeros((4, 1), np.float32), "zeros": np.zeros(4, np.uint8)}
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    onnx.save(helper.make_model(graph), str(tmp_path / "graph.onnx"))
    with pytest.raises(ValueError, match="quantized in another way"):
        read_weights(tmp_path / "graph.onnx")


def test_the_trained_head_is_what_transformers_computes_with():
    torch.manual_seed(5)
    config = BertConfig(vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, num_labels=2)
    model = BertForSequenceClassification(config).eval()
    head = Head(config.hidden_size, config.num_attention_heads).eval()
    for parameter in head.parameters():
        parameter.data = torch.randn_like(parameter).half().float()
    expanded = {name: torch.from_numpy(value) for name, value in expand(head.tensors(), 1, config.intermediate_size).items()}
    result = model.load_state_dict(expanded, strict=False)
    assert not result.unexpected_keys
    assert not [name for name in result.missing_keys if "layer.1." in name or "pooler" in name or "classifier" in name]
    ids = torch.randint(0, 50, (3, 7))
    mask = torch.arange(7) < torch.tensor([7, 4, 1])[:, None]
    with torch.inference_mode():
        states = model.bert(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states[1]
        torch.testing.assert_close(model(ids, attention_mask=mask.long()).logits, head(states, mask), atol=1e-4, rtol=1e-4)


def test_a_head_with_other_tensors_is_refused():
    with pytest.raises(ValueError, match="sentiment head"):
        expand(dict.fromkeys(STORED[:-1], np.zeros((2, 2), np.float16)), 5, 8)


def test_the_held_out_tenth_is_always_the_same_and_never_trained_on():
    sentences = Sentences([str(number) for number in range(200)], np.arange(200) % 2)
    trained, held_out = split(sentences)
    assert (len(trained.texts), len(held_out.texts)) == (180, 20)
    assert not set(trained.texts) & set(held_out.texts)
    assert split(sentences)[1].texts == held_out.texts
    assert [int(text) % 2 for text in held_out.texts] == held_out.labels.tolist()
