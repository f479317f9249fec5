"""Keeps one worker process alive for a device.

    STARTING ── Hello ──▶ UP ── socket closed, process ended, or something hung ──▶ BACKOFF ──▶ STARTING
        any state ── stop() ──▶ STOPPED

A model stays with the supervisor from `load` to `unload`: each new worker loads it again.

The worker does one thing at a time, in the order in which it was asked, so what was asked first and is not answered yet is what it is
doing: that alone is timed by the watchdog, and that alone is suspect when the worker dies.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import LoadedModel, LoadSpec
from hubwire_server.scheduling.clock import MONOTONIC, Clock
from hubwire_server.workers import frames
from hubwire_server.workers.connection import Connection

log = logging.getLogger("hubwire.supervisor")

WORKER_COMMAND = (sys.executable, "-m", "hubwire_server.workers.main")
FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 10.0
HEALTHY_SECONDS = 30.0
"""A worker that lived this long starts the backoff anew."""
MAX_DEATHS_PER_LOAD = 3
"""A model is given up when the worker died this often in a row while loading it, or, before its first load, while starting."""
EXIT_SECONDS = 2.0
"""How long a worker gets to end by itself once its socket is closed."""
WATCHDOG_SECONDS = 0.25


class Listener(Protocol):
    """Hears what happens to a worker."""

    def on_computed(self, message: frames.Computed | frames.BatchFailed, arrays: list[NDArray[Any]]) -> None:
        """A batch is done."""
        ...

    def on_died(self, suspect: int | None) -> None:
        """The worker is gone, and every batch that it had been sent with it. suspect is the number of the batch that it was computing."""
        ...

    def on_model(self, key: str, loaded: LoadedModel | HubwireError | None) -> None:
        """A model became ready, could not be loaded and is forgotten, or (None) waits for a worker to come back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker is started and watched."""

    command: Sequence[str] = WORKER_COMMAND
    environment: dict[str, str] | None = None
    """The worker's environment; None is this process's own."""
    log_level: str = "INFO"
    hang_timeout_s: float = 60.0
    """A batch that takes longer means that the worker hangs: it is killed."""
    load_timeout_s: float = 900.0
    """The same for loading a model."""


class State(Enum):
    """Where the worker stands."""

    STARTING = auto()
    UP = auto()
    BACKOFF = auto()
    STOPPED = auto()


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the worker was asked to do and has not answered: to load a model, or to compute a batch."""

    load: str = ""
    batch: int = 0


@dataclass(eq=False, slots=True)
class _Model:
    spec: LoadSpec
    ready: bool = False
    deaths: int = 0
    fingerprint: str = ""
    first_load: asyncio.Future[LoadedModel] | None = None


