"""The weights of a graph: left in the model's own safetensors wherever they are the same bytes.

A graph may say that a weight lies in a file beside it, at an offset. ONNX Runtime follows no symbolic link and no path that leads out of
the graph's folder. So the safetensors file gets a hard link there; where that is not possible, on another file system for one, a copy. The
onnx package refuses hard links, too, so weights are read here. Those that stay in use after a session was opened are listed (session.py).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, external_data_helper

from hubwire_server.backends.onnx.session import GRAPH, OWNED, OwnedWeight

WEIGHTS = "weights.bin"
"""The weights that are in no safetensors file as they are: those of half-precision checkpoints, and those that the model computes."""

INLINE_BYTES = 1 << 20
"""Weights of less than this in all stay in the graph. A graph of 2 GiB cannot be written."""

SMALL_BYTES = 1024
"""Single values stay in the graph in any case: ONNX Runtime reads shapes from there."""

ALIGNMENT = 64

_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What file systems say that cannot make a hard link, or not this one."""


@dataclass(frozen=True, slots=True)
class _Place:
    file: Path
    offset: int
    length: int


def load_graph(folder: Path) -> onnx.ModelProto:
    """The graph of a folder with all its weights in memory. Raises OSError."""
    model = onnx.load(str(folder / GRAPH), load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            with (folder / place["location"]).open("rb") as stream:
                stream.seek(int(place.get("offset", "0")))
                tensor.raw_data = stream.read(int(place["length"]) if "length" in place else -1)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    return model


def save_graph(model: onnx.ModelProto, folder: Path, source: Path) -> None:
    """Writes a graph, which is emptied of its weights, into a folder, and puts the weights beside it. source is the folder that the model
    was loaded from. Raises OSError.
    """
    places = _places(source)
    folded = _folded(model.graph)
    owned = []
    rest = []
    linked = set()
    for tensor in model.graph.initializer:
        raw = _raw(tensor)
        if len(raw) < SMALL_BYTES:
            continue
        place = places.get(_identity(tuple(tensor.dims), raw)) if tensor.data_type == TensorProto.FLOAT else None
        if place is None:
            rest.append(tensor)
            continue
        linked.add(place.file)
        if tensor.name not in folded:
            owned.append(OwnedWeight(tensor.name, place.file.name, place.offset, tuple(tensor.dims)))
        _move_out(tensor, place.file.name, place.offset, place.length)
    for file in sorted(linked):
        _link(file, folder / file.name)
    if sum(len(_raw(tensor)) for tensor in rest) > INLINE_BYTES:
        _write_rest(rest, folder / WEIGHTS)
    (folder / OWNED).write_bytes(msgspec.json.encode(owned))
    (folder / GRAPH).write_bytes(model.SerializeToString())


def _folded(graph: onnx.GraphProto) -> set[str]:
    """The weights that are transposed and not used in another way: ONNX Runtime transposes them once, and lets go of the file."""
    transposed = {name for node in graph.node if node.op_type == "Transpose" for name in node.input}
    used = {name for node in graph.node if node.op_type != "Transpose" for name in node.input}
    used |= {name for inner in _inner_graphs(graph) for node in inner.node for name in node.input}
    return transposed - used


def _inner_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The branches and loops in a graph, which use its weights by their names."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield inner
                yield from _inner_graphs(inner)


def _places(folder: Path) -> dict[str, _Place]:
    """Where each float32 tensor of a folder's safetensors files lies, by what it holds."""
    places: dict[str, _Place] = {}
    for file in _safetensors_files(folder):
        data = memoryview(np.memmap(file, np.uint8, "r"))  # type: ignore[arg-type]  # numpy's types do not know that an array is a buffer
        for shape, start, stop in _float32_tensors(file):
            places.setdefault(_identity(shape, data[start:stop]), _Place(file, start, stop - start))
    return places


def _safetensors_files(folder: Path) -> list[Path]:
    """The files of a checkpoint as transformers finds them: one, or those of an index. None where its weights are a pickle."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not index.exists():
        return sorted(folder.glob("*.safetensors"))
    return [folder / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]


def _float32_tensors(file: Path) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Shape, start and end of each float32 tensor in a safetensors file: a length of 8 bytes, a JSON header, and the data."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    for name, tensor in header.items():
        if name != "__metadata__" and tensor["dtype"] == "F32":
            start, stop = tensor["data_offsets"]
            yield tuple(tensor["shape"]), 8 + length + start, 8 + length + stop


def _identity(shape: tuple[int, ...], raw: bytes | memoryview) -> str:
    return f"{shape} {hashlib.sha256(raw).hexdigest()}"


def _raw(tensor: TensorProto) -> bytes:
    """The bytes of a weight. Torch's exporter and the quantizer store them raw; what is stored in another way is small."""
    return bytes(tensor.raw_data) if tensor.HasField("raw_data") else b""


def _move_out(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Empties a weight, and says where it lies instead."""
    external_data_helper.set_external_data(tensor, location=location, offset=offset, length=length)
    tensor.ClearField("raw_data")


def _link(file: Path, target: Path) -> None:
    file = file.resolve()  # in the cache of the hub it is a symbolic link
    try:
        os.link(file, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(file, target)


def _write_rest(tensors: list[TensorProto], path: Path) -> None:
    with path.open("wb") as stream:
        for tensor in tensors:
            raw = _raw(tensor)
            stream.write(bytes(-stream.tell() % ALIGNMENT))
            _move_out(tensor, path.name, stream.tell(), len(raw))
            stream.write(raw)
