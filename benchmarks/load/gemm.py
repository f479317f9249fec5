"""The arithmetic limit: the matrix products of the model's own linear layers, and nothing else.

    python -m benchmarks.load.gemm FOLDER THREADS DTYPE

No server of this model can be faster than these products by the fastest engine at its best batch. The weights are the model's own, so that
they come from memory as they do in the model; each is scaled so that a chain of them neither vanishes nor overflows. The chain runs them
in the order of the model: every product reads what one before it wrote.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load.commands import answer_commands, own_output

BATCH_TOKENS = (128, 256, 512, 1024, 2048)
"""The sizes that are tried: tokens that go through the layers together."""
TUNE_ROUNDS = 3
TUNE_S = 0.08
"""How long each engine runs at each size, a round."""

Chain = Callable[[int], Callable[[], Any]]
"""Given a number of tokens, a call that takes so many through all layers."""


def linear_weights(folder: Path) -> list[Any]:
    """The weights of the encoder's linear layers, [out, in], in the order of their use, scaled to keep the size of what they multiply."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    hidden = model.config.hidden_size
    layers = [module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and not name.startswith("pooler")]
    weights = [layer.weight.detach() for layer in layers]
    if any(weight.shape[1] not in (hidden, before.shape[0]) for before, weight in itertools.pairwise(weights)):
        raise ValueError("the linear layers of this model do not follow each other")
    return [weight / (weight.std() * weight.shape[1] ** 0.5) for weight in weights]


def torch_chain(weights: list[Any], dtype: str) -> Chain:
    """torch's own product."""
    import torch

    cast = [weight.to(getattr(torch, dtype)) for weight in weights]

    def prepare(tokens: int) -> Callable[[], Any]:
        start = torch.randn(tokens, cast[0].shape[1], dtype=cast[0].dtype)

        def run() -> Any:
            hidden = start
            for weight in cast:
                hidden = torch.nn.functional.linear(hidden, weight)
            return hidden

        return run

    return prepare


def onednn_chain(weights: list[Any], dtype: str) -> Chain:
    """oneDNN with weights in the layout that it likes best for each size."""
    import torch

    cast = [weight.to(getattr(torch, dtype)) for weight in weights]

    def prepare(tokens: int) -> Callable[[], Any]:
        packed = [torch.ops.mkldnn._reorder_linear_weight(weight, tokens) for weight in cast]
        start = torch.randn(tokens, cast[0].shape[1], dtype=cast[0].dtype)

        def run() -> Any:
            hidden = start
            for weight in packed:
                hidden = torch.ops.mkldnn._linear_pointwise(hidden, weight, None, "none", [], "")
            return hidden

        return run

    return prepare


def onnxruntime_chain(weights: list[Any], threads: int) -> Chain:
    """ONNX Runtime's product, float32."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    tensors = [numpy_helper.from_array(np.ascontiguousarray(weight.numpy().T), f"w{n}") for n, weight in enumerate(weights)]
    nodes = [helper.make_node("MatMul", [f"h{n}", f"w{n}"], [f"h{n + 1}"]) for n in range(len(weights))]
    ends = [helper.make_tensor_value_info(f"h{n}", TensorProto.FLOAT, ["tokens", None]) for n in (0, len(weights))]
    graph = helper.make_graph(nodes, "linear", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def prepare(tokens: int) -> Callable[[], Any]:
        start = np.random.default_rng(0).standard_normal((tokens, weights[0].shape[1]), dtype=np.float32)
        return lambda: session.run(None, {"h0": start})

    return prepare


def tokens_per_s(run: Callable[[], Any], tokens: int, seconds: float) -> float:
    """How many tokens a second go through a chain, over so many seconds."""
    run()
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        run()
        count += 1
    return count * tokens / elapsed


def main() -> None:
    """Answers "tune", which finds the fastest engine and size, and "rate", which measures one."""
    output = own_output()
    warnings.simplefilter("ignore")
    import torch

    folder, threads, dtype = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    weights = linear_weights(folder)
    chains = {"torch": torch_chain(weights, dtype)}
    if torch.backends.mkldnn.is_available():
        chains["onednn"] = onednn_chain(weights, dtype)
    if dtype == "float32":
        chains["onnxruntime"] = onnxruntime_chain(weights, threads)

    def tune() -> dict[str, Any]:
        runs = {(engine, tokens): prepare(tokens) for engine, prepare in chains.items() for tokens in BATCH_TOKENS}
        rates = [{key: tokens_per_s(run, key[1], TUNE_S) for key, run in runs.items()} for _ in range(TUNE_ROUNDS)]
        medians = {key: statistics.median(rate[key] for rate in rates) for key in runs}
        engine, tokens = max(medians, key=lambda key: medians[key])
        return {"engine": engine, "tokens": tokens, "tokens_per_s": {f"{name} {size}": rate for (name, size), rate in medians.items()}}

    def rate(engine: str, tokens: int, seconds: float) -> dict[str, Any]:
        return {"tokens_per_s": tokens_per_s(chains[engine](tokens), tokens, seconds)}

    ready = {"dtype": dtype, "products": len(weights), "weights_mb": sum(weight.numel() for weight in weights) * 4 / 1e6}
    answer_commands(ready, {"tune": tune, "rate": rate}, output)


if __name__ == "__main__":
    main()
