"""Text to vectors, for one request. Streams are embedding_stream.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hubwire_server._native import RaggedBatch
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.models.registry import ReadyModel, Registry
from hubwire_server.scheduling.executor import Executor
from hubwire_server.scheduling.item import BatchKey, Item, ItemTiming, Sink, TokenArrays
from hubwire_server.tasks.answer import Timings, Usage
from hubwire_server.tasks.texts import Caller, Texts, Tokenized, Truncation, prompt_tokens

if TYPE_CHECKING:
    from hubwire_server._native import OffsetUnit

VectorEncoding = Literal["float", "float32_bytes", "float16_bytes", "int8_bytes", "binary_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """How texts become vectors: see hubwire.v1.EmbedOptions. pooling is in the words of sentence-transformers, empty for the model's own.

    prompt_name and prompt exclude each other; None for both is the model's default prompt.
    """

    pooling: str = ""
    normalize: bool | None = None
    dimensions: int = 0
    encoding: VectorEncoding = "float"
    prompt_name: str | None = None
    prompt: str | None = None
    truncation: Truncation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """One vector a text."""

    texts: Sequence[str]
    model: str = ""
    options: EmbedOptions = field(default_factory=EmbedOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFormat:
    """What is done to a vector on its way to the wire."""

    dimensions: int
    normalize: bool
    encoding: VectorEncoding


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult:
    """vectors has shape (n, the model's dimensions); format is applied when they are encoded."""

    vectors: NDArray[np.float32]
    format: VectorFormat
    model: ReadyModel
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedTokensRequest:
    """One vector a token."""

    texts: Sequence[str]
    model: str = ""
    truncation: Truncation | None = None
    offset_unit: OffsetUnit = "code_point"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedTokensResult:
    """vectors has one array of shape (tokens, hidden_size) a text; batch has their ids, spans and special tokens."""

    vectors: Sequence[NDArray[np.float32]]
    batch: RaggedBatch
    model: ReadyModel
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class EmbedPlan:
    """The options of a request, settled for one model."""

    model: ReadyModel
    key: BatchKey
    prefix: str
    skip: int
    truncation: Truncation | None
    format: VectorFormat

    def items(self, tokenized: Tokenized, indices: Sequence[int], caller: Caller, sink: Sink) -> list[Item]:
        """Texts of a tokenized batch as work for the scheduler, without their permit."""
        batch = tokenized.batch
        ids, type_ids, offsets = batch.ids, batch.type_ids, batch.offsets.tolist()
        items = []
        for index in indices:
            low, high = offsets[index], offsets[index + 1]
            work = TokenArrays(ids[low:high], type_ids[low:high], min(self.skip, high - low))
            items.append(Item(self.key, high - low, caller.client, caller.deadline_ns, sink, index, work))
        return items


class EmbeddingTask:
    """Embeds texts with the models of a registry on an executor."""

    def __init__(self, registry: Registry, executor: Executor, texts: Texts) -> None:
        self._registry = registry
        self.executor = executor
        self.texts = texts

    async def embed(self, request: EmbedRequest, caller: Caller) -> EmbedResult:
        """One vector a text, or HubwireError for the first text that has none."""
        start = time.perf_counter_ns()
        plan = self.plan(request.model, request.options)
        self.texts.check(request.texts)
        tokenized = await self.texts.tokenize(plan.model, request.texts, prefix=plan.prefix, truncation=plan.truncation)
        gather = _Gather(len(request.texts), tokenized.elapsed_ns)
        await self._run(plan, tokenized, caller, gather)
        gather.timings.total_ns = time.perf_counter_ns() - start
        return EmbedResult(vectors=gather.matrix(), format=plan.format, model=plan.model, usage=_usage(tokenized), timings=gather.timings)

    async def embed_tokens(self, request: EmbedTokensRequest, caller: Caller) -> EmbedTokensResult:
        """One vector a token, or HubwireError for the first text that has none."""
        start = time.perf_counter_ns()
        model = self._registry.ready(request.model, Task.EMBEDDING)
        self.texts.check(request.texts)
        tokenized = await self.texts.tokenize(
            model, request.texts, truncation=request.truncation, truncation_field="truncation", spans=request.offset_unit
        )
        key = BatchKey(model.name, "tokens", padded=not model.description.packed)
        form = VectorFormat(dimensions=model.description.hidden_size, normalize=False, encoding="float")
        plan = EmbedPlan(model, key, "", 0, request.truncation, form)
        gather = _Gather(len(request.texts), tokenized.elapsed_ns)
        await self._run(plan, tokenized, caller, gather)
        gather.timings.total_ns = time.perf_counter_ns() - start
        return EmbedTokensResult(vectors=gather.rows, batch=tokenized.batch, model=model, usage=_usage(tokenized), timings=gather.timings)

    def plan(self, model_name: str, options: EmbedOptions) -> EmbedPlan:
        """Settles the options of a request. Raises HubwireError with the path of the option that does not fit."""
        model = self._registry.ready(model_name, Task.EMBEDDING)
        description = model.description
        pooling = "" if (options.pooling,) == description.pooling else options.pooling
        if pooling and description.pooling_fixed:
            text = f'the model "{model.name}" has modules after pooling that fit its own pooling ({"+".join(description.pooling)}) alone'
            raise HubwireError(Reason.OPTION_NOT_SUPPORTED, text, field="options.pooling", model=model.name)
        # A pooling of several modes gives one vector for each; the one that a request chooses in its place does not.
        dimensions = description.hidden_size if pooling and len(description.pooling) > 1 else description.dimensions
        if not 0 <= options.dimensions <= dimensions:
            raise HubwireError(
                Reason.VALUE_OUT_OF_RANGE,
                f"dimensions is {options.dimensions}; this model has 1 to {dimensions}",
                field="options.dimensions",
                metadata={"minimum": "1", "maximum": str(dimensions)},
            )
        prompt = _prompt(model, options)
        normalize = description.normalize if options.normalize is None else options.normalize
        return EmbedPlan(
            model=model,
            key=BatchKey(model.name, "pool", pooling, padded=not description.packed),
            prefix=prompt,
            skip=prompt_tokens(model, prompt) if prompt and not description.include_prompt else 0,
            truncation=options.truncation,
            format=VectorFormat(dimensions=options.dimensions or dimensions, normalize=normalize, encoding=options.encoding),
        )

    async def _run(self, plan: EmbedPlan, tokenized: Tokenized, caller: Caller, gather: _Gather) -> None:
        """Computes all texts of a request, or none."""
        if tokenized.too_long:
            index = tokenized.too_long[0]
            raise tokenized.too_long_error(index, f"texts[{index}]")
        items = plan.items(tokenized, range(len(gather.rows)), caller, gather)
        self.executor.submit(items, self.executor.admit(sum(item.tokens for item in items)))
        try:
            await gather.done
        except BaseException:
            self.executor.cancel(items)
            raise


class _Gather:
    """The sink of one request: it is done when every text has its rows, and fails with the first text that fails."""

    def __init__(self, count: int, tokenize_ns: int) -> None:
        self.rows: list[Any] = [None] * count
        self.timings = Timings(tokenize_ns=tokenize_ns)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._missing = count

    def matrix(self) -> NDArray[np.float32]:
        """The rows of all texts, shape (n, d)."""
        return np.stack(self.rows)

    def deliver(self, item: Item, output: NDArray[np.float32], timing: ItemTiming) -> None:
        """See Sink."""
        self.rows[item.index] = output
        self.timings.add(timing)
        self._missing -= 1
        if self._missing == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, item: Item, error: HubwireError) -> None:
        """See Sink."""
        error.field = error.field or f"texts[{item.index}]"
        if not self.done.done():
            self.done.set_exception(error)


def _usage(tokenized: Tokenized) -> Usage:
    return Usage(input_tokens=len(tokenized.batch.ids), truncated_texts=int(tokenized.truncated.sum()))


def _prompt(model: ReadyModel, options: EmbedOptions) -> str:
    """The text to put before each text."""
    prompts = model.description.prompts
    if options.prompt is not None:
        return options.prompt
    name = options.prompt_name
    if name is None:
        return prompts.get(model.description.default_prompt_name, "")
    if name not in prompts:
        available = ", ".join(sorted(prompts)) or "none"
        text = f'the model "{model.name}" has no prompt named "{name}" (it has: {available})'
        raise HubwireError(Reason.PROMPT_NOT_FOUND, text, field="options.prompt_name", metadata={"available": available}, model=model.name)
    return prompts[name]
