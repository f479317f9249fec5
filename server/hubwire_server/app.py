"""Puts the server together: registry, worker, tasks, services, gRPC."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import grpc
import grpc.aio

from hubwire_server.errors import HubwireError, shutting_down
from hubwire_server.interceptors.errors import ErrorInterceptor
from hubwire_server.models.description import LoadedModel, Task
from hubwire_server.models.registry import Registry
from hubwire_server.scheduling.planner import BatchLimits
from hubwire_server.services import (
    embedding,
    fill_mask,
    health,
    model,
    pipeline,
    question_answering,
    reflection,
    rerank,
    sparse_embedding,
    text_classification,
    token_classification,
    tokenization,
)
from hubwire_server.settings import ModelArgument, Settings
from hubwire_server.tasks.embedding import EmbeddingTask
from hubwire_server.tasks.fill_mask import FillMaskTask
from hubwire_server.tasks.model import LoadPolicy, LoadRequest, ModelTask
from hubwire_server.tasks.pipeline import PipelineTask
from hubwire_server.tasks.question_answering import QuestionAnsweringTask
from hubwire_server.tasks.rerank import RerankTask
from hubwire_server.tasks.sparse_embedding import SparseEmbeddingTask
from hubwire_server.tasks.text_classification import TextClassificationTask
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import TextLimits, Texts
from hubwire_server.tasks.token_classification import TokenClassificationTask
from hubwire_server.tasks.tokenization import TokenizationTask
from hubwire_server.tasks.zero_shot import ZeroShotTask
from hubwire_server.workers.dispatcher import Dispatcher
from hubwire_server.workers.pipeline_worker import worker_options
from hubwire_server.workers.supervisor import WorkerOptions

log = logging.getLogger("hubwire")

TASK_SERVICES: Mapping[str, Sequence[Task]] = {
    embedding.NAME: (Task.EMBEDDING, Task.SPARSE_EMBEDDING),
    text_classification.NAME: (Task.TEXT_CLASSIFICATION, Task.ZERO_SHOT_CLASSIFICATION),
    rerank.NAME: (Task.RERANK,),
    token_classification.NAME: (Task.TOKEN_CLASSIFICATION,),
    fill_mask.NAME: (Task.FILL_MASK,),
    # The tokenizer of any model will do, but that of a pipeline is its own.
    tokenization.NAME: tuple(task for task in Task if task is not Task.PIPELINE),
    question_answering.NAME: (Task.QUESTION_ANSWERING,),
    pipeline.NAME: (Task.PIPELINE,),
}
"""The services that need a model, and the tasks any of which is enough for them."""
OTHER_SERVICES = (model.NAME,)
ONE_INPUT = BatchLimits(tokens=1, texts=1)
"""Pipelines compute an input at a time, so that those of a call that was cancelled are dropped before they are begun."""
LAST_ANSWERS_SECONDS = 1.0
"""How long the last statuses may take to be written, before what is still open is cancelled."""
COLLECTOR_THRESHOLDS = (10_000, 20, 20)
"""How many objects more there are before the youngest are searched for cycles, and how often the older ones are with them. Calls leave few
cycles behind; Python's own 700 searches every few calls, for 7 us of each."""


class AddressError(Exception):
    """The address cannot be listened on."""


@dataclass(frozen=True, slots=True)
class _Parts:
    dispatcher: Dispatcher
    pipelines: Dispatcher
    """The executor of Task.PIPELINE. Its worker starts when the first model is loaded for it."""
    texts: TextTask
    models: ModelTask
    health: health.HealthService
    server: grpc.aio.Server


