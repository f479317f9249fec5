"""The frames between the front and a worker: a small typed header and raw arrays. No pickle.

    magic "HWF1" | header bytes: u32 | body bytes: u64 | header | zeros up to a multiple of 16 bytes | body

The header is msgpack of one Message and the dtype and shape of each array; the body is the arrays, each on a multiple of 16 bytes, so that
a received array is a view into the frame. Both ends run the same version on the same machine, so there is no negotiation.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Iterator, Sequence
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
READ_BYTES = 262_144
"""How much is read from a socket at once. Frames up to this size, which most are, take one read."""
JOINED_BYTES = 65_536
"""Frames up to this size are copied together: copying them costs less than handing the system several buffers."""
_DTYPES = {name: np.dtype(name) for name in ("bool", "uint8", "int32", "int64", "float32")}
_NAMES = {dtype.str: name for name, dtype in _DTYPES.items()}
"""By dtype.str: dtype.name is put together anew each time, which takes longer than all the rest of a frame."""


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
    """Front to worker: compute a batch. Arrays: ids, type_ids, offsets; and where the operation needs to know more of a text, extra and the
    offsets of its n parts."""

    batch: int
    model: str
    operation: str
    option: str


class ItemFailure(msgspec.Struct, frozen=True):
    """One text of a batch that has no answer."""

    index: int
    reason: str
    text: str


class Computed(Message, frozen=True):
    """Worker to front: a batch is done. The arrays of its output: each has a row a text, or, where it is ragged, rows for each text as the
    first array says, which holds n + 1 offsets and is none of the output. Rows of failed texts hold no meaning."""

    batch: int
    compute_ns: int
    """All the time that the worker spent on the batch; forward_ns and pool_ns are parts of it."""
    forward_ns: int = 0
    pool_ns: int = 0
    ragged: bool = False
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


def encode_frame(message: AnyMessage, arrays: Sequence[Array] = ()) -> list[Buffer]:
    """The frame as buffers to be written one after the other. The arrays of a large frame are not copied."""
    described: list[tuple[str, tuple[int, ...]]] = []
    body: list[Buffer] = []
    size = 0
    for array in arrays:
        name = _NAMES.get(array.dtype.str)
        if name is None:
            raise AssertionError(f"no frame carries {array.dtype}. This is a bug.")
        described.append((name, array.shape))
        if array.nbytes:  # a view of no bytes cannot be cast
            body.append((array if array.flags.c_contiguous else np.ascontiguousarray(array)).data.cast("B"))
        size += array.nbytes
        if gap := -array.nbytes % ALIGNMENT:
            body.append(bytes(gap))
            size += gap
    header = _encoder.encode(_Header(message, described))
    buffers = [PREFIX.pack(MAGIC, len(header), size) + header + bytes(-len(header) % ALIGNMENT), *body]
    return [b"".join(buffers)] if size <= JOINED_BYTES else buffers


def frame_bounds(prefix: Buffer) -> tuple[int, int, int]:
    """Where the header of the frame with this prefix ends, and where its body begins and ends, in bytes from the start of the frame. Raises
    FrameError."""
    magic, header_size, body_size = PREFIX.unpack(prefix)
    if magic != MAGIC or header_size + body_size > MAX_FRAME_BYTES:
        raise FrameError("the bytes between front and worker are not a frame")
    header_end = PREFIX.size + header_size
    body = header_end + -header_end % ALIGNMENT
    return header_end, body, body + body_size


def decode_frame(header: Buffer, body: NDArray[np.uint8]) -> tuple[AnyMessage, list[Array]]:
    """The message and its arrays, which are views into body. Raises FrameError."""
    try:
        decoded = _decoder.decode(header)
    except msgspec.MsgspecError as error:
        raise FrameError(f"a frame's header is broken: {error}") from error
    arrays: list[Array] = []
    position = 0
    for name, shape in decoded.arrays:
        dtype = _DTYPES.get(name)
        if dtype is None or any(length < 0 for length in shape):
            raise FrameError(f"a frame holds an array of {name} {shape}")
        size = math.prod(shape) * dtype.itemsize
        if position + size > body.nbytes:
            raise FrameError("a frame is shorter than its arrays")
        try:
            arrays.append(np.ndarray(shape, dtype, body, position))
        except (ValueError, OverflowError) as error:  # an empty array of a shape that numpy does not have
            raise FrameError(f"a frame holds an array of the shape {shape}") from error
        position += size + -size % ALIGNMENT
    return decoded.message, arrays


class FrameReader:
    """Cuts what comes out of a socket into frames.

        while count := sock.recv_into(reader.target()):
            for message, arrays in reader.received(count): ...

    Small frames are cut out of one buffer, so that a frame takes one read, and several that came together take one too. The memory of a
    larger one is its own from the moment that its size is known.
    """

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._filled = 0
        self._large: NDArray[np.uint8] | None = None
        self._bounds = (0, 0, 0)
        self._large_filled = 0

    def target(self) -> memoryview:
        """Where the next bytes belong. Never empty."""
        if self._large is not None:
            return self._large.data[self._large_filled :]
        return self._buffer[self._filled :]

    def received(self, count: int) -> Iterator[tuple[AnyMessage, list[Array]]]:
        """The frames that are whole now that target() has got count bytes more. Raises FrameError."""
        if self._large is not None:
            self._large_filled += count
            if self._large_filled == len(self._large):
                whole, self._large = self._large, None
                yield self._cut(whole)
            return
        self._filled += count
        low = 0
        while self._large is None and self._filled - low >= PREFIX.size:
            self._bounds = frame_bounds(self._buffer[low : low + PREFIX.size])
            size = self._bounds[2]
            here = min(size, self._filled - low)
            if here < size <= READ_BYTES:
                break
            whole = np.empty(size, dtype=np.uint8)
            whole.data[:here] = self._buffer[low : low + here]
            low += here
            if here == size:
                yield self._cut(whole)
            else:
                self._large, self._large_filled = whole, here
        self._buffer[: self._filled - low] = self._buffer[low : self._filled]
        self._filled -= low

    def _cut(self, whole: NDArray[np.uint8]) -> tuple[AnyMessage, list[Array]]:
        """The frame in its bytes."""
        header_end, body, _ = self._bounds
        return decode_frame(whole[PREFIX.size : header_end].data, whole[body:])


def send_frame(sock: socket.socket, message: AnyMessage, arrays: Sequence[Array] = ()) -> None:
    """Writes a frame to a blocking socket."""
    for buffer in encode_frame(message, arrays):
        sock.sendall(buffer)


def receive_frames(sock: socket.socket) -> Iterator[tuple[AnyMessage, list[Array]]]:
    """The frames that come out of a blocking socket, until the other end closes it. Raises FrameError."""
    reader = FrameReader()
    while count := sock.recv_into(reader.target()):
        yield from reader.received(count)
