"""Models and health: list_models, get_model, load_model, unload_model and health."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2

from hubwire import errors
from hubwire._arguments import check_callback, check_text, check_timeout
from hubwire._calls import model as calls
from hubwire._calls.pages import ModelPages
from hubwire._names import TaskName
from hubwire._retry import RetryPolicy
from hubwire._sync.core import Core
from hubwire.v1 import model_pb2


class ModelMethods(Core):
    """Methods of Client."""

    def list_models(self, *, timeout_s: float | None = None) -> list[model_pb2.Model]:
        """Every model that the server serves, loads or failed to load, by name, as hubwire.v1.model_pb2.Model messages.

        Reads page after page; `timeout_s` is for all of them together.
        """
        pages, deadline = ModelPages(), self._deadline(timeout_s)
        while (request := pages.next_request()) is not None:
            pages.add(self._unary(self._models.ListModels, request, max(0.0, deadline - time.monotonic())))
        return pages.models

    def get_model(self, name: str, *, timeout_s: float | None = None) -> model_pb2.Model:
        """One model, as a hubwire.v1.model_pb2.Model message. An unknown name raises NotFoundError."""
        return calls.model(self._unary(self._models.GetModel, model_pb2.GetModelRequest(name=check_text("name", name)), timeout_s))

    def load_model(
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
        """Load a model and serve it: returns once it is ready. Neither a timeout nor an exception of `on_progress` stops the load.

        Args:
            source: a hub id, a folder on the server, or "package:NAME/FOLDER" for a folder inside a Python package that is installed there.
            name: the name to serve it under; "" for the last part of the source.
            revision: a branch, tag or commit of a hub repository; "" for its main branch.
            task: what to serve it for, as "text_classification"; None for what the checkpoint was made for. One without the head that the
                task needs raises FailedPreconditionError.
            pipeline_task: the pipeline of transformers to serve it for, as "image-classification" (`list_pipelines` names them), for the
            task
                "pipeline", which may then be left out.
            on_progress: called with each hubwire.v1.model_pb2.LoadModelResponse: `state`, `message`, `done_bytes` of `total_bytes`.
            timeout_s: seconds to follow the load; None for no limit, whatever the client's timeout.

        Returns:
            The model as served, a hubwire.v1.model_pb2.Model message.
        """
        request = calls.load_model(source, name, revision, task=task, pipeline_task=pipeline_task)
        report = check_callback("on_progress", on_progress)
        self._check_open()
        call = self._models.LoadModel(request, timeout=check_timeout(timeout_s), metadata=self._metadata)
        response = model_pb2.LoadModelResponse()
        try:
            for response in call:
                report(response)
        except grpc.RpcError as rpc_error:
            raise errors.from_rpc_error(rpc_error) from rpc_error
        finally:
            call.cancel()
        return calls.model(response)

    def unload_model(self, name: str, *, timeout_s: float | None = None) -> None:
        """Stop serving a model. Returns once its last accepted request was answered and its memory is free."""
        self._unary(self._models.UnloadModel, model_pb2.UnloadModelRequest(name=check_text("name", name)), timeout_s, idempotent=False)

    def health(self, service: str = "", *, timeout_s: float | None = None) -> str:
        """The state of the server, or of one of its services, by grpc.health.v1: "SERVING", "NOT_SERVING" or "UNKNOWN". Asked once, never
        repeated.

        An unknown service raises NotFoundError; a server that cannot be reached raises UnavailableError.
        """
        request = health_pb2.HealthCheckRequest(service=check_text("service", service))
        try:
            response = self._unary(self._health.Check, request, timeout_s, policy=RetryPolicy(max_attempts=1))
        except errors.NotFoundError as error:
            raise errors.unknown_service(service, error) from error
        status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        return status
