"""500 vectors of 384 values into the bytes of an EmbedResponse: ours against the message API of protobuf."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hubwire.v1 import common_pb2, embedding_pb2
from hubwire_server._native import encode_vectors

VECTORS = np.random.default_rng(0).normal(size=(500, 384)).astype(np.float32)


def rest() -> bytes:
    """The rest of the response, as the server serializes it."""
    return embedding_pb2.EmbedResponse(dimensions=384, model=common_pb2.ServedModel(name="model")).SerializeToString()


def message_api() -> bytes:
    response = embedding_pb2.EmbedResponse(dimensions=384, model=common_pb2.ServedModel(name="model"))
    for row in VECTORS:
        response.vectors.add().values.extend(row.tolist())
    return response.SerializeToString()


def ours() -> bytes:
    return encode_vectors(VECTORS, field=embedding_pb2.EmbedResponse.VECTORS_FIELD_NUMBER) + rest()


def test_message_api(compare: Callable[..., float]) -> None:
    assert embedding_pb2.EmbedResponse.FromString(ours()) == embedding_pb2.EmbedResponse.FromString(message_api())
    compare("wire_vs_message_api", ours, message_api, rounds=50)


def test_int8_against_numpy(compare: Callable[..., float]) -> None:
    def numpy() -> bytes:
        response = embedding_pb2.EmbedResponse(dimensions=384, model=common_pb2.ServedModel(name="model"))
        norms = np.linalg.norm(VECTORS, axis=1, keepdims=True)
        rows = VECTORS / norms
        scales = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
        for row, scale in zip(np.rint(rows / scales).astype(np.int8), scales, strict=True):
            response.vectors.add(data=row.tobytes(), scale=scale[0])
        return response.SerializeToString()

    compare(
        "wire_int8_vs_numpy_and_message_api",
        lambda: encode_vectors(VECTORS, field=1, normalize=True, encoding="int8_bytes") + rest(),
        numpy,
        rounds=50,
    )
