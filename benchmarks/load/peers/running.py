"""The peers, started: what is measured of each is asked for in the same words, whatever it speaks."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc

from benchmarks.load import environments, ghz, http_driver, results
from benchmarks.load.ghz import UnaryLoad
from benchmarks.load.hubwire_server import CHANNEL_OPTIONS, HubwireServer, embeds
from benchmarks.load.latency import Run
from benchmarks.load.processes import Child, NotRunError, Process, accepts, free_port
from hubwire.v1 import embedding_pb2, embedding_pb2_grpc

START_TIMEOUT_S = 120.0
GRPC_ENVIRONMENT = {"PYTHONPATH": str(results.ROOT / "clients/python"), "HF_HUB_OFFLINE": "1"}
"""The handlers need the generated stubs, which need nothing but protobuf and grpcio."""
HTTP_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
HTTP_MODEL = "model"


class Peer(Protocol):
    """A server, or the bare loop, that is up."""

    label: str
    versions: dict[str, str]

    def drive(self, load: UnaryLoad) -> Run:
        """Runs a load; the address of the load is not read."""
        ...

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """The vectors of texts."""
        ...

    def memory_mb(self) -> float:
        """Resident memory of all its processes."""
        ...

    def stop(self) -> None:
        """Ends it."""
        ...


class Hubwire:
    """The server under test."""

    label = "Hubwire"

    def __init__(self, arguments: str, log: Path) -> None:
        self.server = HubwireServer(arguments, log=log)
        self.versions = results.versions()

    def drive(self, load: UnaryLoad) -> Run:
        return ghz.run(dataclasses.replace(load, address=self.server.address))

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return self.server.embed(texts, len(texts))

    def memory_mb(self) -> float:
        return self.server.process.memory_mb()["rss_mb"]

    def stop(self) -> None:
        self.server.stop()


class GrpcPeer:
    """A plain grpc.aio handler around an engine (grpc_handler.py)."""

    def __init__(self, engine: str, folder: Path, log: Path) -> None:
        self.label = f"{engine} + grpc.aio"
        python = environments.python_of(engine)
        self.versions = environments.installed(python)
        port = free_port()
        self._address = f"127.0.0.1:{port}"
        module = "benchmarks.load.peers.grpc_handler"
        command = [python, "-m", module, engine, str(port), str(folder), str(results.cores())]
        self._process = Process(command, log=log, env=GRPC_ENVIRONMENT)
        with grpc.insecure_channel(self._address, options=CHANNEL_OPTIONS) as channel:
            _until_ready(self._process, lambda: accepts(port) and embeds(channel, self._process))

    def drive(self, load: UnaryLoad) -> Run:
        return ghz.run(dataclasses.replace(load, address=self._address))

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        with grpc.insecure_channel(self._address) as channel:
            response = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed(embedding_pb2.EmbedRequest(texts=texts), timeout=60)
        return [list(vector.values) for vector in response.vectors]

    def memory_mb(self) -> float:
        return self._process.memory_mb()["rss_mb"]

    def stop(self) -> None:
        self._process.stop()


class InfinityPeer:
    """Infinity over HTTP with its own dynamic batching, at its defaults for a CPU."""

    def __init__(self, engine: str, folder: Path, log: Path) -> None:
        self.label = f"Infinity ({'torch' if engine == 'torch' else 'ONNX Runtime'}) + HTTP"
        python = environments.python_of("infinity" if engine == "torch" else "infinity-onnx")
        self.versions = environments.installed(python)
        port = free_port()
        self._address = f"127.0.0.1:{port}"
        command = [str(Path(python).with_name("infinity_emb")), "v2", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--engine", engine, "--device", "cpu", "--served-model-name", HTTP_MODEL]
        if engine == "torch":
            command += ["--model-id", str(folder)]
        else:
            # It finds a graph in the current folder alone, and takes the first token where it is not told to take the mean.
            command += ["--model-id", ".", "--pooling-method", "mean"]
        self._process = Process(command, log=log, env=HTTP_ENVIRONMENT, folder=folder if engine != "torch" else None)
        _until_ready(self._process, lambda: accepts(port))

    def drive(self, load: UnaryLoad) -> Run:
        return http_driver.run(dataclasses.replace(load, address=self._address), HTTP_MODEL)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return http_driver.embed(self._address, HTTP_MODEL, texts)

    def memory_mb(self) -> float:
        return self._process.memory_mb()["rss_mb"]

    def stop(self) -> None:
        self._process.stop()


class BarePeer:
    """The floor: no server. One caller gets one text after the other, many callers get batches, and an open loop one after the other."""

    label = "bare ONNX Runtime loop"

    def __init__(self, folder: Path, log: Path) -> None:
        python = environments.python_of("onnxruntime")
        self.versions = environments.installed(python)
        self._child = Child("benchmarks.load.bare", [str(folder), str(results.cores())], log=log, python=python)

    def drive(self, load: UnaryLoad) -> Run:
        texts = [request[0] for request in load.requests]
        if load.rate_per_s:
            figures = self._child.ask("at_rate", texts=texts, count=load.total, rate_per_s=load.rate_per_s)
        elif load.concurrency == 1:
            figures = self._child.ask("one_by_one", texts=texts, count=load.total)
        else:
            figures = self._child.ask("in_batches", texts=texts, count=load.total)
        return Run.of((begin, latency, "") for begin, latency in zip(figures["begins_s"], figures["latencies_s"], strict=True))

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [list(vector) for vector in self._child.ask("vectors", texts=list(texts))["vectors"]]

    def memory_mb(self) -> float:
        return self._child.memory_mb()["rss_mb"]

    def stop(self) -> None:
        self._child.stop()


def starters(folder: Path, export: Path, server_args: str, logs: Path) -> dict[str, Callable[[], Peer]]:
    """How each peer is started, by name. Starting raises NotRunError where a peer cannot be had here."""
    return {
        "hubwire": lambda: Hubwire(server_args, logs / "hubwire.log"),
        "sentence-transformers": lambda: GrpcPeer("sentence-transformers", folder, logs / "sentence-transformers.log"),
        "transformers": lambda: GrpcPeer("transformers", folder, logs / "transformers.log"),
        "infinity": lambda: InfinityPeer("torch", folder, logs / "infinity.log"),
        "infinity-onnx": lambda: InfinityPeer("optimum", flat_copy(export), logs / "infinity-onnx.log"),
        "bare": lambda: BarePeer(export, logs / "bare-peer.log"),
    }


def start_all(
    starters: dict[str, Callable[[], Any]], stack: contextlib.ExitStack, say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Starts what can be started; the stack ends it. Returns the peers that are up, and for each other one why it was not run."""
    up, not_run = {}, {}
    for name, start in starters.items():
        say(f"starting {name}")
        try:
            up[name] = start()
        except NotRunError as error:
            not_run[name] = str(error)
            say(f"{name} is not run: {error}")
        else:
            stack.callback(up[name].stop)
    return up, not_run


def flat_copy(export: Path) -> Path:
    """The exported model with its graph beside its other files, where Infinity looks for it."""
    flat = export.with_name(export.name + "-flat")
    if not flat.exists():
        partial = flat.with_name(flat.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(export, partial)
        (partial / "onnx/model.onnx").rename(partial / "model.onnx")
        partial.rename(flat)
    return flat


def _until_ready(process: Process, ready: Callable[[], bool]) -> None:
    try:
        process.wait_until(ready, START_TIMEOUT_S, every_s=0.1)
    except BaseException:
        process.stop()
        raise
