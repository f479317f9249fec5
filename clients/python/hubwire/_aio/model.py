"""Models and health: list_models, get_model, load_model, unload_model and health."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2

from hubwire import errors
from hubwire._aio.core import Core
from hubwire._arguments import check_callback, check_text, check_timeout
from hubwire._calls import model as calls
from hubwire._calls.pages import ModelPages
from hubwire._names import TaskName
from hubwire._retry import RetryPolicy
from hubwire.v1 import model_pb2


class ModelMethods(Core):
    """Methods of Client, which hubwire.Client documents."""

    async def list_models(self, *, timeout_s: float | None = None) -> list[model_pb2.Model]:
        """Every model of the server, as hubwire.Client.list_models."""
        pages, deadline = ModelPages(), self._deadline(timeout_s)
        while (request := pages.next_request()) is not None:
            pages.add(await self._unary(self._models.ListModels, request, max(0.0, deadline - time.monotonic())))
        return pages.models

    async def get_model(self, name: str, *, timeout_s: float | None = None) -> model_pb2.Model:
        """One model, as hubwire.Client.get_model."""
        response = await self._unary(self._models.GetModel, model_pb2.GetModelRequest(name=check_text("name", name)), timeout_s)
        return calls.model(response)

    async def load_model(
        self,
        source: str,
        name: str = "",
        revision: str = "",
        *,
        task: TaskName | None = None,
        pipeline_task: str = "",
        on_progress: Callable[[model_pb2.LoadModelResponse], None] | None = None,
        timeout_s: float | None = None,
    ) -> model_pb2.Model:
        """Load a model and serve it, as hubwire.Client.load_model. `on_progress` is a plain function, called on the event loop."""
        request = calls.load_model(source, name, revision, task=task, pipeline_task=pipeline_task)
        report = check_callback("on_progress", on_progress)
        self._check_open()
        call = self._models.LoadModel(request, timeout=check_timeout(timeout_s), metadata=self._metadata)
        response = model_pb2.LoadModelResponse()
        try:
            with self._cancelled_by_close():
                async for response in call:
                    report(response)
        except grpc.RpcError as rpc_error:
            raise errors.from_rpc_error(rpc_error) from rpc_error
        finally:
            call.cancel()
        return calls.model(response)

    async def unload_model(self, name: str, *, timeout_s: float | None = None) -> None:
        """Stop serving a model, as hubwire.Client.unload_model."""
        await self._unary(
            self._models.UnloadModel, model_pb2.UnloadModelRequest(name=check_text("name", name)), timeout_s, idempotent=False
        )

    async def health(self, service: str = "", *, timeout_s: float | None = None) -> str:
        """The state of the server or of one of its services, as hubwire.Client.health."""
        request = health_pb2.HealthCheckRequest(service=check_text("service", service))
        try:
            response = await self._unary(self._health.Check, request, timeout_s, policy=RetryPolicy(max_attempts=1))
        except errors.NotFoundError as error:
            raise errors.unknown_service(service, error) from error
        status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        return status
