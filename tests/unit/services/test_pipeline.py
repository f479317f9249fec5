"""PipelineService between bytes and its task."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from hubwire.v1 import pipeline_pb2
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.services import pipeline, wire
from hubwire_server.tasks.pipeline import MAX_PARAMETERS_BYTES


class FakeTask:
    """Keeps what it is asked, and answers nothing."""

    def __init__(self) -> None:
        self.request: Any = None

    async def run(self, request: Any, caller: Any) -> Any:
        self.request = request
        raise HubwireError(Reason.OVERLOADED, "asked")


async def asked(request: pipeline_pb2.RunPipelineRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, bool]:
    """What the task is asked, and whether it was read on the event loop."""
    threads: list[int] = []
    read = pipeline._dictionary

    def watched(*arguments: Any) -> Any:
        threads.append(threading.get_ident())
        return read(*arguments)

    monkeypatch.setattr(pipeline, "_dictionary", watched)
    monkeypatch.setattr(wire, "caller", lambda context: None)
    task: Any = FakeTask()
    with pytest.raises(HubwireError):
        await pipeline.PipelineService(task).run_pipeline(request.SerializeToString(), None)  # type: ignore[arg-type]  # caller reads it
    return task.request, set(threads) == {threading.get_ident()}


@pytest.mark.parametrize(("count", "inline"), [(10, True), (20_000, False)], ids=["a small request", "more than 64 KiB"])
async def test_a_large_dictionary_is_not_read_on_the_event_loop(count: int, inline: bool, monkeypatch: pytest.MonkeyPatch):
    request = pipeline_pb2.RunPipelineRequest(inputs=[pipeline_pb2.PipelineInput()])
    request.inputs[0].fields.update({"numbers": [float(number) for number in range(count)]})
    read, on_loop = await asked(request, monkeypatch)
    assert read.inputs[0].fields == {"numbers": list(range(count))}
    assert on_loop is inline


async def test_parameters_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch):
    request = pipeline_pb2.RunPipelineRequest(inputs=[pipeline_pb2.PipelineInput(text="a")])
    request.parameters.update({"words": "x" * MAX_PARAMETERS_BYTES})
    monkeypatch.setattr(pipeline, "_dictionary", None)
    monkeypatch.setattr(wire, "caller", lambda context: None)
    with pytest.raises(HubwireError) as caught:
        await pipeline.PipelineService(FakeTask()).run_pipeline(request.SerializeToString(), None)  # type: ignore[arg-type]  # as above
    assert (caught.value.reason, caught.value.field) == (Reason.PIPELINE_INPUT_INVALID, "parameters")
