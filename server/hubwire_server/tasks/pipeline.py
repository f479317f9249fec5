"""Any other pipeline of transformers: an input goes to the worker as one item, whatever it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.models.registry import ReadyModel, Registry
from hubwire_server.pipelines import (
    ALIASES,
    MAX_REFUSED_BYTES,
    PIPELINES,
    Call,
    Payload,
    PipelineInput,
    PipelineOutput,
    canonical,
    read_answer,
    to_payload,
)
from hubwire_server.scheduling.executor import Executor
from hubwire_server.scheduling.item import BatchKey, Item, ItemTiming, Output, TokenArrays
from hubwire_server.tasks.answer import Timings
from hubwire_server.tasks.texts import Caller

BYTES_PER_TOKEN = 1_024
"""What counts as a token of the queue: it is bounded by what it holds."""
MAX_RESPONSE_BYTES = 268_435_456
"""What the payloads of one answer may hold together, as the worker bounds each of them."""
INLINE_DECODE_BYTES = 65_536
"""Up to so many bytes of answers are decoded on the event loop, which takes less than 1 ms; above, in a thread."""
_NO_TOKENS = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPipelineRequest:
    """Inputs of a pipeline: see hubwire.v1.RunPipelineRequest. An empty task is that of the model."""

    inputs: Sequence[PipelineInput]
    model: str = ""
    task: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    """When its bytes were there, on the clock of time.perf_counter_ns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPipelineResult:
    """One output an input, in their order."""

    outputs: Sequence[PipelineOutput]
    task: str
    model: ReadyModel
    timings: Timings


class PipelineTask:
    """Runs pipelines with the models of a registry on the executor that they have to themselves."""

    def __init__(self, registry: Registry, executor: Executor, *, max_inputs: int) -> None:
        self._registry = registry
        self._executor = executor
        self._max_inputs = max_inputs

    @staticmethod
    def pipelines() -> list[tuple[str, str]]:
        """The names of the pipelines, in order, and the service that serves the same better, or nothing."""
        return sorted([*PIPELINES.items(), *((alias, PIPELINES[name]) for alias, name in ALIASES.items())])

    async def run(self, request: RunPipelineRequest, caller: Caller) -> RunPipelineResult:
        """One output an input, or HubwireError for the first that has none; those that wait are then not computed."""
        asked = canonical(request.task, "task") if request.task else ""
        model = self._registry.ready(request.model, Task.PIPELINE)
        task = model.pipeline.pipeline_task
        if asked not in ("", task) and not (asked == "translation" and task.startswith("translation_")):
            text = f'the model "{model.name}" runs {task}, not {asked}'
            raise HubwireError(Reason.PIPELINE_NOT_SUPPORTED, text, field="task", model=model.name)
        self._check(request.inputs)
        timings = Timings(decode_ns=time.perf_counter_ns() - request.arrived_ns)
        with self._registry.lease(model):
            payloads = [
                to_payload(Call(input=given, parameters=request.parameters, deadline_ns=caller.deadline_ns)) for given in request.inputs
            ]
            answers = await self._compute(model, payloads, caller, timings)
        size = sum(map(len, answers))
        outputs = await asyncio.to_thread(_decoded, answers) if size > INLINE_DECODE_BYTES else _decoded(answers)
        return RunPipelineResult(outputs=outputs, task=task, model=model, timings=timings)

    async def _compute(self, model: ReadyModel, payloads: Sequence[Payload], caller: Caller, timings: Timings) -> list[Payload]:
        gather = _Gather(model.name, len(payloads), timings)
        key = BatchKey(model.key, "pipeline")
        items = [
            Item(
                key=key,
                tokens=max(1, len(payload) // BYTES_PER_TOKEN),
                client=caller.client,
                deadline_ns=caller.deadline_ns,
                sink=gather,
                index=index,
                work=TokenArrays(_NO_TOKENS, _NO_TOKENS, payload),
            )
            for index, payload in enumerate(payloads)
        ]
        self._registry.check_served(model, leased=True)
        permit = self._executor.admit(sum(item.tokens for item in items))
        self._executor.submit(items, permit)
        try:
            await gather.done
        except BaseException:
            self._executor.cancel(items)
            # As in text_task.py: with these names the inputs would be in a cycle.
            del gather, items
            raise
        return gather.answers

    def _check(self, inputs: Sequence[PipelineInput]) -> None:
        if not inputs:
            raise HubwireError(Reason.FIELD_REQUIRED, "inputs is empty: give at least one", field="inputs")
        if len(inputs) > self._max_inputs:
            raise HubwireError(
                Reason.TOO_MANY_TEXTS,
                f"{len(inputs)} inputs in one message; the server takes {self._max_inputs}",
                field="inputs",
                metadata={"count": str(len(inputs)), "limit": str(self._max_inputs)},
            )
        for index, given in enumerate(inputs):
            if given.text is None and given.blob is None and given.fields is None:
                text = "the input is empty: give a text, a blob or fields"
                raise HubwireError(Reason.FIELD_REQUIRED, text, field=f"inputs[{index}].input")
            if given.text == "":
                raise HubwireError(Reason.TEXT_EMPTY, "the text is empty", field=f"inputs[{index}].text")
            if given.blobs and given.fields is None:
                text = "blobs are what fields refers to, and there are no fields"
                raise HubwireError(Reason.PIPELINE_INPUT_INVALID, text, field=f"inputs[{index}].blobs")


def _decoded(answers: Sequence[Payload]) -> list[PipelineOutput]:
    """The outputs in payloads; none of them is an error."""
    return [output for output in map(read_answer, answers) if isinstance(output, PipelineOutput)]


class _Gather:
    """The sink of one request: it is done when every input has its answer, and fails with the first that is refused."""

    def __init__(self, model: str, count: int, timings: Timings) -> None:
        self._model = model
        self._timings = timings
        self._missing = count
        self._bytes = 0
        self.answers: list[Any] = [None] * count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def deliver(self, item: Item, output: Output, timing: ItemTiming) -> None:
        """See Sink."""
        (answer,) = output
        self._bytes += len(answer)
        if self._bytes > MAX_RESPONSE_BYTES:
            text = f"the answers have more than {MAX_RESPONSE_BYTES} bytes together: send fewer inputs at a time"
            self.fail(item, HubwireError(Reason.PIPELINE_INPUT_INVALID, text))
            return
        if len(answer) <= MAX_REFUSED_BYTES and isinstance(error := read_answer(answer), HubwireError):
            self.fail(item, error)
            return
        self.answers[item.index] = answer
        self._timings.add(timing)
        self._missing -= 1
        if self._missing == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, item: Item, error: HubwireError) -> None:
        """See Sink."""
        if not self.done.done():
            self.done.set_exception(error.about(field=f"inputs[{item.index}]", model=self._model))