class App:
    """A server, from start to stop. worker and pipeline_worker replace how the workers are started: for tests and for other engines."""

    def __init__(self, settings: Settings, worker: WorkerOptions | None = None, pipeline_worker: WorkerOptions | None = None) -> None:
        self.settings = settings
        self.registry = Registry()
        self._worker = worker or WorkerOptions(log_level=settings.log_level, hang_timeout_s=settings.hang_timeout_s)
        self._pipeline_worker = pipeline_worker or worker_options(self._worker)
        self._parts: _Parts | None = None
        self.port = 0
        """The port that is listened on, once started."""

    @property
    def dispatcher(self) -> Dispatcher:
        """The executor of the running server."""
        return self._running().dispatcher

    @property
    def pipelines(self) -> Dispatcher:
        """The executor of the pipelines of the running server."""
        return self._running().pipelines

    async def start(self) -> None:
        """Listens, and begins to load the models. Returns as soon as calls are accepted: they are refused with UNAVAILABLE until a model is
        ready.

        Raises AddressError.
        """
        parts = self._parts = self._build()
        self.registry.on_change = parts.health.update_soon
        await parts.health.update()
        try:
            self.port = parts.server.add_insecure_port(self.settings.address)
        except RuntimeError as error:
            raise AddressError(f"cannot listen on {self.settings.address}") from error
        await parts.server.start()
        parts.dispatcher.worker.start()
        for argument in self.settings.models:
            self.load(load_request(argument))

    def load(self, request: LoadRequest) -> None:
        """Begins to load a model; how that goes is in the registry and in the log."""
        try:
            self._running().models.start_load(request)
        except HubwireError as error:
            log.error("%s is not loaded: %s", request.source, error.message)

    async def stop(self) -> None:
        """Says NOT_SERVING, takes no new calls, gives accepted ones their time, tells the rest to go elsewhere, and ends the worker."""
        parts = self._running()
        await parts.health.stop()
        grace = self.settings.shutdown_grace_s
        stopping = asyncio.create_task(parts.server.stop(grace + LAST_ANSWERS_SECONDS))
        answered = asyncio.create_task(self._answered())
        await asyncio.wait([stopping, answered], timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        answered.cancel()
        parts.dispatcher.close(shutting_down)
        parts.pipelines.close(shutting_down)
        parts.texts.close(shutting_down())
        await parts.models.close(shutting_down())
        # What is still open now has nothing more to say: watchers of health, and callers that do not read.
        await parts.server.stop(LAST_ANSWERS_SECONDS)
        await asyncio.gather(stopping, answered, return_exceptions=True)
        await asyncio.gather(parts.dispatcher.worker.stop(), parts.pipelines.worker.stop())
        parts.texts.texts.close()
        self.registry.on_change = lambda: None

    async def _answered(self) -> None:
        """Returns once every call that was accepted is answered."""
        executors = (self._running().dispatcher, self._running().pipelines)
        while any(executor.used_tokens for executor in executors) or any(model.leases for model in self.registry.all()):
            await self.registry.unleased()
            for executor in executors:
                await executor.idle()

    def _running(self) -> _Parts:
        assert self._parts is not None, "the server was not started"
        return self._parts

    def _build(self) -> _Parts:
        settings = self.settings
        dispatcher = Dispatcher(
            limits=partial(BatchLimits.for_device, tokens=settings.batch_tokens, texts=settings.batch_texts),
            max_waiting_tokens=settings.max_waiting_tokens,
            worker=self._worker,
            on_model=self._on_model,
        )
        pipelines = Dispatcher(
            limits=lambda device: ONE_INPUT,
            max_waiting_tokens=settings.max_waiting_tokens,
            worker=self._pipeline_worker,
            on_model=self._on_model,
        )
        policy = LoadPolicy(
            device=settings.device,
            backend=settings.backend,
            dtype=settings.dtype,
            threads=settings.worker_threads,
            cache_dir=settings.cache_folder,
            allow_pickle=settings.allow_pickle,
            allow_remote_code=settings.allow_remote_code,
            token=settings.hub_token,
        )
        limits = TextLimits(
            max_texts=settings.max_texts, max_text_bytes=settings.max_text_bytes, max_request_bytes=settings.max_message_bytes
        )
        texts = TextTask(self.registry, dispatcher, Texts(limits, threads=settings.worker_threads))
        models = ModelTask(self.registry, dispatcher, policy, pipelines)
        health_service = health.HealthService(self.registry, TASK_SERVICES, OTHER_SERVICES)
        server = grpc.aio.server(
            interceptors=[ErrorInterceptor()],
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Without this a second server on the same port would silently share its calls.
                ("grpc.so_reuseport", 0),
                # Clients may ping an idle connection every 20 s; gRPC's own default of 5 minutes would end it.
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        sparse = sparse_embedding.SparseEmbeddingMethods(SparseEmbeddingTask(texts))
        server.add_generic_rpc_handlers(
            (
                embedding.EmbeddingService(EmbeddingTask(texts), sparse.methods()).handlers(),
                text_classification.TextClassificationService(TextClassificationTask(texts), ZeroShotTask(texts)).handlers(),
                rerank.RerankService(RerankTask(texts)).handlers(),
                token_classification.TokenClassificationService(TokenClassificationTask(texts)).handlers(),
                question_answering.QuestionAnsweringService(QuestionAnsweringTask(texts)).handlers(),
                pipeline.PipelineService(PipelineTask(self.registry, pipelines, max_inputs=settings.max_texts)).handlers(),
                fill_mask.FillMaskService(FillMaskTask(texts)).handlers(),
                tokenization.TokenizationService(TokenizationTask(texts)).handlers(),
                model.ModelService(models).handlers(),
                health_service.handlers(),
                *reflection.handlers([*TASK_SERVICES, *OTHER_SERVICES, health.NAME]),
            )
        )
        return _Parts(dispatcher, pipelines, texts, models, health_service, server)

    def _on_model(self, key: str, loaded: LoadedModel | HubwireError | None) -> None:
        self._running().models.on_model(key, loaded)


def load_request(argument: ModelArgument) -> LoadRequest:
    """What an operator's argument asks for. A task that is none of the server's own is a pipeline of transformers."""
    known = argument.task.replace("-", "_")
    task = Task(known) if known in set(Task) else None
    return LoadRequest(
        source=argument.source,
        name=argument.name,
        revision=argument.revision,
        task=task,
        pipeline_task="" if task is not None else argument.task,
        configured=True,
    )


async def run(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT; a second one ends the process at once. Raises AddressError."""
    app = App(settings)
    await app.start()
    # What the imports have made stays: to search it for garbage would hold up every call for 20 ms now and then.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        log.info("%s: draining for at most %.0f s", number.name, settings.shutdown_grace_s)
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGINT)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    log.info(
        "serving on %s", settings.address if settings.address.startswith("unix:") else f"{settings.address.rpartition(':')[0]}:{app.port}"
    )
    await stopped.wait()
    await app.stop()
    log.info("stopped")
