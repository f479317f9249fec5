"""grpc.health.v1, told from the registry: "" and each service answer SERVING when, and only when, a call to them would be computed now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from hubwire_server.models.description import Task
from hubwire_server.models.registry import Registry

NAME = "grpc.health.v1.Health"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthService:
    """Keeps the standard health servicer true.

    task_services maps each service that needs a model to its tasks, any of which is enough. The others serve as soon as the server does. ""
    serves when there is a model, and every service that has one serves: a server of embeddings alone is healthy without a classifier.
    """

    def __init__(self, registry: Registry, task_services: Mapping[str, Sequence[Task]], other_services: tuple[str, ...]) -> None:
        self._registry = registry
        self._task_services = task_services
        self._other_services = other_services
        self._servicer = health_aio.HealthServicer()
        self._stopping = False
        self._changes: set[asyncio.Task[None]] = set()

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods of the service."""
        check = grpc.unary_unary_rpc_method_handler(
            self._servicer.Check, health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
        )
        watch = grpc.unary_stream_rpc_method_handler(
            self._servicer.Watch, health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
        )
        list_all = grpc.unary_unary_rpc_method_handler(
            self._list, health_pb2.HealthListRequest.FromString, health_pb2.HealthListResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(NAME, {"Check": check, "List": list_all, "Watch": watch})

    def statuses(self) -> dict[str, Any]:
        """The status of "" and of each service."""
        up = {name: any(map(self._registry.serves, tasks)) for name, tasks in self._task_services.items()}
        needed = [name for name, tasks in self._task_services.items() if any(map(self._registry.default, tasks))]
        up[""] = bool(needed) and all(up[name] for name in needed)
        up |= dict.fromkeys(self._other_services, True)
        return {name: SERVING if serving and not self._stopping else NOT_SERVING for name, serving in up.items()}

    async def update(self) -> None:
        """Publishes the statuses; watchers hear of those that changed."""
        for name, status in self.statuses().items():
            await self._servicer.set(name, status)

    def update_soon(self) -> None:
        """As update, from code that cannot wait."""
        change = asyncio.create_task(self.update())
        self._changes.add(change)
        change.add_done_callback(self._changes.discard)

    async def _list(self, request: Any, context: Any) -> Any:
        """Health.List, which the library's servicer lacks."""
        statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self.statuses().items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def stop(self) -> None:
        """Says NOT_SERVING from now on, whatever happens."""
        self._stopping = True
        await self.update()
