"""Exports the model for the bare ONNX Runtime loop and for peers that read ONNX files.

    python -m benchmarks.load.export MODEL_FOLDER OUT_FOLDER

OUT_FOLDER gets the model's own small files and onnx/model.onnx. Of the exporters this one gives the fastest graph (eager attention, no
folded constants), so that the floor is a low one.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

GRAPH = Path("onnx/model.onnx")
COPIED = ("*.json", "*.txt", "1_Pooling", "2_Normalize")
"""Everything but the weights."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "last_hidden_state"
OPSET = 17


def export(folder: Path, out: Path) -> None:
    """Writes OUT_FOLDER. It appears only when it is complete."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

    class Body(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / GRAPH).parent.mkdir(parents=True)
    for path in (path for pattern in COPIED for path in folder.glob(pattern)):
        shutil.copytree(path, partial / path.name) if path.is_dir() else shutil.copy(path, partial / path.name)
    # A batch with padding, so that nothing about the mask can be taken for a constant.
    ids = torch.randint(1000, 2000, (2, 7))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    axes = {name: {0: "batch", 1: "tokens"} for name in (*INPUTS, OUTPUT)}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter says at length that it is the old one
        torch.onnx.export(
            Body(),
            (ids, mask, torch.zeros_like(ids)),
            str(partial / GRAPH),
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
            do_constant_folding=False,
        )
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
