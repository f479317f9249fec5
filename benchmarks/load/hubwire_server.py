"""The server under test, started as its users start it."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from benchmarks.load.processes import Process, accepts, free_port
from hubwire.v1 import embedding_pb2, embedding_pb2_grpc, model_pb2, model_pb2_grpc
from hubwire_server.settings import parse

START_TIMEOUT_S = 120.0
"""A cold start exports the model and imports torch."""
# A channel that finds nobody at its address would wait a second before it tries again, which would count as start-up.
CHANNEL_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.min_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 50)]


class HubwireServer:
    """`hubwire serve` in a process of its own, with its worker."""

    def __init__(self, arguments: str | Sequence[str] = "", *, log: Path) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.arguments = shlex.split(arguments) if isinstance(arguments, str) else list(arguments)
        command = [str(Path(sys.executable).with_name("hubwire")), "serve", "--address", self.address, *self.arguments]
        start = time.perf_counter()
        self.process = Process(command, log=log)
        try:
            self.process.wait_until(lambda: accepts(port), START_TIMEOUT_S)
            with grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS) as channel:
                self.process.wait_until(lambda: embeds(channel, self.process), START_TIMEOUT_S)
                self.first_embedding_s = time.perf_counter() - start
                """From the start of the process to its first embedding."""
                self.model = self._describe(channel)
                """The default model as the server describes it."""
        except BaseException:
            self.process.stop()
            raise

    def _describe(self, channel: grpc.Channel) -> dict[str, Any]:
        models = model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest(), timeout=10).models
        model = next(model for model in models if model.default_for_task)
        return {"source": model.source, "backend": model.backend, "dtype": model.dtype, "device": model.device, "packed": model.packed}

    def load_options(self) -> dict[str, Any]:
        """Fields of LoadOptions with which the default model is loaded in the same way: what the server chose is asked for."""
        settings = parse(self.arguments)
        chosen = {"backend": self.model["backend"], "dtype": self.model["dtype"], "device": self.model["device"]}
        return chosen | {"threads": settings.worker_threads, "cache_dir": str(settings.cache_dir)}

    def embed(self, texts: Sequence[str], per_request: int) -> list[list[float]]:
        """The vectors of texts, for comparison."""
        with grpc.insecure_channel(self.address) as channel:
            embed = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed
            requests = [embedding_pb2.EmbedRequest(texts=texts[low : low + per_request]) for low in range(0, len(texts), per_request)]
            # All at once, so that texts of many requests share their batches.
            responses = [call.result() for call in [embed.future(request, timeout=60) for request in requests]]
        return [list(vector.values) for response in responses for vector in response.vectors]

    def stop(self) -> None:
        """Ends the server and its worker."""
        self.process.stop()


def embeds(channel: grpc.Channel, process: Process) -> bool:
    """Whether a server embeds. Raises NotRunError where it says that it never will."""
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    try:
        return len(stub.Embed(embedding_pb2.EmbedRequest(texts=["first"]), timeout=10).vectors) == 1
    except grpc.RpcError as error:
        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise process.failure(f"{error.code().name}: {error.details()}") from error
        return False
