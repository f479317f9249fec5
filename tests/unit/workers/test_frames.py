"""Frames: what is written is what is read, and what is no frame is refused."""

from __future__ import annotations

import itertools
import socket
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hubwire_server.errors import Reason
from hubwire_server.models.description import LoadSpec, Task
from hubwire_server.workers import frames

SPEC = LoadSpec(
    key="m#1",
    path="/m",
    task=Task.EMBEDDING,
    device="cpu",
    backend="auto",
    dtype="auto",
    threads=2,
    cache_dir="",
    allow_pickle=False,
    allow_remote_code=True,
)
MESSAGES = [
    frames.Hello(pid=7),
    frames.Load(spec=SPEC),
    frames.LoadFailed(key="m#1", reason=Reason.MODEL_LOAD_FAILED, text="é ✂"),
    frames.Unload(key="m#1"),
    frames.Forward(batch=1, model="m", operation="pool", option=""),
    frames.Computed(batch=2**40, compute_ns=5, forward_ns=3, pool_ns=1, failures=(frames.ItemFailure(3, "OUTPUT_NOT_FINITE", "t"),)),
    frames.BatchFailed(batch=1, reason="INTERNAL", text=""),
]


def through_bytes(message, arrays):
    data = b"".join(bytes(buffer) for buffer in frames.encode_frame(message, arrays))
    header_end, body, end = frames.frame_bounds(data[: frames.PREFIX.size])
    assert end == len(data)
    assert body % frames.ALIGNMENT == 0
    return frames.decode_frame(data[frames.PREFIX.size : header_end], np.frombuffer(data[body:], dtype=np.uint8).copy())


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_each_message_comes_back_as_it_was(message):
    assert through_bytes(message, []) == (message, [])


@given(
    st.lists(
        hnp.arrays(
            st.sampled_from([np.bool_, np.uint8, np.int32, np.int64, np.float32]),
            hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5),
        ),
        max_size=4,
    )
)
def test_arrays_of_any_shape_come_back_aligned_and_equal(arrays):
    _, received = through_bytes(frames.Hello(pid=1), arrays)
    assert len(received) == len(arrays)
    for ours, theirs in zip(arrays, received, strict=True):
        assert theirs.dtype == ours.dtype
        assert theirs.flags.aligned
        np.testing.assert_array_equal(theirs, ours)


def test_an_array_of_any_length_comes_back_whatever_byte_ends_the_header():
    """The last dimension is the last field of a header, so that between them these lengths end it in each of the 256 bytes."""
    lengths = range(1101)
    data = b"".join(
        bytes(buffer) for length in lengths for buffer in frames.encode_frame(MESSAGES[4], [np.full(length, length % 256, dtype=np.uint8)])
    )
    received = through_reader(data, itertools.repeat(frames.READ_BYTES))
    assert [message for message, _ in received] == [MESSAGES[4]] * len(lengths)
    for length, (_, (array,)) in zip(lengths, received, strict=True):
        np.testing.assert_array_equal(array, np.full(length, length % 256, dtype=np.uint8))


def test_an_array_that_is_not_contiguous_is_sent_by_value():
    array = np.arange(12, dtype=np.int32).reshape(3, 4).T
    _, (received,) = through_bytes(frames.Hello(pid=1), [array])
    np.testing.assert_array_equal(received, array)


@pytest.mark.parametrize(
    "prefix",
    [frames.PREFIX.pack(b"HTTP", 1, 1), frames.PREFIX.pack(frames.MAGIC, 1, 2**60)],
    ids=["another protocol", "a size that no frame has"],
)
def test_a_prefix_that_is_none_is_refused(prefix):
    with pytest.raises(frames.FrameError):
        frames.frame_bounds(prefix)


@pytest.mark.parametrize(
    "arrays",
    [[("float32", (100,))], [("object", (1,))], [("uint8", (-1,))], [("uint8", (0,) * 100)], [("uint8", (0, 2**63 - 1, 2**63 - 1))]],
    ids=["longer than the body", "of a type that is never sent", "of a negative size", "of too many dimensions", "empty and too large"],
)
def test_an_array_that_cannot_be_is_refused(arrays):
    header = frames._encoder.encode(frames._Header(frames.Hello(pid=1), arrays))
    with pytest.raises(frames.FrameError):
        frames.decode_frame(header, np.zeros(16, dtype=np.uint8))


@given(st.binary(max_size=64))
def test_bytes_that_are_no_header_are_refused_and_nothing_worse(data):
    try:
        message, _ = frames.decode_frame(data, np.zeros(16, dtype=np.uint8))
    except frames.FrameError:
        return
    assert isinstance(message, frames.Message)


def test_a_large_frame_passes_through_a_socket_and_the_end_of_it_is_seen():
    ours, theirs = socket.socketpair()
    array = np.arange(1_000_000, dtype=np.float32)
    sender = threading.Thread(target=lambda: (frames.send_frame(ours, MESSAGES[5], [array]), ours.close()))
    with theirs:
        sender.start()
        ((message, (received,)),) = frames.receive_frames(theirs)
        assert message == MESSAGES[5]
        np.testing.assert_array_equal(received, array)
        sender.join()


def through_reader(data, sizes):
    """What comes out of a reader that is given the bytes in pieces of these sizes, again and again."""
    reader = frames.FrameReader()
    received = []
    while data:
        target = reader.target()
        count = min(next(sizes), len(target), len(data))
        target[:count] = data[:count]
        data = data[count:]
        received += reader.received(count)
    return received


@pytest.mark.parametrize(
    "sizes",
    [[1], [5, 3, 16], [frames.READ_BYTES], [100_000, 1]],
    ids=["a byte at a time", "a few bytes", "as much as there is", "large and small"],
)
def test_frames_come_out_whole_however_their_bytes_arrive(sizes):
    small = [
        (message, [np.arange(count, dtype=np.int32), np.full((2, count), 0.5, dtype=np.float32)]) for count, message in enumerate(MESSAGES)
    ]
    sent = small if sizes == [1] else [*small, (MESSAGES[5], [np.arange(frames.READ_BYTES, dtype=np.float32)]), *small]
    data = b"".join(bytes(buffer) for message, arrays in sent for buffer in frames.encode_frame(message, arrays))
    received = through_reader(data, itertools.cycle(sizes))
    assert [message for message, _ in received] == [message for message, _ in sent]
    for (_, ours), (_, theirs) in zip(sent, received, strict=True):
        for array, copy in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(copy, array)
            assert copy.flags.aligned
            assert copy.flags.writeable  # torch warns of what is not


def test_frames_that_are_kept_do_not_change_when_others_follow():
    first, second = (b"".join(bytes(part) for part in frames.encode_frame(MESSAGES[0], [np.full(4, value)])) for value in (1, 2))
    reader = frames.FrameReader()
    kept = []
    for data in (first, second):
        reader.target()[: len(data)] = data
        kept += reader.received(len(data))
    assert [arrays[0].tolist() for _, arrays in kept] == [[1] * 4, [2] * 4]


@pytest.mark.parametrize("size", [frames.PREFIX.size, frames.PREFIX.size + 40], ids=["at the prefix", "after it"])
def test_bytes_that_are_no_frame_end_the_reading(size):
    reader = frames.FrameReader()
    reader.target()[:size] = bytes(size)
    with pytest.raises(frames.FrameError):
        list(reader.received(size))
