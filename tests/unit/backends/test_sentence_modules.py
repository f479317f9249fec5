"""The modules after pooling against torch's own, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hubwire_server.backends.sentence_folder import ModuleRef
from hubwire_server.backends.sentence_modules import ACTIVATIONS, read_module
from hubwire_server.errors import HubwireError, Reason

VECTORS = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)


def save(path: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], *, pickled: bool = False) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    if pickled:
        torch.save(tensors, path / "pytorch_model.bin")
    elif tensors:
        save_file(tensors, path / "model.safetensors")
    return path


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_equals_that_of_torch(name: str) -> None:
    x = np.concatenate([np.linspace(-12, 12, 4001), [-1e4, -80, 0, 80, 1e4]]).astype(np.float32)
    with np.errstate(all="raise", under="ignore"):
        ours = ACTIVATIONS[name](x)
    expected = getattr(torch.nn, name)()(torch.from_numpy(x.astype(np.float64))).numpy()
    assert ours.dtype == np.float32
    assert np.abs(ours - expected).max() <= 2e-7 * max(1, np.abs(expected[:4001]).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickle"])
@pytest.mark.parametrize("size", [3, 6])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("use_residual", [False, True], ids=["no residual", "residual"])
def test_dense_equals_torch(tmp_path: Path, dtype: torch.dtype, pickled: bool, size: int, bias: bool, use_residual: bool) -> None:
    torch.manual_seed(2)
    linear, residual = torch.nn.Linear(6, size, bias=bias).to(dtype), torch.nn.Linear(6, size, bias=False).to(dtype)
    tensors = {f"linear.{name}": value.detach() for name, value in linear.named_parameters()}
    if use_residual and size != 6:
        tensors["residual.weight"] = residual.weight.detach()
    config = {"in_features": 6, "out_features": size, "bias": bias, "activation_function": "torch.nn.modules.activation.Tanh"}
    path = save(tmp_path / "2_Dense", config | {"use_residual": use_residual}, tensors, pickled=pickled)
    module = read_module(ModuleRef("Dense", path), allow_pickle=pickled)
    x = torch.from_numpy(VECTORS)
    with torch.no_grad():
        expected = torch.tanh(linear.float()(x))
        if use_residual:
            expected = expected + (x if size == 6 else residual.float()(x))
    assert (module.input_size, module.output_size) == (6, size)
    assert np.allclose(module(VECTORS), expected.numpy(), atol=1e-6)


def test_layer_norm_and_normalize_equal_torch(tmp_path: Path) -> None:
    norm = torch.nn.LayerNorm(6)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    path = save(tmp_path / "2_LayerNorm", {"dimension": 6}, {f"norm.{name}": value.detach() for name, value in norm.named_parameters()})
    with torch.no_grad():
        assert np.allclose(
            read_module(ModuleRef("LayerNorm", path), allow_pickle=False)(VECTORS), norm(torch.from_numpy(VECTORS)), atol=1e-5
        )
    vectors = np.concatenate([VECTORS, np.zeros((1, 6), np.float32)])
    normalize = read_module(ModuleRef("Normalize", tmp_path / "3_Normalize"), allow_pickle=False)
    assert np.allclose(normalize(vectors), torch.nn.functional.normalize(torch.from_numpy(vectors), dim=-1), atol=1e-6)


def test_dense_without_an_activation_key_is_tanh_as_in_sentence_transformers(tmp_path: Path) -> None:
    path = save(tmp_path / "2_Dense", {"in_features": 6, "out_features": 6, "bias": False}, {"linear.weight": torch.eye(6)})
    assert np.allclose(read_module(ModuleRef("Dense", path), allow_pickle=False)(VECTORS), np.tanh(VECTORS))


DENSE = {"in_features": 6, "out_features": 2, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
WEIGHT = {"linear.weight": torch.ones(2, 6)}


@pytest.mark.parametrize(
    ("kind", "config", "tensors", "pickled", "reason", "says"),
    [
        ("Dense", DENSE | {"activation_function": "torch.nn.modules.activation.PReLU"}, WEIGHT, False, Reason.MODEL_NOT_SUPPORTED, "PReLU"),
        ("Dense", DENSE | {"activation_function": "own.code.Tanh"}, WEIGHT, False, Reason.MODEL_NOT_SUPPORTED, r"own\.code\.Tanh"),
        ("Dense", DENSE | {"bias": True}, WEIGHT, False, Reason.MODEL_NOT_SUPPORTED, r"lacks its weights linear\.bias"),
        ("Dense", DENSE | {"use_residual": True}, WEIGHT, False, Reason.MODEL_NOT_SUPPORTED, r"residual\.weight"),
        ("Dense", DENSE | {"module_input_name": "token_embeddings"}, WEIGHT, False, Reason.MODEL_NOT_SUPPORTED, "token_embeddings"),
        ("Dense", DENSE, {}, False, Reason.MODEL_NOT_SUPPORTED, r"expected 2_Module/model\.safetensors"),
        ("Dense", DENSE, WEIGHT, True, Reason.MODEL_NOT_ALLOWED, "--allow-pickle"),
        ("CNN", {}, {}, False, Reason.MODEL_NOT_SUPPORTED, "CNN"),
        ("Normalize", {"module_input_name": "token_embeddings"}, {}, False, Reason.MODEL_NOT_SUPPORTED, "token_embeddings"),
    ],
)
def test_what_is_not_supported_is_refused(
    tmp_path: Path, kind: str, config: dict[str, Any], tensors: dict[str, torch.Tensor], pickled: bool, reason: Reason, says: str
) -> None:
    path = save(tmp_path / "2_Module", config, tensors, pickled=pickled)
    with pytest.raises(HubwireError, match=says) as caught:
        read_module(ModuleRef(kind, path), allow_pickle=False)
    assert caught.value.reason is reason


def test_broken_weights_are_a_failed_load(tmp_path: Path) -> None:
    path = save(tmp_path / "2_Dense", DENSE, {})
    (path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(HubwireError, match="cannot be read") as caught:
        read_module(ModuleRef("Dense", path), allow_pickle=False)
    assert caught.value.reason is Reason.MODEL_LOAD_FAILED
