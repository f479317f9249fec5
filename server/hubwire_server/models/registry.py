"""The models that the server serves, and where each of them stands. State alone: loading is tasks/model.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from hubwire_server._native import Tokenizer
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import (
    ClassificationDetails,
    EmbeddingDetails,
    MaskedLanguageModelDetails,
    ModelDescription,
    PipelineDetails,
    Task,
)

NOT_READY_RETRY_MS = 1_000
"""What a caller of a model that loads is told to wait."""


class ModelState(StrEnum):
    """Where a model stands: the names of hubwire.v1.ModelState without their prefix."""

    DOWNLOADING = "DOWNLOADING"
    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    FAILED = "FAILED"


@dataclass(eq=False, slots=True, kw_only=True)
class Model:
    """A model, from the moment that it is asked for. description and tokenizer stay once it was ready.

    key tells this load from any other, also from an earlier one under the same name: queues and workers know models by it.
    """

    name: str
    key: str
    source: str
    task: Task | None = None
    """None until the folder is there that says it, where the load does not name one."""
    pipeline_task: str = ""
    revision: str = ""
    state: ModelState = ModelState.DOWNLOADING
    error: HubwireError | None = None
    description: ModelDescription | None = None
    tokenizer: Tokenizer | None = None
    configured: bool = False
    """Whether the operator named it. One that a caller asked for is forgotten where it cannot be loaded."""
    leases: int = 0
    """How many calls were accepted and are not answered."""


@dataclass(frozen=True, slots=True)
class ReadyModel:
    """A model that serves."""

    name: str
    key: str
    description: ModelDescription
    own_tokenizer: Tokenizer | None

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises HubwireError (OPTION_NOT_SUPPORTED) for a model that a pipeline runs, which keeps its own."""
        if self.own_tokenizer is None:
            text = f'the tokenizer of "{self.name}" is used by its pipeline alone'
            raise HubwireError(Reason.OPTION_NOT_SUPPORTED, text, field="model", model=self.name)
        return self.own_tokenizer

    @property
    def embedding(self) -> EmbeddingDetails:
        """The details of an embedding model."""
        assert self.description.embedding is not None
        return self.description.embedding

    @property
    def classification(self) -> ClassificationDetails:
        """The details of a model with a classification head."""
        assert self.description.classification is not None
        return self.description.classification

    @property
    def masked_language_model(self) -> MaskedLanguageModelDetails:
        """The details of a masked language model."""
        assert self.description.masked_language_model is not None
        return self.description.masked_language_model

    @property
    def pipeline(self) -> PipelineDetails:
        """The details of a model that a pipeline runs."""
        assert self.description.pipeline is not None
        return self.description.pipeline


