"""The same case through every door: raw gRPC, the sync client, the asyncio client, both streams, and the command line give the same
answer."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

import hubwire
import hubwire.aio
from hubwire.v1 import embedding_pb2, embedding_pb2_grpc
from tests.conftest import Server
from tests.rpc.conftest import read_error

TEXTS = ["w1", "w2 w3 w4", "né 😀 w5"]
COMMAND = str(Path(sys.executable).with_name("hubwire"))

# What is asked: the options of the Python client.
CASES = {
    "defaults": {},
    "normalized": {"normalize": True},
    "another pooling": {"pooling": "max"},
    "fewer dimensions": {"dimensions": 3, "normalize": True},
    "a prompt": {"prompt": "w7 "},
    "a named prompt": {"prompt_name": "query"},
    "truncated": {"truncate": "left", "max_tokens": 3},
}
# What is refused, and why.
REFUSED = {
    "an unknown model": ({"model": "none"}, "MODEL_NOT_FOUND"),
    "too many dimensions": ({"dimensions": 99}, "VALUE_OUT_OF_RANGE"),
    "an unknown prompt": ({"prompt_name": "none"}, "PROMPT_NOT_FOUND"),
}


class RefusedError(Exception):
    """What a door says instead of an answer."""


def raw(server: Server, model: str = "", **asked) -> np.ndarray:
    """The wire itself."""
    options = embedding_pb2.EmbedOptions()
    for name, value in asked.items():
        match name:
            case "pooling":
                options.pooling = embedding_pb2.Pooling.Value(f"POOLING_{value.upper()}")
            case "truncate":
                options.truncation.side = {"right": 1, "left": 2}[value]
            case "max_tokens":
                options.truncation.max_tokens = value
            case _:
                setattr(options, name, value)
    try:
        request = embedding_pb2.EmbedRequest(model=model, texts=TEXTS, options=options)
        response = embedding_pb2_grpc.EmbeddingServiceStub(server.channel).Embed(request, timeout=30)
    except grpc.RpcError as error:
        raise RefusedError(read_error(error).reason) from error
    return np.array([vector.values for vector in response.vectors], dtype=np.float32)


def sync(server: Server, **asked) -> np.ndarray:
    """hubwire.Client.embed."""
    with hubwire.Client(server.address) as client:
        return client.embed(TEXTS, **asked)


def sync_stream(server: Server, **asked) -> np.ndarray:
    """hubwire.Client.stream_embed."""
    with hubwire.Client(server.address) as client:
        answers = dict(client.stream_embed(TEXTS, **asked))
    return np.stack([answers[index] for index in range(len(TEXTS))])


def aio(server: Server, **asked) -> np.ndarray:
    """hubwire.aio.Client.embed."""

    async def run() -> np.ndarray:
        async with hubwire.aio.Client(server.address) as client:
            return await client.embed(TEXTS, **asked)

    return asyncio.run(run())


def aio_stream(server: Server, **asked) -> np.ndarray:
    """hubwire.aio.Client.stream_embed, in order."""

    async def run() -> np.ndarray:
        async with hubwire.aio.Client(server.address) as client:
            return np.stack([vector async for _, vector in client.stream_embed(TEXTS, ordered=True, **asked)])

    return asyncio.run(run())


def command_line(server: Server, **asked) -> np.ndarray:
    """hubwire embed --json."""
    arguments = []
    for name, value in asked.items():
        flag = f"--{name.replace('_', '-')}"
        arguments += [flag] if value is True else [f"{flag}={value}"]
    ended = subprocess.run(
        [COMMAND, "embed", "--json", "--address", server.address, *arguments, *TEXTS],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if ended.returncode:
        assert ended.returncode == 1
        assert len(ended.stderr.splitlines()) == 1
        raise RefusedError(ended.stderr)
    return np.array([vector["values"] for vector in json.loads(ended.stdout)["vectors"]], dtype=np.float32)


DOORS: list[Callable[..., np.ndarray]] = [sync, sync_stream, aio, aio_stream, command_line]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_every_door_gives_the_same_vectors(server, door, case):
    np.testing.assert_allclose(door(server, **CASES[case]), raw(server, **CASES[case]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("door", [raw, *DOORS], ids=lambda door: door.__name__)
def test_every_door_refuses_for_the_same_reason(server, door, case):
    asked, reason = REFUSED[case]
    with pytest.raises((RefusedError, hubwire.HubwireError)) as caught:
        door(server, **asked)
    if isinstance(caught.value, hubwire.HubwireError):
        assert caught.value.reason == reason
    elif door is raw:
        assert str(caught.value) == reason
    else:  # the command line speaks to people
        assert str(caught.value).startswith("hubwire: ")
