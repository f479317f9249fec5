"""One call of a pipeline: input in, answer out, and every error as one that a caller may see."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

from transformers import StoppingCriteria, StoppingCriteriaList

from hubwire_server.backends.pipeline import fence
from hubwire_server.backends.pipeline.inputs import InputReader
from hubwire_server.backends.pipeline.loading import LoadedPipeline
from hubwire_server.backends.pipeline.outputs import to_answer
from hubwire_server.backends.pipeline.parameters import check_parameters
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.pipelines import Answered, Call

log = logging.getLogger("hubwire.worker")

ARRAYS = frozenset({"feature-extraction", "image-feature-extraction"})
"""Pipelines that would return a list for each number of an array: they are asked for the array."""
BY_NAME = frozenset({"image-text-to-text", "any-to-any"})
"""Pipelines that take the parts of an input as keyword arguments; the others take a dictionary."""
PARTS = frozenset({"text", "images", "videos", "audio"})
"""What those parts are. Whatever else is among them is a parameter, and is checked as one."""
REFUSALS = (ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, OSError, NotImplementedError)
"""What pipelines raise over inputs and parameters that do not fit. All else is a fault of the server."""


class Runner:
    """Runs one pipeline."""

    def __init__(self, loaded: LoadedPipeline) -> None:
        self._loaded = loaded
        self._reader = InputReader(loaded.task, loaded.call)
        self._deadline = _Deadline()
        if loaded.call.model.can_generate():
            _watch(loaded.call.model, self._deadline)

    def run(self, call: Call) -> Answered:
        """The answer to a call. Raises HubwireError."""
        self._deadline.at_ns = call.deadline_ns
        self._deadline.check()
        parameters = check_parameters(call.parameters, self._loaded.known)
        if self._loaded.task in ARRAYS:
            parameters.setdefault("return_tensors", True)
        given = self._read(call)
        with fence.only_files_of([self._loaded.path]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what pipelines warn of is for those who wrote the call, and goes nowhere here
            try:
                return to_answer(self._call(given, parameters))
            except HubwireError:
                raise
            except Exception as error:
                raise self._translated(error) from error

    def _read(self, call: Call) -> Any:
        """The input of a call as the pipeline takes it."""
        try:
            given = self._reader.read(call.input)
        except HubwireError:
            raise
        except Exception as error:  # MemoryError too: the decoders raise what they like over bytes that nobody has tried
            log.warning("an input could not be read", exc_info=error)
            raise HubwireError(Reason.MEDIA_INVALID, "the bytes of the input cannot be read") from error
        if self._loaded.task in BY_NAME and isinstance(given, dict):
            parts = {name: given[name] for name in given if name in PARTS}
            return parts | check_parameters({name: given[name] for name in given if name not in PARTS}, self._loaded.known)
        return given

    def _call(self, given: Any, parameters: dict[str, Any]) -> Any:
        if self._loaded.task in BY_NAME and isinstance(given, dict):
            return self._loaded.call(**given, **parameters)
        return self._loaded.call(given, **parameters)

    def _translated(self, error: Exception) -> HubwireError:
        """The error of a pipeline as a caller sees it."""
        if fence.was_crossed():
            text = "the pipeline took a part of the input for a file or an address, and opens neither: send bytes as blobs"
            return HubwireError(Reason.PIPELINE_INPUT_INVALID, text)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        line = lines[0].replace(str(self._loaded.path), self._loaded.path.name)[:300] if lines else "no more is said"
        if isinstance(error, REFUSALS):
            return HubwireError(Reason.PIPELINE_INPUT_INVALID, f"the pipeline refuses the input: {type(error).__name__}: {line}")
        log.error("a pipeline failed", exc_info=error)
        return HubwireError(Reason.INTERNAL, "the computation failed")


class _Deadline(StoppingCriteria):
    """Ends a generation whose caller does not wait any more."""

    def __init__(self) -> None:
        self.at_ns: int | None = None

    def check(self) -> None:
        """Raises HubwireError (DEADLINE_EXCEEDED) where the deadline has passed."""
        if self.at_ns is not None and time.monotonic_ns() >= self.at_ns:
            raise HubwireError(Reason.DEADLINE_EXCEEDED, "the deadline passed while the input was computed")

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Called after each token. Says of no text that it is complete."""
        self.check()
        return input_ids.new_zeros(input_ids.shape[0], dtype=bool)


def _watch(model: Any, deadline: _Deadline) -> None:
    """Lets a model look at the deadline after each token that it generates, whichever code has it generate."""
    generate = model.generate

    def watched(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.pop("stopping_criteria", None) or []
        return generate(*args, stopping_criteria=StoppingCriteriaList([*given, deadline]), **kwargs)

    model.generate = watched
