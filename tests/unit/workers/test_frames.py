"""Frames: what is written is what is read, and what is no frame is refused."""

from __future__ import annotations

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
    frames.Forward(batch=1, model="m", operation="pool", pooling=""),
    frames.Computed(batch=2**40, compute_ns=5, failures=(frames.ItemFailure(3, "OUTPUT_NOT_FINITE", "t"),)),
    frames.BatchFailed(batch=1, reason="INTERNAL", text=""),
]


def through_bytes(message, arrays):
    data = b"".join(bytes(buffer) for buffer in frames.encode_frame(message, arrays))
    header_size, body_size = frames.frame_size(data[: frames.PREFIX.size])
    low = frames.PREFIX.size
    assert low + header_size + body_size == len(data)
    return frames.decode_frame(data[low : low + header_size], np.frombuffer(data[low + header_size :], dtype=np.uint8).copy())


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
        frames.frame_size(prefix)


@pytest.mark.parametrize(
    "arrays",
    [[("float32", (100,))], [("object", (1,))], [("uint8", (-1,))]],
    ids=["longer than the body", "of a type that is never sent", "of a negative size"],
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
        received = frames.receive_frame(theirs)
        assert received is not None
        assert received[0] == MESSAGES[5]
        np.testing.assert_array_equal(received[1][0], array)
        assert frames.receive_frame(theirs) is None
        sender.join()
