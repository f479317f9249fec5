"""Which models are served: listing, loading and unloading them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar, cast

from hubwire_server._native import NativeError, Tokenizer
from hubwire_server.errors import HubwireError, Reason, shutting_down
from hubwire_server.models.checkpoint import task_of
from hubwire_server.models.description import LoadedModel, LoadSpec, ModelDescription, Task
from hubwire_server.models.registry import Model, ModelState, Registry
from hubwire_server.models.sources import ResolvedModel, check_revision, parse_source, resolve
from hubwire_server.pipelines import canonical

log = logging.getLogger("hubwire.models")

T = TypeVar("T")

MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,127}", re.ASCII)


class ModelHost(Protocol):
    """Holds models in memory and runs them: the dispatcher of workers/. key is that of the load."""

    async def load(self, spec: LoadSpec) -> LoadedModel:
        """Loads a model, and again whenever a worker is replaced. Raises HubwireError."""
        ...

    def holds(self, key: str) -> bool:
        """Whether a model was loaded and not unloaded."""
        ...

    def is_ready(self, key: str) -> bool:
        """Whether a model can be computed with now."""
        ...

    async def drain(self, key: str) -> None:
        """Waits until every accepted text of a model is answered."""
        ...

    def unload(self, key: str) -> None:
        """Frees a model."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPolicy:
    """What the operator of the server allows, and where models run.

    The two sets hold sources as LoadRequest has them; "*" is every source. Not names: a caller can give any model any name.
    """

    device: str
    backend: str
    dtype: str
    threads: int
    cache_dir: str = ""
    allow_pickle: frozenset[str] = frozenset()
    allow_remote_code: frozenset[str] = frozenset()
    token: str | None = None

    def allows_pickle(self, source: str) -> bool:
        """Whether weights of this source may be unpickled."""
        return bool(self.allow_pickle & {source, "*"})

    def allows_remote_code(self, source: str) -> bool:
        """Whether Python code of this source may be run."""
        return bool(self.allow_remote_code & {source, "*"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """A model to serve: see hubwire.v1.LoadModelRequest. An empty name is the last part of the source.

    configured says that the operator of the server asks, not a caller.
    """

    source: str
    name: str = ""
    revision: str = ""
    task: Task | None = None
    pipeline_task: str = ""
    configured: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """A step of a load. model is there once it is served."""

    state: ModelState
    message: str
    done_bytes: int = 0
    total_bytes: int = 0
    model: Model | None = None


class ModelTask:
    """Loads and unloads models into a registry and their hosts: pipelines has the models of Task.PIPELINE, host has all others."""

    def __init__(self, registry: Registry, host: ModelHost, policy: LoadPolicy, pipelines: ModelHost) -> None:
        self._registry = registry
        self._text_host = host
        self._pipeline_host = pipelines
        self._policy = policy
        self._running: set[asyncio.Task[None]] = set()

    def models(self) -> list[Model]:
        """Every model, ordered by name."""
        return self._registry.all()

    def get(self, name: str) -> Model:
        """One model. Raises HubwireError with the reason MODEL_NOT_FOUND."""
        if not name:
            raise HubwireError(Reason.FIELD_REQUIRED, "name is empty", field="name")
        return self._registry.get(name)

    def is_default(self, model: Model) -> bool:
        """Whether the model answers requests of its task that name none."""
        return model.task is not None and self._registry.default(model.task) is model

    async def load(self, request: LoadRequest) -> AsyncIterator[LoadProgress]:
        """Loads a model. A caller that goes away does not stop the load. Raises HubwireError where it fails."""
        steps = self.start_load(request)
        while True:
            step = await steps.get()
            if isinstance(step, HubwireError):
                raise step
            yield step
            if step.model is not None:
                return

    def start_load(self, request: LoadRequest) -> asyncio.Queue[LoadProgress | HubwireError]:
        """Begins a load and returns its steps; the last one holds the model, or is the error."""
        if not request.source:
            raise HubwireError(Reason.FIELD_REQUIRED, "source is empty", field="source")
        source = parse_source(request.source)
        check_revision(source, request.revision)
        pipeline_task = canonical(request.pipeline_task, "pipeline_task") if request.pipeline_task else ""
        name = request.name or request.source.rstrip("/").rsplit("/", 1)[-1].removeprefix("package:").removeprefix("demo:")
        if not MODEL_NAME.fullmatch(name):
            text = 'a model name has letters, digits, ".", "_" and "-", at most 128, the first one a letter or a digit'
            raise HubwireError(Reason.VALUE_OUT_OF_RANGE, f"{text}; this is {name!r}", field="name")
        model = Model(
            name=name,
            key=self._registry.new_key(name),
            source=source.label,
            task=Task.PIPELINE if pipeline_task and request.task is None else request.task,
            pipeline_task=pipeline_task,
            revision=request.revision,
            configured=request.configured,
        )
        self._registry.add(model)
        steps: asyncio.Queue[LoadProgress | HubwireError] = asyncio.Queue()
        self._keep(asyncio.create_task(self._load(model, request, steps), name=f"load {name}"))
        return steps

    async def unload(self, name: str) -> None:
        """Stops taking requests for a model, answers those that were taken, and frees it. A caller that goes away does not stop it.

        Raises HubwireError.
        """
        model = self.get(name)
        if model.state in (ModelState.DOWNLOADING, ModelState.LOADING) and model.description is None:
            raise HubwireError(Reason.MODEL_NOT_READY, f'the model "{name}" is {model.state.lower()}', model=name, retry_after_ms=1_000)
        if model.state is ModelState.UNLOADING:
            raise HubwireError(Reason.MODEL_NOT_FOUND, f'the model "{name}" is being unloaded', field="name", model=name)
        if model.state is not ModelState.FAILED:
            self._registry.set_state(model, ModelState.UNLOADING)
        task = self._keep(asyncio.create_task(self._unload(model), name=f"unload {name}"))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # not the caller, but the server ends
                raise shutting_down() from None
            raise

    async def close(self, error: HubwireError) -> None:
        """Gives up what is under way."""
        for model in self._registry.all():
            if model.state in (ModelState.DOWNLOADING, ModelState.LOADING):
                self._registry.set_state(model, ModelState.FAILED, error)
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def on_model(self, key: str, loaded: LoadedModel | HubwireError | None) -> None:
        """Hears from the host that a model is back after its worker was replaced, waits for that, or could not be loaded again."""
        model = self._registry.find(key)
        if model is None or model.description is None or model.state is ModelState.UNLOADING:
            return  # its first load is still under way, and reports by itself
        if isinstance(loaded, HubwireError):
            self._registry.set_state(model, ModelState.FAILED, loaded.about(field="", model=model.name))
        else:
            self._registry.set_state(model, ModelState.LOADING if loaded is None else ModelState.READY)

    def _keep(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def _host(self, model: Model) -> ModelHost:
        """Where a model runs."""
        return self._pipeline_host if model.task is Task.PIPELINE else self._text_host

    async def _unload(self, model: Model) -> None:
        await self._registry.unleased(model)
        host = self._host(model)
        await host.drain(model.key)
        host.unload(model.key)
        self._registry.remove(model)
        log.info("model %s is unloaded", model.name)

    async def _load(self, model: Model, request: LoadRequest, steps: asyncio.Queue[LoadProgress | HubwireError]) -> None:
        try:
            resolved = await self._resolve(request, steps)
            model.source, model.revision = resolved.source_label, resolved.revision
            if model.task is None or (model.task is Task.PIPELINE and not model.pipeline_task):
                found, pipeline_task = await asyncio.to_thread(task_of, resolved.path)
                model.task, model.pipeline_task = model.task or found, pipeline_task
            self._registry.set_state(model, ModelState.LOADING)
            steps.put_nowait(LoadProgress(state=ModelState.LOADING, message="reading and checking the model"))
            host = self._host(model)
            loaded = await host.load(self._spec(model, request.source, str(resolved.path)))
            tokenizer = await asyncio.to_thread(Tokenizer, loaded.tokenizer_json) if loaded.tokenizer_json else None
            if not host.holds(model.key):  # the worker died meanwhile, and the model could not be loaded again
                raise HubwireError(Reason.MODEL_LOAD_FAILED, "the worker that had loaded the model could not load it again")
        except HubwireError as error:
            self._fail(model, steps, error)
        except NativeError as error:
            self._fail(model, steps, HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the tokenizer cannot be read: {error}"))
        except asyncio.CancelledError:
            steps.put_nowait(model.error or shutting_down())
            raise
        except Exception:
            log.exception("loading %s failed", model.name)
            self._fail(model, steps, HubwireError(Reason.MODEL_LOAD_FAILED, "the model could not be loaded; the server's log says why"))
        else:
            model.tokenizer, model.description = tokenizer, loaded.description
            self._registry.set_state(model, ModelState.READY if host.is_ready(model.key) else ModelState.LOADING)
            log.info("model %s is ready: %s", model.name, _summary(loaded.description))
            steps.put_nowait(LoadProgress(state=model.state, message="the model serves", model=model))

    async def _resolve(self, request: LoadRequest, steps: asyncio.Queue[LoadProgress | HubwireError]) -> ResolvedModel:
        """Finds the model's folder, and fetches it first where it comes from a hub."""
        loop = asyncio.get_running_loop()

        def progress(message: str, done_bytes: int, total_bytes: int) -> None:
            step = LoadProgress(state=ModelState.DOWNLOADING, message=message, done_bytes=done_bytes, total_bytes=total_bytes)
            loop.call_soon_threadsafe(steps.put_nowait, step)

        fetch = partial(
            resolve,
            request.source,
            revision=request.revision or None,
            allow_pickle=self._policy.allows_pickle(request.source),
            token=self._policy.token,
            demo_cache=Path(self._policy.cache_dir) if self._policy.cache_dir else None,
            progress=progress,
        )
        return await _in_daemon_thread(fetch)

    def _spec(self, model: Model, source: str, path: str) -> LoadSpec:
        policy = self._policy
        assert model.task is not None
        return LoadSpec(
            key=model.key,
            path=path,
            task=model.task,
            pipeline_task=model.pipeline_task,
            device=policy.device,
            backend=policy.backend,
            dtype=policy.dtype,
            threads=policy.threads,
            cache_dir=policy.cache_dir,
            allow_pickle=policy.allows_pickle(source),
            allow_remote_code=policy.allows_remote_code(source),
        )

    def _fail(self, model: Model, steps: asyncio.Queue[LoadProgress | HubwireError], error: HubwireError) -> None:
        self._host(model).unload(model.key)
        error = error.about(field="", model=model.name)
        log.error("model %s could not be loaded: %s", model.name, error.message)
        if model.configured:
            self._registry.set_state(model, ModelState.FAILED, error)
        else:
            self._registry.remove(model)
        steps.put_nowait(error)


async def _in_daemon_thread(call: Callable[[], T]) -> T:
    """Runs something that blocks for minutes, such as a download, in a thread that the end of the process does not wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error is not None else future.set_result(cast("T", result))

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name="fetch", daemon=True).start()
    return await future


def _summary(model: ModelDescription) -> str:
    """A model in one line, for the log."""
    if model.embedding is not None:
        size = f"{model.embedding.dimensions} dimensions"
    elif model.classification is not None:
        size = f"{len(model.classification.labels)} labels"
    elif model.masked_language_model is not None:
        size = f"a vocabulary of {model.masked_language_model.vocabulary_size}"
    else:
        size = model.pipeline.pipeline_task if model.pipeline is not None else f"up to {model.max_tokens} tokens a text"
    padding = f", padded: {model.packed_note}" if model.packed_note and not model.packed else ""
    return f"{model.task}, {model.architecture}, {size}; {model.backend} in {model.dtype} on {model.device}{padding}"
