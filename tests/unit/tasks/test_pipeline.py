"""The pipeline task without a worker: what it bounds, and what it does before and after the executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.pipelines import Answered, Blob, Call, PipelineInput, Refused, read_call, to_payload
from hubwire_server.scheduling.admission import Admission, Permit
from hubwire_server.scheduling.item import BatchTiming, Item, ItemTiming
from hubwire_server.tasks import pipeline
from hubwire_server.tasks.pipeline import BYTES_PER_TOKEN, PipelineTask, RunPipelineRequest
from hubwire_server.tasks.texts import Caller

CALLER = Caller(client="one", deadline_ns=7)


class FakeExecutor:
    """Answers each call with what `answer` makes of it, or refuses all of them."""

    def __init__(self, answer: Callable[[Call], Answered | Refused], *, full: bool = False) -> None:
        self._answer = answer
        self._full = full
        self.admission = Admission(max_waiting_tokens=1_000_000)
        self.asked = 0

    def admit(self, tokens: int) -> Permit:
        self.asked = tokens
        if self._full:
            raise HubwireError(Reason.OVERLOADED, "full")
        return self.admission.take(tokens)

    def submit(self, items: Sequence[Item], permit: Permit) -> None:
        for item in items:
            answer = self._answer(read_call(item.work.extra))
            permit.release(item.tokens)
            item.sink.deliver(item, (to_payload(answer),), ItemTiming(queue_ns=0, batch=BatchTiming(0, 0, 0, 0)))

    def cancel(self, items: Sequence[Item]) -> None:
        """All of them have been answered."""


def task_on(executor: FakeExecutor) -> PipelineTask:
    model = SimpleNamespace(name="m", key="m#1", pipeline=SimpleNamespace(pipeline_task="summarization"))
    registry: Any = SimpleNamespace(
        ready=lambda name, task: model, lease=lambda model: nullcontext(), check_served=lambda model, *, leased: None
    )
    return PipelineTask(registry, executor, max_inputs=2_048)  # type: ignore[arg-type]  # the part of Executor that unary calls use


def echo(call: Call) -> Answered:
    return Answered(value=[call.input.text, call.parameters, call.deadline_ns])


async def run(executor: FakeExecutor, inputs: Sequence[PipelineInput], **parameters: Any) -> Any:
    return await task_on(executor).run(RunPipelineRequest(inputs=inputs, parameters=parameters), CALLER)


async def test_every_input_goes_with_the_parameters_and_the_deadline():
    result = await run(FakeExecutor(echo), [PipelineInput(text="a"), PipelineInput(text="b")], top_k=3)
    assert [output.value for output in result.outputs] == [["a", {"top_k": 3}, 7], ["b", {"top_k": 3}, 7]]


@pytest.mark.parametrize(
    "given",
    [
        PipelineInput(text="a" * 100_000),
        PipelineInput(blob=Blob(data=b"a" * 100_000)),
        PipelineInput(fields={"a": ["blob:0"]}, blobs=(Blob(data=b"a" * 100_000),)),
    ],
    ids=["a text", "a blob", "fields"],
)
async def test_an_input_that_is_encoded_in_a_thread_arrives_as_it_is(given: PipelineInput):
    executor = FakeExecutor(lambda call: Answered(value=call.input == given))
    assert (await run(executor, [given])).outputs[0].value is True
    assert executor.asked == pytest.approx(100_000 / BYTES_PER_TOKEN, abs=1)
    assert executor.admission.used_tokens == 0


@pytest.mark.parametrize(
    ("size", "count", "word"),
    [(65_536, 1, "65536"), (60_000, 300, "300 inputs")],
    ids=["more than 64 KiB", "more than 16 MiB with every input"],
)
async def test_parameters_are_bounded_alone_and_over_all_inputs(size: int, count: int, word: str):
    executor = FakeExecutor(echo)
    with pytest.raises(HubwireError) as caught:
        await run(executor, [PipelineInput(text="a")] * count, words="x" * size)
    assert (caught.value.reason, caught.value.field) == (Reason.PIPELINE_INPUT_INVALID, "parameters")
    assert word in caught.value.message
    assert executor.asked == 0


async def test_nothing_becomes_a_payload_before_all_of_it_is_admitted(monkeypatch: pytest.MonkeyPatch):
    made: list[Any] = []
    monkeypatch.setattr(pipeline, "to_payload", made.append)
    executor = FakeExecutor(echo, full=True)
    with pytest.raises(HubwireError) as caught:
        await run(executor, [PipelineInput(text="a")] * 64, words="x" * 60_000)
    assert caught.value.reason is Reason.OVERLOADED
    assert executor.asked >= 64 * (60_000 // BYTES_PER_TOKEN), "parameters count as often as they are copied"
    assert made == []


async def test_what_was_admitted_is_given_back_where_no_payload_can_be_made(monkeypatch: pytest.MonkeyPatch):
    def fail(call: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(pipeline, "to_payload", fail)
    executor = FakeExecutor(echo)
    with pytest.raises(MemoryError):
        await run(executor, [PipelineInput(text="a" * 5_000)])
    assert executor.asked > 0
    assert executor.admission.used_tokens == 0


async def test_an_error_too_long_to_be_taken_for_one_is_no_answer_less():
    with pytest.raises(HubwireError) as caught:
        await run(FakeExecutor(lambda call: Refused(reason=Reason.MEDIA_INVALID, text="x" * 10_000)), [PipelineInput(text="a")])
    assert caught.value.reason is Reason.MEDIA_INVALID