class Registry:
    """Models by name. The first model of a task that was added, and is still there, is the default of its task."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self.on_change: Callable[[], None] = lambda: None
        """Called whenever a model changes its state."""
        self._loads = 0
        self._released = asyncio.Event()

    def new_key(self, name: str) -> str:
        """A key that no other load has."""
        self._loads += 1
        return f"{name}#{self._loads}"

    def all(self) -> list[Model]:
        """Every model, ordered by name."""
        return [self._models[name] for name in sorted(self._models)]

    def add(self, model: Model) -> None:
        """Raises HubwireError with the reason MODEL_ALREADY_EXISTS, except in place of a model that failed."""
        existing = self._models.get(model.name)
        if existing is not None and existing.state is not ModelState.FAILED:
            raise HubwireError(
                Reason.MODEL_ALREADY_EXISTS, f'a model named "{model.name}" is {existing.state.lower()}', field="name", model=model.name
            )
        self._models[model.name] = model
        self.on_change()

    def remove(self, model: Model) -> None:
        """Forgets a model, unless another has taken its name."""
        if self._models.get(model.name) is model:
            del self._models[model.name]
        self.on_change()

    def set_state(self, model: Model, state: ModelState, error: HubwireError | None = None) -> None:
        """Records where a model stands."""
        model.state = state
        model.error = error
        self.on_change()

    def get(self, name: str, *, field: str = "name") -> Model:
        """Raises HubwireError with the reason MODEL_NOT_FOUND."""
        model = self._models.get(name)
        if model is None:
            text = f'no model named "{name}" is served; ListModels names those that are'
            raise HubwireError(Reason.MODEL_NOT_FOUND, text, field=field, model=name)
        return model

    def find(self, key: str) -> Model | None:
        """The model of a load, where it is still there."""
        return next((model for model in self._models.values() if model.key == key), None)

    def default(self, task: Task) -> Model | None:
        """The model that answers requests of a task that name none: the first that was added for it and is still there, also where it
        failed; where there is none, the first that serves the task besides its own.

        No other takes the place of one that failed: its vectors would not be comparable, and nobody would notice. One whose task is not
        known yet may be that model, so it is, as long as it loads.
        """
        there = [model for model in self._models.values() if model.state is not ModelState.UNLOADING]
        for model in there:
            if model.task is task or (model.task is None and model.state is not ModelState.FAILED):
                return model
        # Any head with two labels can rerank, but few were trained to: such a one must be named.
        others = [] if task is Task.RERANK else there
        return next((model for model in others if model.description is not None and task in model.description.tasks), None)

    def first(self) -> Model | None:
        """The model that answers requests that need a tokenizer alone and name no model: the first that was added and is still there, but
        for those of pipelines, which keep their tokenizer to themselves."""
        there = (model for model in self._models.values() if model.state is not ModelState.UNLOADING)
        return next((model for model in there if model.task is not Task.PIPELINE), None)

    def serves(self, task: Task) -> bool:
        """Whether a request of a task that names no model would be computed now."""
        model = self.default(task)
        return model is not None and model.state is ModelState.READY

    @contextmanager
    def lease(self, model: ReadyModel) -> Iterator[None]:
        """Keeps a model from being unloaded while a call that was accepted is under way."""
        held = self.find(model.key)
        if held is None or held.state is ModelState.UNLOADING:
            raise _unloading(model.name)
        held.leases += 1
        try:
            yield
        finally:
            held.leases -= 1
            self._released.set()

    async def unleased(self, model: Model | None = None) -> None:
        """Returns once no accepted call of a model, or of any, is under way."""
        while any(other.leases for other in self._models.values() if model in (None, other)):
            self._released.clear()
            await self._released.wait()

    def check_served(self, model: ReadyModel, *, leased: bool = False) -> None:
        """Raises HubwireError where a model was unloaded or failed since a call began. One that is leased is unloaded only after the
        call."""
        held = self.find(model.key)
        if held is None or (held.state is ModelState.UNLOADING and not leased):
            raise _unloading(model.name)
        if held.state is ModelState.FAILED:
            raise _failed(held)

    def ready(self, name: str, task: Task | None, *, field: str = "model") -> ReadyModel:
        """The model for a request: by name, or the task's default for the empty string. None is for requests that a model of any task can
        answer, since all they need is its tokenizer.

        A model whose worker is being restarted counts as ready, since its queue still takes texts. Raises HubwireError: MODEL_NOT_FOUND,
        MODEL_NOT_READY, or MODEL_LOAD_FAILED with the cause.
        """
        model = self.get(name, field=field) if name else self.first() if task is None else self.default(task)
        if model is None:
            text = "no model is served" if task is None else f"no model is served for the task {task}"
            raise HubwireError(Reason.MODEL_NOT_FOUND, text, field=field)
        if model.state is ModelState.UNLOADING:
            raise _unloading(model.name)
        if task is not None and not _serves(model, task):
            raise HubwireError(Reason.MODEL_NOT_FOUND, f'"{model.name}" serves {model.task}, not {task}', field=field, model=model.name)
        if model.state is ModelState.FAILED:
            raise _failed(model)
        if model.description is None:
            text = f'the model "{model.name}" is {model.state.lower()}'
            raise HubwireError(Reason.MODEL_NOT_READY, text, model=model.name, retry_after_ms=NOT_READY_RETRY_MS)
        return ReadyModel(model.name, model.key, model.description, model.tokenizer)


def _serves(model: Model, task: Task) -> bool:
    """Whether a model serves a task, as far as is known: what else than its own it serves is known once it was ready."""
    if model.task is None or model.task is task:
        return True
    return model.description is not None and task in model.description.tasks


def _unloading(name: str) -> HubwireError:
    return HubwireError(Reason.MODEL_NOT_FOUND, f'the model "{name}" was unloaded', model=name)


def _failed(model: Model) -> HubwireError:
    cause = model.error.message if model.error is not None else "unknown"
    return HubwireError(Reason.MODEL_LOAD_FAILED, f'the model "{model.name}" could not be loaded: {cause}', model=model.name)
