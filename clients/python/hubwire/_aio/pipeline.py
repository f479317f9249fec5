"""Every other pipeline of transformers: run_pipeline and list_pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hubwire._aio.core import Core
from hubwire._calls import pipeline as calls
from hubwire._types import Blob, PipelineTask


class PipelineMethods(Core):
    """Methods of Client, which hubwire.Client documents."""

    async def run_pipeline(
        self,
        inputs: Iterable[str | bytes | Blob | Mapping[str, Any]],
        *,
        model: str = "",
        task: str = "",
        parameters: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> list[Any]:
        """As hubwire.Client.run_pipeline."""
        question = calls.run_pipeline(inputs, model=model, task=task, parameters=parameters)
        return await self._ask(self._pipeline.RunPipeline, question, timeout_s)

    async def list_pipelines(self, *, timeout_s: float | None = None) -> list[PipelineTask]:
        """As hubwire.Client.list_pipelines."""
        return await self._ask(self._pipeline.ListPipelines, calls.list_pipelines(), timeout_s)
