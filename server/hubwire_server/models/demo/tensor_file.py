"""Reading and writing safetensors files with numpy alone.

The layout is a length of 8 bytes, a JSON header, and the values of the tensors (https://github.com/huggingface/safetensors). The package
of that name is an engine's: the room that this file is in may import none.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I64": np.dtype("<i8")}
"""The number formats of the files that are read here, by their names in a header."""

ALIGNMENT = 8
"""The header is filled with spaces to a multiple of this, as safetensors writes it."""


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file, mapped into memory and not read yet. Raises OSError, and ValueError where the file is something else."""
    with path.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise ValueError(f"{path.name} is no safetensors file")
        (length,) = struct.unpack("<Q", prefix)
        if length > path.stat().st_size - 8:
            raise ValueError(f"{path.name} is no safetensors file")
        header = json.loads(stream.read(length))
    data = np.memmap(path, np.uint8, "r", offset=8 + length)
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"the tensor {name!r} is of type {entry['dtype']}: only {', '.join(DTYPES)} are read")
        start, stop = entry["data_offsets"]
        tensors[name] = data[start:stop].view(dtype).reshape(entry["shape"])
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Writes a file in the order of the names, tensor by tensor, so that no second copy of all of them is made.

    Raises OSError, and ValueError where a tensor is of a type that is not in DTYPES.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        if tensor.dtype not in names:
            raise ValueError(f"the tensor {name!r} is of type {tensor.dtype}: only {', '.join(DTYPES)} are written")
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.nbytes],
        }
        position += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)))
        stream.write(text)
        for name in sorted(tensors):
            stream.write(np.ascontiguousarray(tensors[name]).data)
