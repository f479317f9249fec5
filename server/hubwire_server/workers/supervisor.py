"""Keeps one worker process alive for a device.

    STARTING ── Hello ──▶ UP ── socket closed, process ended, or a computation hung ──▶ BACKOFF ──▶ STARTING
        any state ── stop() ──▶ STOPPED

A model stays with the supervisor from `load` to `unload`: each new worker loads it again. What was on the device when a worker died is
handed back through `on_died`; the dispatcher decides what happens to it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from dataclasses import dataclass, field
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
"""A model that was never ready, and during whose loading the worker ended this often, is given up."""
EXIT_SECONDS = 2.0
"""How long a worker gets to end by itself once its socket is closed."""
WATCHDOG_SECONDS = 0.25


class Listener(Protocol):
    """Hears what happens to a worker."""

    def on_computed(self, message: frames.Computed | frames.BatchFailed, arrays: list[NDArray[Any]]) -> None:
        """A batch is done."""
        ...

    def on_died(self) -> None:
        """The worker is gone, and every batch that it had been sent with it."""
        ...

    def on_model(self, name: str, loaded: LoadedModel | HubwireError | None) -> None:
        """A model became ready, could not be loaded, or (None) waits for a worker to come back."""
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


class State(Enum):
    """Where the worker stands."""

    STARTING = auto()
    UP = auto()
    BACKOFF = auto()
    STOPPED = auto()


@dataclass(slots=True)
class _Model:
    spec: LoadSpec
    ready: bool = False
    deaths: int = 0
    waiters: list[asyncio.Future[LoadedModel]] = field(default_factory=list)


class Supervisor:
    """One worker process, and the models that it holds."""

    def __init__(self, options: WorkerOptions, listener: Listener, clock: Clock = MONOTONIC) -> None:
        self._options = options
        self._listener = listener
        self._clock = clock
        self._models: dict[str, _Model] = {}
        self._loading: list[str] = []
        self._process: Process | None = None
        self._connection: Connection | None = None
        self._lost = asyncio.Event()
        self._greeted = False
        self._computing_since: int | None = None
        self._main: asyncio.Task[None] | None = None
        self.state = State.STOPPED
        self.restarts = 0
        """How many times a worker was started after one that died."""

    @property
    def pid(self) -> int | None:
        """The process id of the worker, where one runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Starts the worker, and a new one whenever it dies, until `stop`."""
        self.state = State.STARTING
        self._main = asyncio.create_task(self._keep_alive(), name="worker-supervisor")

    async def stop(self) -> None:
        """Ends the worker."""
        self.state = State.STOPPED
        if self._main is not None:
            self._main.cancel()
            await asyncio.gather(self._main, return_exceptions=True)
        await self._end_process()

    def is_ready(self, model: str) -> bool:
        """Whether the worker can compute with this model now."""
        return self.state is State.UP and model in self._models and self._models[model].ready

    async def load(self, spec: LoadSpec) -> LoadedModel:
        """Loads a model and keeps it loaded. Raises HubwireError where it cannot be loaded; it is forgotten then."""
        model = self._models[spec.name] = _Model(spec)
        future: asyncio.Future[LoadedModel] = asyncio.get_running_loop().create_future()
        model.waiters.append(future)
        if self.state is State.UP:
            self._send_load(model)
        return await future

    def unload(self, name: str) -> None:
        """Frees a model."""
        model = self._models.pop(name, None)
        if model is not None and self._connection is not None:
            self._connection.send(frames.Unload(name=name))

    def compute(self, message: frames.Forward, arrays: Sequence[NDArray[Any]]) -> None:
        """Sends a batch. Its outcome comes through the listener: on_computed, or on_died."""
        assert self._connection is not None
        if self._computing_since is None:
            self._computing_since = self._clock()
        self._connection.send(message, arrays)

    def computing(self, busy: bool) -> None:
        """Tells the watchdog that the batch before is done, and whether another one runs now."""
        self._computing_since = self._clock() if busy else None

    # The life of a process

    async def _keep_alive(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            started = self._clock()
            try:
                await self._run_once()
            except OSError as error:
                log.error("the worker could not be started: %s", error)
            if (self._clock() - started) / 1e9 >= HEALTHY_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            self.state = State.BACKOFF
            self._hand_back()
            log.warning("the worker ended (%s); a new one starts in %.1f s", self._exit_text(), backoff)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)
            self.restarts += 1
            self.state = State.STARTING

    async def _run_once(self) -> None:
        """Starts a worker and returns when it is gone."""
        self._lost.clear()
        self._loading.clear()
        self._greeted = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._options.command,
                f"--fd={theirs.fileno()}",
                f"--log-level={self._options.log_level}",
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                env=self._options.environment,
                # Ctrl-C in a terminal reaches the whole process group; the worker must outlive it while the front drains.
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._connection = await Connection.open(ours, self._on_frame, self._on_lost)
        watchdog = asyncio.create_task(self._watch())
        try:
            await self._lost.wait()
        finally:
            watchdog.cancel()
            await self._end_process()

    async def _watch(self) -> None:
        """Kills a worker that hangs."""
        while True:
            await asyncio.sleep(WATCHDOG_SECONDS)
            since = self._computing_since
            if since is not None and (self._clock() - since) / 1e9 > self._options.hang_timeout_s:
                log.error("a batch has been computed for more than %.0f s: the worker is killed", self._options.hang_timeout_s)
                self._computing_since = None
                if self._process is not None:
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
        self._computing_since = None
        if self._greeted:
            suspects = [self._models[name] for name in self._loading[:1] if name in self._models]
        else:
            suspects = list(self._models.values())
        for model in suspects:
            model.deaths += 1
        for name, model in list(self._models.items()):
            model.ready = False
            if model.waiters and model.deaths >= MAX_DEATHS_PER_LOAD:
                text = f"the worker ended {model.deaths} times while it loaded the model ({self._exit_text()})"
                self._give_up(name, HubwireError(Reason.MODEL_LOAD_FAILED, text, model=name))
            else:
                self._listener.on_model(name, None)
        self._listener.on_died()

    # Frames

    def _send_load(self, model: _Model) -> None:
        assert self._connection is not None
        self._loading.append(model.spec.name)
        self._connection.send(frames.Load(spec=model.spec))

    def _on_frame(self, message: frames.AnyMessage, arrays: list[NDArray[Any]]) -> None:
        match message:
            case frames.Computed() | frames.BatchFailed():
                self._listener.on_computed(message, arrays)
            case frames.Hello():
                self.state = State.UP
                self._greeted = True
                for model in self._models.values():
                    self._send_load(model)
            case frames.Loaded():
                self._on_loaded(message, arrays)
            case frames.LoadFailed():
                self._loading.remove(message.name)
                if message.name in self._models:
                    self._give_up(message.name, HubwireError(Reason(message.reason), message.text, model=message.name))
            case _:
                log.error("the worker sent %s", type(message).__name__)

    def _on_lost(self) -> None:
        """Nothing more is sent to this worker, before anything else happens."""
        if self.state is State.UP:
            self.state = State.BACKOFF
        self._lost.set()

    def _on_loaded(self, message: frames.Loaded, arrays: list[NDArray[Any]]) -> None:
        self._loading.remove(message.name)
        model = self._models.get(message.name)
        if model is None:  # it was unloaded meanwhile
            return
        model.ready = True
        model.deaths = 0
        loaded = LoadedModel(message.description, np.asarray(arrays[0]).tobytes().decode())
        self._listener.on_model(message.name, loaded)
        waiters, model.waiters = model.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(loaded)

    def _give_up(self, name: str, error: HubwireError) -> None:
        model = self._models.pop(name)
        self._listener.on_model(name, error)
        for waiter in model.waiters:
            if not waiter.done():
                waiter.set_exception(error)
