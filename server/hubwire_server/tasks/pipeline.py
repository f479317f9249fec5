"""Any other pipeline of transformers: an input goes to the worker as one item, whatever it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from msgspec import Raw

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.models.registry import ReadyModel, Registry
from hubwire_server.pipelines import (
    ALIASES,
    MAX_REFUSED_BYTES,
    PIPELINES,
    PackedCall,
    Payload,
    PipelineInput,
    PipelineOutput,
    canonical,
    pack,
    read_answer,
    to_payload,
)
from hubwire_server.scheduling.executor import Executor
from hubwire_server.scheduling.item import BatchKey, Item, ItemTiming, Output, TokenArrays
from hubwire_server.tasks.answer import Timings
from hubwire_server.tasks.gather import Gather
from hubwire_server.tasks.texts import Caller

BYTES_PER_TOKEN = 1_024
"""What counts as a token of the queue: it is bounded by what it holds."""
MAX_PARAMETERS_BYTES = 65_536
"""What the parameters of a request may take, encoded."""
MAX_REPEATED_BYTES = 16_777_216
"""What the parameters may take over all inputs of a request: they go with each of them to the worker."""
INLINE_PACK_BYTES = 65_536
"""Up to so many bytes of texts and blobs are encoded on the event loop; more, and fields, whose size nobody knows yet, in a thread, which
lets the loop have its turns between the inputs."""
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
        parameters = pack(request.parameters)
        _check_parameters(len(parameters), len(request.inputs))
        timings = Timings(decode_ns=time.perf_counter_ns() - request.arrived_ns)
        with self._registry.lease(model):
            if _is_large(request.inputs):
                inputs = await asyncio.to_thread(_packed, request.inputs)
            else:
                inputs = _packed(request.inputs)
            calls = [PackedCall(input=given, parameters=parameters, deadline_ns=caller.deadline_ns) for given in inputs]
            answers = await self._compute(model, calls, caller, timings)
        size = sum(map(len, answers))
        outputs = await asyncio.to_thread(_decoded, answers) if size > INLINE_DECODE_BYTES else _decoded(answers)
        return RunPipelineResult(outputs=outputs, task=task, model=model, timings=timings)

    async def _compute(self, model: ReadyModel, calls: Sequence[PackedCall], caller: Caller, timings: Timings) -> list[Payload]:
        tokens = [_tokens(call) for call in calls]
        self._registry.check_served(model, leased=True)
        permit = self._executor.admit(sum(tokens))
        try:
            # Only what is admitted becomes payloads. That copies bytes and no more, so it is done at once: a permit does not wait.
            gather = _Gather(model.name, len(calls), timings)
            items = [
                Item(
                    key=BatchKey(model.key, "pipeline"),
                    tokens=tokens[index],
                    client=caller.client,
                    deadline_ns=caller.deadline_ns,
                    sink=gather,
                    index=index,
                    work=TokenArrays(_NO_TOKENS, _NO_TOKENS, to_payload(call)),
                )
                for index, call in enumerate(calls)
            ]
        except BaseException:
            permit.release(permit.tokens)
            raise
        self._executor.submit(items, permit)
        try:
            await gather.done
        except BaseException:
            self._executor.cancel(items)
            # As in text_task.py: with these names the inputs would be in a cycle.
            del gather, items
            raise
        return [answer for (answer,) in gather.outputs]

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


def check_parameters_size(size: int) -> None:
    """Raises HubwireError (PIPELINE_INPUT_INVALID) for parameters of more bytes than MAX_PARAMETERS_BYTES, in whichever encoding."""
    if size > MAX_PARAMETERS_BYTES:
        text = (
            f"the parameters have {size} bytes; at most {MAX_PARAMETERS_BYTES} are taken: what is large belongs in the fields of an input"
        )
        raise HubwireError(Reason.PIPELINE_INPUT_INVALID, text, field="parameters")


def _check_parameters(size: int, inputs: int) -> None:
    """Bounds parameters, alone and with every input."""
    check_parameters_size(size)
    if size * inputs > MAX_REPEATED_BYTES:
        text = f"{size} bytes of parameters go with each of {inputs} inputs; at most {MAX_REPEATED_BYTES} bytes do: send fewer at a time"
        raise HubwireError(Reason.PIPELINE_INPUT_INVALID, text, field="parameters")


def _is_large(inputs: Sequence[PipelineInput]) -> bool:
    """Whether encoding inputs may take longer than the event loop should be held up for."""
    size = 0
    for given in inputs:
        if given.fields is not None:
            return True
        size += len(given.text or "") + (len(given.blob.data) if given.blob is not None else 0)
    return size > INLINE_PACK_BYTES


def _packed(inputs: Sequence[PipelineInput]) -> list[Raw]:
    return list(map(pack, inputs))


def _tokens(call: PackedCall) -> int:
    """What a call counts as in the queue, by the bytes that its payload will have."""
    return max(1, (len(call.input) + len(call.parameters)) // BYTES_PER_TOKEN)


def _decoded(answers: Sequence[Payload]) -> list[PipelineOutput]:
    """The outputs in payloads. Raises HubwireError where one is an error, which _Gather has looked for already."""
    outputs = []
    for answer in map(read_answer, answers):
        if isinstance(answer, HubwireError):
            raise answer
        outputs.append(answer)
    return outputs


class _Gather(Gather):
    """As Gather, for answers that may themselves be errors, and that have so many bytes together and no more."""

    def __init__(self, model: str, count: int, timings: Timings) -> None:
        super().__init__(model, count, timings, lambda index: f"inputs[{index}]")
        self._bytes = 0

    def deliver(self, item: Item, output: Output, timing: ItemTiming) -> None:
        """See Sink."""
        (answer,) = output
        self._bytes += len(answer)
        if self._bytes > MAX_RESPONSE_BYTES:
            text = f"the answers have more than {MAX_RESPONSE_BYTES} bytes together: send fewer inputs at a time"
            self.fail(item, HubwireError(Reason.PIPELINE_INPUT_INVALID, text))
        elif len(answer) <= MAX_REFUSED_BYTES and isinstance(error := read_answer(answer), HubwireError):
            self.fail(item, error)
        else:
            super().deliver(item, output, timing)
