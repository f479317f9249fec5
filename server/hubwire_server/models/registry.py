"""The models that the server serves, and where each of them stands. State alone: loading is tasks/model.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from hubwire_server._native import Tokenizer
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import ModelDescription, Task

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
    """A model, from the moment that it is asked for. description and tokenizer stay once it was ready."""

    name: str
    source: str
    task: Task
    revision: str = ""
    state: ModelState = ModelState.DOWNLOADING
    error: HubwireError | None = None
    description: ModelDescription | None = None
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True, slots=True)
class ReadyModel:
    """A model that serves."""

    name: str
    description: ModelDescription
    tokenizer: Tokenizer


class Registry:
    """Models by name. The first model of a task that was added, and is still there, is the default of its task."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self.on_change: Callable[[], None] = lambda: None
        """Called whenever a model changes its state."""

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

    def remove(self, name: str) -> None:
        """Forgets a model."""
        self._models.pop(name, None)
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

    def default(self, task: Task) -> Model | None:
        """The model that answers requests of a task that name none."""
        return next((model for model in self._models.values() if model.task is task and model.state is not ModelState.UNLOADING), None)

    def serves(self, task: Task) -> bool:
        """Whether some model of a task is ready."""
        return any(model.state is ModelState.READY for model in self._models.values() if model.task is task)

    def ready(self, name: str, task: Task) -> ReadyModel:
        """The model for a request: by name, or the task's default for the empty string.

        A model whose worker is being restarted counts as ready, since its queue still takes texts. Raises HubwireError: MODEL_NOT_FOUND,
        MODEL_NOT_READY, or MODEL_LOAD_FAILED with the cause.
        """
        model = self.get(name, field="model") if name else self.default(task)
        if model is None or model.state is ModelState.UNLOADING:
            text = f'the model "{name}" is being unloaded' if model is not None else f"no model is served for the task {task}"
            raise HubwireError(Reason.MODEL_NOT_FOUND, text, field="model", model=name)
        if model.task is not task:
            raise HubwireError(Reason.MODEL_NOT_FOUND, f'"{model.name}" serves {model.task}, not {task}', field="model", model=model.name)
        if model.state is ModelState.FAILED:
            cause = model.error.message if model.error is not None else "unknown"
            raise HubwireError(Reason.MODEL_LOAD_FAILED, f'the model "{model.name}" could not be loaded: {cause}', model=model.name)
        if model.description is None or model.tokenizer is None:
            text = f'the model "{model.name}" is {model.state.lower()}'
            raise HubwireError(Reason.MODEL_NOT_READY, text, model=model.name, retry_after_ms=NOT_READY_RETRY_MS)
        return ReadyModel(model.name, model.description, model.tokenizer)
