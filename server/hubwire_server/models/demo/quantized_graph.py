"""The weights of a BERT that onnxruntime's quantizer stored in 4 bits (its layers) and 8 bits (its embeddings), back in float32.

What comes out is what ONNX Runtime computes with: each value is the same difference of whole numbers times the same scale, in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

LAYER = "MatMulNBits"
"""The operator of a 4-bit layer: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md"""

LAYER_SUFFIX = "/MatMul_Q4"
"""What the quantizer puts behind the name of a layer: "/bert/encoder/layer.0/output/dense/MatMul_Q4"."""

BITS = 4
ZERO_POINT = 8
"""The stored number that stands for 0 where a layer brings no zero points of its own."""

EMBEDDING = "weight_quantized"
"""How the name of an 8-bit embedding table ends. Its scale and its zero point stand beside it."""


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """All weights of a graph, under their names in transformers.

    Raises OSError, and ValueError where the graph stores a weight in a way that is not read here.
    """
    graph = onnx.load(str(path)).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name: value for name, value in stored.items() if value.dtype == np.float32 and name.endswith((".weight", ".bias"))}
    for node in graph.node:
        if node.op_type == LAYER:
            weights[_layer_name(node.name)] = _layer(node, stored)
    for name, value in stored.items():
        if name.endswith(EMBEDDING):
            plain = name.removesuffix("_quantized")
            weights[plain] = _embedding(value, stored[f"{plain}_scale"], stored[f"{plain}_zero_point"])
    return weights


def unpack_layer(packed: NDArray[np.uint8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """A layer's weight (outputs, inputs) from its blocks: packed (outputs, blocks, bytes) holds two numbers a byte, the lower half first;
    scales has a number a block.
    """
    numbers = np.empty((*packed.shape, 2), np.int8)
    np.bitwise_and(packed, 0x0F, out=numbers[..., 0], casting="unsafe")
    np.right_shift(packed, BITS, out=numbers[..., 1], casting="unsafe")
    numbers -= ZERO_POINT
    outputs, blocks, size = packed.shape
    values = numbers.reshape(outputs, blocks, size * 2) * scales.reshape(outputs, blocks, 1)
    return values.reshape(outputs, -1)


def _layer(node: onnx.NodeProto, stored: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    options = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    packed, scales = (stored[name] for name in node.input[1:3])
    # Further inputs are zero points, an order of the columns and a bias.
    if options["bits"] != BITS or any(node.input[3:]) or packed.shape[1] * options["block_size"] != options["K"]:
        raise ValueError(f"the layer {node.name!r} is quantized in another way than in blocks of {BITS} bits around {ZERO_POINT}")
    return unpack_layer(packed, scales)


def _layer_name(node_name: str) -> str:
    if not node_name.endswith(LAYER_SUFFIX):
        raise ValueError(f"the layer {node_name!r} has no name of a module")
    return node_name.removesuffix(LAYER_SUFFIX).strip("/").replace("/", ".") + ".weight"


def _embedding(numbers: NDArray[np.uint8], scale: NDArray[np.float32], zero_point: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (numbers.astype(np.int32) - zero_point.astype(np.int32)).astype(np.float32) * scale
