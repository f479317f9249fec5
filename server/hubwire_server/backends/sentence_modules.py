"""The modules that sentence-transformers puts after pooling, in numpy: Dense, LayerNorm, Normalize."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hubwire_server.backends.sentence_folder import ModuleRef, read_json
from hubwire_server.errors import HubwireError, Reason

Vectors = NDArray[np.float32]


class SentenceModule(Protocol):
    """A step from vectors to vectors, shape (n, d) to (n, e)."""

    @property
    def input_size(self) -> int | None:
        """The d that it takes, or None where it takes any."""
        ...

    @property
    def output_size(self) -> int | None:
        """The e that it gives, or None where it is d."""
        ...

    def __call__(self, vectors: Vectors) -> Vectors: ...


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer, its activation, and where the model has one a residual around both. weight has shape (e, d)."""

    weight: Vectors
    bias: Vectors | None
    activation: Callable[[Vectors], Vectors]
    uses_residual: bool
    residual: Vectors | None

    @property
    def input_size(self) -> int | None:
        return int(self.weight.shape[1])

    @property
    def output_size(self) -> int | None:
        return int(self.weight.shape[0])

    def __call__(self, vectors: Vectors) -> Vectors:
        output = vectors @ self.weight.T
        if self.bias is not None:
            output += self.bias
        output = self.activation(output)
        if self.uses_residual:
            output = output + (vectors if self.residual is None else vectors @ self.residual.T)
        return output


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """torch.nn.LayerNorm with its default epsilon. weight and bias have shape (d,)."""

    weight: Vectors
    bias: Vectors

    @property
    def input_size(self) -> int | None:
        return len(self.weight)

    @property
    def output_size(self) -> int | None:
        return len(self.weight)

    def __call__(self, vectors: Vectors) -> Vectors:
        centred = vectors - vectors.mean(axis=1, keepdims=True)
        variance = np.square(centred).mean(axis=1, keepdims=True)
        scaled: Vectors = centred / np.sqrt(variance + np.float32(1e-5)) * self.weight + self.bias
        return scaled


@dataclass(frozen=True, slots=True)
class Normalize:
    """Scales each vector to length 1; a vector of zeros stays so (torch.nn.functional.normalize)."""

    input_size: int | None = None
    output_size: int | None = None

    def __call__(self, vectors: Vectors) -> Vectors:
        scaled: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
        return scaled


def read_module(ref: ModuleRef, *, allow_pickle: bool) -> SentenceModule:
    """Reads a module from its folder. Raises HubwireError: MODEL_NOT_SUPPORTED, MODEL_NOT_ALLOWED (a pickle), MODEL_LOAD_FAILED."""
    config = read_json(ref.path / "config.json", dict, missing_ok=ref.kind == "Normalize")
    _refuse_other_features(ref.kind, config)
    if ref.kind == "Normalize":
        return Normalize()
    if ref.kind == "Dense":
        return _read_dense(config, _read_tensors(ref, allow_pickle))
    if ref.kind == "LayerNorm":
        tensors = _read_tensors(ref, allow_pickle)
        return LayerNorm(weight=_take(tensors, "norm.weight", 1), bias=_take(tensors, "norm.bias", 1))
    raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the module {ref.kind} of sentence-transformers is not supported")


def _read_dense(config: dict[str, Any], tensors: dict[str, Vectors]) -> Dense:
    # A missing key means sentence-transformers' own default.
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = ACTIVATIONS.get(name.rpartition(".")[2]) if isinstance(name, str) and name.startswith("torch.nn.") else None
    if activation is None:
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the activation function {name} of a Dense module is not supported")
    weight = _take(tensors, "linear.weight", 2)
    uses_residual = bool(config.get("use_residual", False))
    return Dense(
        weight=weight,
        bias=_take(tensors, "linear.bias", 1) if config.get("bias", True) else None,
        activation=activation,
        uses_residual=uses_residual,
        residual=_take(tensors, "residual.weight", 2) if uses_residual and weight.shape[0] != weight.shape[1] else None,
    )


def _refuse_other_features(kind: str, config: dict[str, Any]) -> None:
    """A module may read and write other things than the vector of a text, such as those of its tokens."""
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"a {kind} module works on {config[key]}, not on the vector of a text")


def _read_tensors(ref: ModuleRef, allow_pickle: bool) -> dict[str, Vectors]:
    """The module's weights as float32: from model.safetensors, else from pytorch_model.bin where pickles are allowed."""
    safe, pickled = ref.path / "model.safetensors", ref.path / "pytorch_model.bin"
    if safe.exists():
        return _read_safetensors(safe)
    if not pickled.exists():
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the {ref.kind} module has no weights: expected {ref.path.name}/model.safetensors")
    if not allow_pickle:
        raise HubwireError(
            Reason.MODEL_NOT_ALLOWED,
            f"the weights of the {ref.kind} module are a pickle, not safetensors; the flag --allow-pickle permits reading it",
        )
    import torch  # a pickle of torch tensors is the one thing here that only torch can read

    try:
        weights = torch.load(pickled, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in weights.items()}
    except Exception as error:
        # torch.load raises whatever the bytes lead to.
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"{ref.path.name}/pytorch_model.bin cannot be read") from error


def _read_safetensors(path: Path) -> dict[str, Vectors]:
    from safetensors import SafetensorError, deserialize

    try:
        tensors = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]  # safetensors ships no types
        return {name: _as_float32(tensor["dtype"], tensor["data"]).reshape(tensor["shape"]) for name, tensor in tensors}
    except (OSError, ValueError, SafetensorError) as error:
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"{path.parent.name}/{path.name} cannot be read") from error


def _as_float32(dtype: str, data: bytes) -> Vectors:
    if dtype == "BF16":  # numpy has no bfloat16: its bits are the upper half of a float32
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    if dtype not in ("F16", "F32", "F64"):
        raise ValueError(f"weights of type {dtype}")
    return np.frombuffer(data, {"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype]).astype(np.float32)


def _take(tensors: dict[str, Vectors], name: str, dimensions: int) -> Vectors:
    if name not in tensors or tensors[name].ndim != dimensions:
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"a module after pooling lacks its weights {name}")
    return tensors[name]


def _sigmoid(x: Vectors) -> Vectors:
    # exp of a large negative number is 0, of a large positive one overflows: hence by the sign.
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(np.float32)


def _softplus(x: Vectors) -> Vectors:
    return np.where(x > 20, x, np.logaddexp(x, 0)).astype(np.float32)


def _gelu(x: Vectors) -> Vectors:
    """x times the normal distribution, with the complementary error function by the Chebyshev fit of Numerical Recipes (relative error
    1.2e-7).
    """
    z = np.abs(x.astype(np.float64)) / math.sqrt(2)
    t = 1 / (1 + 0.5 * z)
    fit = np.polynomial.polynomial.polyval(
        t, (-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277)
    )
    upper = t * np.exp(-z * z + fit)
    return (0.5 * x * np.where(x >= 0, 2 - upper, upper)).astype(np.float32)


def _elu(x: Vectors) -> Vectors:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0))).astype(np.float32)


ACTIVATIONS: dict[str, Callable[[Vectors], Vectors]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "LeakyReLU": lambda x: np.where(x >= 0, x, np.float32(0.01) * x),
    "GELU": _gelu,
    "ELU": _elu,
    "Sigmoid": _sigmoid,
    "SiLU": lambda x: x * _sigmoid(x),
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "Softplus": _softplus,
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Hardtanh": lambda x: np.clip(x, -1, 1),
}
"""torch's activations with their default arguments, which is how sentence-transformers makes them (base/modules/dense.py)."""
