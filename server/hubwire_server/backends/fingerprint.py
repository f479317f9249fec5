"""What identifies a model: 16 hexadecimal digits over the content of its files, equal wherever and under whatever name the folder lies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

IGNORED_NAMES = {"README.md", "LICENSE", "data_config.json", "train_script.py", "eval_results.json", "similarity_evaluation_results.csv"}
SUFFIXES = {".json", ".txt", ".model", ".spm", ".tiktoken", ".safetensors", ".bin", ".py", ".vocab", ".jinja"}


def fingerprint(path: Path, folders: Iterable[Path]) -> str:
    """The fingerprint of a model folder: weights, tokenizer and configuration, of the folder itself and of the folders of its modules.

    Other exports of the same weights (onnx, openvino) and pickled copies of safetensors weights do not count. Raises OSError.
    """
    digest = hashlib.sha256()
    for name, file in sorted(_files(path, {path, *folders})):
        digest.update(name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _files(path: Path, folders: set[Path]) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        if not folder.is_dir():  # the folder of a Normalize is often missing, since it holds nothing
            continue
        files = [file for file in folder.iterdir() if file.is_file() and file.suffix in SUFFIXES and file.name not in IGNORED_NAMES]
        has_safetensors = any(file.suffix == ".safetensors" for file in files)
        for file in files:
            if not (has_safetensors and file.suffix == ".bin"):
                yield file.relative_to(path).as_posix(), file
