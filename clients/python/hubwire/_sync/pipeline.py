"""Every other pipeline of transformers: run_pipeline and list_pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hubwire._calls import pipeline as calls
from hubwire._sync.core import Core
from hubwire._types import Blob, PipelineTask


class PipelineMethods(Core):
    """Methods of Client."""

    def run_pipeline(
        self,
        inputs: Iterable[str | bytes | Blob | Mapping[str, Any]],
        *,
        model: str = "",
        task: str = "",
        parameters: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> list[Any]:
        """Run the pipeline of a model that was loaded for one, as "image-classification" or "summarization".

        Args:
            inputs: at least one: a text; the bytes of a file (an image, a sound), or a Blob to say which; or a dict, as the pipeline
            takes it,
                in which bytes and Blobs may stand.
            model: the name of a served model; "" for the first one that runs a pipeline.
            task: the pipeline that you expect; the call fails where the model runs another one. "" for whichever.
            parameters: keyword arguments of the pipeline's call, as {"top_k": 3}; None for none.
            timeout_s: as in `embed`.

        Returns:
            What the pipeline returned for each input, in their order: JSON as Python has it, with arrays of numpy, and with a Blob for each
            image or mask. Whole numbers are int.
        """
        question = calls.run_pipeline(inputs, model=model, task=task, parameters=parameters)
        return self._ask(self._pipeline.RunPipeline, question, timeout_s)

    def list_pipelines(self, *, timeout_s: float | None = None) -> list[PipelineTask]:
        """The pipeline tasks that the server can load a model for, by name, and the typed service that serves each better, if one does."""
        return self._ask(self._pipeline.ListPipelines, calls.list_pipelines(), timeout_s)
