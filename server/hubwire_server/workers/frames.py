"""The frames between the front and a worker: a small typed header and raw arrays. No pickle.

    magic "HWF1" | header bytes: u32 | body bytes: u64 | header | body

The header is msgpack of one Message and the dtype and shape of each array; the body is the arrays, each on a multiple of 16 bytes, so that
a received array is a view into the frame. Both ends run the same version on the same machine, so there is no negotiation.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hubwire_server.models.description import LoadSpec, ModelDescription

Array = NDArray[Any]
Buffer = bytes | memoryview
PREFIX = struct.Struct("<4sIQ")
MAGIC = b"HWF1"
ALIGNMENT = 16
MAX_FRAME_BYTES = 2**34
"""A frame that claims more is not a frame."""
_DTYPES = ("bool", "uint8", "int32", "int64", "float32")


class FrameError(Exception):
    """The bytes are not a frame: the connection is of no more use."""


class Message(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """What a frame says."""


class Hello(Message, frozen=True):
    """Worker to front, once: it runs."""

    pid: int


class Load(Message, frozen=True):
    """Front to worker: load a model."""

    spec: LoadSpec


class Loaded(Message, frozen=True):
    """Worker to front: the model serves. One uint8 array: the tokenizer's JSON."""

    key: str
    description: ModelDescription


class LoadFailed(Message, frozen=True):
    """Worker to front: the model could not be loaded."""

    key: str
    reason: str
    text: str


class Unload(Message, frozen=True):
    """Front to worker: free a model. There is no answer."""

    key: str


class Forward(Message, frozen=True):
    """Front to worker: compute a batch. Arrays: ids, type_ids, offsets, skip (tokens of each text that are left out of the pooling)."""

    batch: int
    model: str
    operation: str
    pooling: str


class ItemFailure(msgspec.Struct, frozen=True):
    """One text of a batch that has no answer."""

    index: int
    reason: str
    text: str


class Computed(Message, frozen=True):
    """Worker to front: a batch is done. One float32 array: a row a text for "pool", a row a token for "tokens". Rows of failed texts hold
    no meaning."""

    batch: int
    compute_ns: int
    failures: tuple[ItemFailure, ...] = ()


class BatchFailed(Message, frozen=True):
    """Worker to front: the whole batch failed in a way that left the worker alive."""

    batch: int
    reason: str
    text: str


AnyMessage = Hello | Load | Loaded | LoadFailed | Unload | Forward | Computed | BatchFailed


class _Header(msgspec.Struct, frozen=True, array_like=True):
    message: AnyMessage
    arrays: list[tuple[str, tuple[int, ...]]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Header)


def _padding(size: int) -> int:
    return -size % ALIGNMENT


def encode_frame(message: AnyMessage, arrays: Sequence[Array] = ()) -> list[Buffer]:
    """The frame as buffers to be written one after the other. The arrays are not copied."""
    header = _encoder.encode(_Header(message, [(array.dtype.name, array.shape) for array in arrays]))
    header += b"\xc1" * _padding(len(header))  # 0xc1 is the one byte that msgpack never uses
    body: list[Buffer] = []
    size = 0
    for array in arrays:
        if array.dtype.name not in _DTYPES:
            raise AssertionError(f"no frame carries {array.dtype}. This is a bug.")
        data = np.ascontiguousarray(array)
        body.append(data.reshape(-1).view(np.uint8).data)
        size += data.nbytes
        if gap := _padding(data.nbytes):
            body.append(bytes(gap))
            size += gap
    return [PREFIX.pack(MAGIC, len(header), size) + header, *body]


def frame_size(prefix: Buffer) -> tuple[int, int]:
    """The sizes of header and body that a prefix announces. Raises FrameError."""
    magic, header_size, body_size = PREFIX.unpack(prefix)
    if magic != MAGIC or header_size + body_size > MAX_FRAME_BYTES:
        raise FrameError("the bytes between front and worker are not a frame")
    return header_size, body_size


def decode_frame(header: Buffer, body: NDArray[np.uint8]) -> tuple[AnyMessage, list[Array]]:
    """The message and its arrays, which are views into body. Raises FrameError."""
    try:
        decoded = _decoder.decode(bytes(header).rstrip(b"\xc1"))
        arrays = []
        position = 0
        for dtype, shape in decoded.arrays:
            if dtype not in _DTYPES or any(length < 0 for length in shape):
                raise FrameError(f"a frame holds an array of {dtype} {shape}")
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            if position + size > body.nbytes:
                raise FrameError("a frame is shorter than its arrays")
            arrays.append(body[position : position + size].view(dtype).reshape(shape))
            position += size + _padding(size)
    except msgspec.MsgspecError as error:
        raise FrameError(f"a frame's header is broken: {error}") from error
    return decoded.message, arrays


def send_frame(sock: socket.socket, message: AnyMessage, arrays: Sequence[Array] = ()) -> None:
    """Writes a frame to a blocking socket."""
    for buffer in encode_frame(message, arrays):
        sock.sendall(buffer)


def receive_frame(sock: socket.socket) -> tuple[AnyMessage, list[Array]] | None:
    """Reads a frame from a blocking socket. None: the other end closed it."""
    prefix = bytearray(PREFIX.size)
    if not _receive_into(sock, memoryview(prefix)):
        return None
    header_size, body_size = frame_size(bytes(prefix))
    header = bytearray(header_size)
    body = np.empty(body_size, dtype=np.uint8)
    if not _receive_into(sock, memoryview(header)) or not _receive_into(sock, body.data):
        return None
    return decode_frame(bytes(header), body)


def _receive_into(sock: socket.socket, target: memoryview) -> bool:
    """Fills target. False: the other end closed the socket before that."""
    while target:
        count = sock.recv_into(target)
        if count == 0:
            return False
        target = target[count:]
    return True