class Supervisor:
    """One worker process, and the models that it holds."""

    def __init__(self, options: WorkerOptions, listener: Listener, clock: Clock = MONOTONIC) -> None:
        self._options = options
        self._listener = listener
        self._clock = clock
        self._models: dict[str, _Model] = {}
        self._asked: deque[_Asked] = deque()
        self._doing_since_ns = 0
        self._process: Process | None = None
        self._connection: Connection | None = None
        self._lost = asyncio.Event()
        self._greeted = False
        self._main: asyncio.Task[None] | None = None
        self.state = State.STOPPED
        self.restarts = 0
        """How many times a worker was started after one that died."""

    @property
    def pid(self) -> int | None:
        """The process id of the worker, where one runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Starts the worker, and a new one whenever it dies, until `stop`. Once: what was started already goes on."""
        if self._main is not None:
            return
        self.state = State.STARTING
        self._main = asyncio.create_task(self._keep_alive(), name="worker-supervisor")

    async def stop(self) -> None:
        """Ends the worker."""
        self.state = State.STOPPED
        if self._main is not None:
            self._main.cancel()
            await asyncio.gather(self._main, return_exceptions=True)
        await self._end_process()

    def holds(self, key: str) -> bool:
        """Whether the model was loaded and not unloaded, so that it is ready or will be."""
        return key in self._models

    def is_ready(self, key: str) -> bool:
        """Whether the worker can compute with this model now."""
        return self.state is State.UP and key in self._models and self._models[key].ready

    async def load(self, spec: LoadSpec) -> LoadedModel:
        """Loads a model and keeps it loaded. Raises HubwireError where it cannot be loaded; it is forgotten then."""
        model = self._models[spec.key] = _Model(spec, first_load=asyncio.get_running_loop().create_future())
        assert model.first_load is not None
        if self.state is State.UP:
            self._send_load(model)
        return await model.first_load

    def unload(self, key: str) -> None:
        """Frees a model."""
        model = self._models.pop(key, None)
        if model is not None and self._connection is not None:
            self._connection.send(frames.Unload(key=key))

    def compute(self, message: frames.Forward, arrays: Sequence[NDArray[Any]]) -> None:
        """Sends a batch. Its outcome comes through the listener: on_computed, or on_died."""
        self._ask(_Asked(batch=message.batch), message, arrays)

    # The life of a process

    async def _keep_alive(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            started = self._clock()
            try:
                await self._run_once()
            except OSError as error:
                log.error("the worker could not be started: %s", error)
            except Exception:
                log.exception("supervising the worker failed; this is a bug")
            if (self._clock() - started) / 1e9 >= HEALTHY_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            self.state = State.BACKOFF
            try:
                self._hand_back()
            except Exception:
                log.exception("handing work back failed; this is a bug")
            log.warning("the worker ended (%s); a new one starts in %.1f s", self._exit_text(), backoff)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)
            self.restarts += 1
            self.state = State.STARTING

    async def _run_once(self) -> None:
        """Starts a worker and returns when it is gone."""
        self._lost.clear()
        self._asked.clear()
        self._greeted = False
        self._doing_since_ns = self._clock()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            try:
                self._process = await self._spawn(theirs)
            finally:
                theirs.close()
            self._connection = await Connection.open(ours, self._on_frame, self._on_lost)
        except BaseException:
            ours.close()
            raise
        watchdog = asyncio.create_task(self._watch())
        try:
            await self._lost.wait()
        finally:
            watchdog.cancel()
            await self._end_process()

    async def _spawn(self, sock: socket.socket) -> Process:
        return await asyncio.create_subprocess_exec(
            *self._options.command,
            f"--fd={sock.fileno()}",
            f"--log-level={self._options.log_level}",
            pass_fds=(sock.fileno(),),
            stdin=asyncio.subprocess.DEVNULL,
            env=self._options.environment,
            # Ctrl-C in a terminal reaches the whole process group; the worker must outlive it while the front drains.
            start_new_session=True,
        )

    async def _watch(self) -> None:
        """Kills a worker that hangs."""
        while True:
            await asyncio.sleep(WATCHDOG_SECONDS)
            if self._process is None or (self._greeted and not self._asked):
                continue
            computing = self._greeted and not self._asked[0].load
            limit_s = self._options.hang_timeout_s if computing else self._options.load_timeout_s
            if (self._clock() - self._doing_since_ns) / 1e9 > limit_s:
                what = "a batch has been computed" if computing else "the worker has been starting, or loading a model,"
                log.error("%s for more than %.1f s: the worker is killed", what, limit_s)
                self._doing_since_ns = self._clock()
                self._process.kill()

    async def _end_process(self) -> None:
        connection, self._connection = self._connection, None
        process = self._process
        if connection is not None:
            connection.close()
        if process is not None and process.returncode is None:
            # Most often it has ended already, or does so at once. To signal a process that has would reap it behind asyncio's back.
            try:
                await asyncio.wait_for(process.wait(), EXIT_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()

    def _exit_text(self) -> str:
        code = self._process.returncode if self._process is not None else None
        if code is None:
            return "never started"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _hand_back(self) -> None:
        """Tells the listener what the death of the worker means for batches and models."""
        doing = self._asked[0] if self._asked else _Asked()
        self._asked.clear()
        for key, model in list(self._models.items()):
            model.ready = False
            if key == doing.load or (not self._greeted and model.first_load is not None):
                model.deaths += 1
            if model.deaths >= MAX_DEATHS_PER_LOAD:
                text = f"the worker ended {model.deaths} times while it loaded the model ({self._exit_text()})"
                self._give_up(key, HubwireError(Reason.MODEL_LOAD_FAILED, text))
            else:
                self._listener.on_model(key, None)
        self._listener.on_died(doing.batch or None)

    # Frames

    def _ask(self, asked: _Asked, message: frames.AnyMessage, arrays: Sequence[NDArray[Any]] = ()) -> None:
        assert self._connection is not None
        if not self._asked:
            self._doing_since_ns = self._clock()
        self._asked.append(asked)
        self._connection.send(message, arrays)

    def _answered(self, asked: _Asked) -> None:
        """The worker goes on to what it was asked next."""
        if self._asked.popleft() != asked:
            raise AssertionError(f"the worker answered {asked} out of turn. This is a bug.")
        self._doing_since_ns = self._clock()

    def _send_load(self, model: _Model) -> None:
        self._ask(_Asked(load=model.spec.key), frames.Load(spec=model.spec))

    def _on_lost(self) -> None:
        """Nothing more is sent to this worker, before anything else happens."""
        if self.state is State.UP:
            self.state = State.BACKOFF
        self._lost.set()

    def _on_frame(self, message: frames.AnyMessage, arrays: list[NDArray[Any]]) -> None:
        match message:
            case frames.Computed() | frames.BatchFailed():
                self._answered(_Asked(batch=message.batch))
                self._listener.on_computed(message, arrays)
            case frames.Hello():
                self.state = State.UP
                self._greeted = True
                for model in self._models.values():
                    self._send_load(model)
            case frames.Loaded():
                self._answered(_Asked(load=message.key))
                if message.key in self._models:  # else it was unloaded meanwhile
                    self._on_loaded(self._models[message.key], message, arrays)
            case frames.LoadFailed():
                self._answered(_Asked(load=message.key))
                if message.key in self._models:
                    self._give_up(message.key, HubwireError(Reason(message.reason), message.text))
            case _:
                raise AssertionError(f"the worker sent {type(message).__name__}. This is a bug.")

    def _on_loaded(self, model: _Model, message: frames.Loaded, arrays: list[NDArray[Any]]) -> None:
        fingerprint = message.description.fingerprint
        if model.fingerprint not in ("", fingerprint):
            # The texts that wait were tokenized for the model as it was, and callers keep vectors under its fingerprint.
            self.unload(model.spec.key)
            text = "the files of the model changed while it was served; load it again"
            self._listener.on_model(model.spec.key, HubwireError(Reason.MODEL_LOAD_FAILED, text))
            return
        model.fingerprint = fingerprint
        model.ready = True
        model.deaths = 0
        loaded = LoadedModel(message.description, np.asarray(arrays[0]).tobytes().decode())
        self._listener.on_model(model.spec.key, loaded)
        if model.first_load is not None:
            first_load, model.first_load = model.first_load, None
            if not first_load.done():
                first_load.set_result(loaded)

    def _give_up(self, key: str, error: HubwireError) -> None:
        model = self._models.pop(key)
        self._listener.on_model(key, error)
        if model.first_load is not None and not model.first_load.done():
            model.first_load.set_exception(error)
