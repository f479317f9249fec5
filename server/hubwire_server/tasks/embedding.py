"""Text to vectors, for one request. Streams are embedding_stream.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from hubwire_server._native import RaggedBatch
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import Task
from hubwire_server.models.registry import ReadyModel, Registry
from hubwire_server.scheduling.executor import Executor
from hubwire_server.scheduling.item import BatchKey, Item, ItemTiming, Sink, TokenArrays
from hubwire_server.tasks.answer import Timings, Usage
from hubwire_server.tasks.texts import Caller, Texts, Tokenized, Truncation, limit_tokens

if TYPE_CHECKING:
    from hubwire_server._native import OffsetUnit

MAX_TOKEN_VECTOR_BYTES = 268_435_456
"""What an answer of embed_tokens may hold. Few clients take as much."""

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
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    """When its bytes were there, on the clock of time.perf_counter_ns."""


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
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    """As in EmbedRequest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedTokensResult:
    """vectors has shape (T, hidden_size), the tokens of all texts one after the other; batch has their ids, spans and special tokens."""

    vectors: NDArray[np.float32]
    batch: RaggedBatch
    model: ReadyModel
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class EmbedPlan:
    """The options of a request, settled for one model."""

    model: ReadyModel
    key: BatchKey
    prompt: str
    truncation: Truncation | None
    format: VectorFormat

    def items(self, tokenized: Tokenized, indices: Sequence[int], caller: Caller, sink: Sink) -> list[Item]:
        """Texts of a tokenized batch as work for the scheduler, without their permit."""
        batch = tokenized.batch
        ids, type_ids, offsets, skip = batch.ids, batch.type_ids, batch.offsets.tolist(), tokenized.skip.tolist()
        items = []
        for index in indices:
            low, high = offsets[index], offsets[index + 1]
            work = TokenArrays(ids[low:high], type_ids[low:high], skip[index])
            items.append(Item(self.key, high - low, caller.client, caller.deadline_ns, sink, index, work))
        return items


class Closable(Protocol):
    """A stream (embedding_stream.py), as far as the task knows it."""

    def close(self, error: HubwireError) -> None:
        """Ends it with an error."""
        ...


class EmbeddingTask:
    """Embeds texts with the models of a registry on an executor."""

    def __init__(self, registry: Registry, executor: Executor, texts: Texts) -> None:
        self.registry = registry
        self.executor = executor
        self.texts = texts
        self.streams: WeakSet[Closable] = WeakSet()

    def close(self, error: HubwireError) -> None:
        """Ends every stream with an error, after what it accepted is answered."""
        for stream in list(self.streams):
            stream.close(error)

    async def embed(self, request: EmbedRequest, caller: Caller) -> EmbedResult:
        """One vector a text, or HubwireError for the first text that has none."""
        plan = self.plan(request.model, request.options)
        gather, tokenized = await self._run(plan, request, caller)
        rows = gather.rows
        vectors = np.stack(rows) if len(rows) > 1 else rows[0][None]
        return EmbedResult(vectors=vectors, format=plan.format, model=plan.model, usage=_usage(tokenized), timings=gather.timings)

    async def embed_tokens(self, request: EmbedTokensRequest, caller: Caller) -> EmbedTokensResult:
        """One vector a token, or HubwireError for the first text that has none."""
        model = self.registry.ready(request.model, Task.EMBEDDING)
        limit_tokens(model, request.truncation, "options.truncation")
        key = BatchKey(model.key, "tokens", padded=not model.description.packed)
        form = VectorFormat(dimensions=model.description.hidden_size, normalize=False, encoding="float")
        plan = EmbedPlan(model, key, "", request.truncation, form)
        gather, tokenized = await self._run(plan, request, caller, spans=request.offset_unit)
        return EmbedTokensResult(
            vectors=np.concatenate(gather.rows), batch=tokenized.batch, model=model, usage=_usage(tokenized), timings=gather.timings
        )

    def plan(self, model_name: str, options: EmbedOptions, path: str = "") -> EmbedPlan:
        """Settles the options of a request. Raises HubwireError with the option that does not fit; path is where the options are in the
        request."""
        model = self.registry.ready(model_name, Task.EMBEDDING, field=f"{path}model")
        path = f"{path}options"
        description = model.description
        pooling = "" if (options.pooling,) == description.pooling else options.pooling
        if pooling and description.pooling_fixed:
            text = f'the model "{model.name}" has modules after pooling that fit its own pooling ({"+".join(description.pooling)}) alone'
            raise HubwireError(Reason.OPTION_NOT_SUPPORTED, text, field=f"{path}.pooling", model=model.name)
        # A pooling of several modes gives one vector for each; the one that a request chooses in its place does not.
        dimensions = description.hidden_size if pooling and len(description.pooling) > 1 else description.dimensions
        if not 0 <= options.dimensions <= dimensions:
            raise HubwireError(
                Reason.VALUE_OUT_OF_RANGE,
                f"dimensions is {options.dimensions}; this model has 1 to {dimensions}",
                field=f"{path}.dimensions",
                metadata={"minimum": "1", "maximum": str(dimensions)},
            )
        limit_tokens(model, options.truncation, f"{path}.truncation")
        prompt = _prompt(model, options, path)
        self.texts.check_prompt(prompt, 1, f"{path}.prompt")
        return EmbedPlan(
            model=model,
            key=BatchKey(model.key, "pool", pooling, padded=not description.packed),
            prompt=prompt,
            truncation=options.truncation,
            format=VectorFormat(
                dimensions=options.dimensions or dimensions,
                normalize=description.normalize if options.normalize is None else options.normalize,
                encoding=options.encoding,
            ),
        )

    async def _run(
        self, plan: EmbedPlan, request: EmbedRequest | EmbedTokensRequest, caller: Caller, *, spans: OffsetUnit | None = None
    ) -> tuple[_Gather, Tokenized]:
        """Computes all texts of a request, or none."""
        texts = request.texts
        self.texts.check(texts)
        self.texts.check_prompt(plan.prompt, len(texts), "options.prompt")
        # A text has a token at least: where not even those fit, there is no need to count them.
        self.executor.check(len(texts))
        decode_ns = time.perf_counter_ns() - request.arrived_ns
        with self.registry.lease(plan.model):
            tokenized = await self.texts.tokenize(plan.model, texts, prompt=plan.prompt, truncation=plan.truncation, spans=spans)
            if tokenized.too_long:
                index = tokenized.too_long[0]
                raise tokenized.too_long_error(index, f"texts[{index}]")
            if spans is not None:
                _check_answer_size(len(tokenized.batch.ids), plan.format.dimensions)
            self.registry.check_served(plan.model, leased=True)
            gather = _Gather(plan.model.name, len(texts), Timings(decode_ns=decode_ns, tokenize_ns=tokenized.elapsed_ns))
            items = plan.items(tokenized, range(len(texts)), caller, gather)
            permit = self.executor.admit(len(tokenized.batch.ids))
            self.executor.submit(items, permit)
            try:
                await gather.done
            except BaseException:
                self.executor.cancel(items)
                # The future in gather keeps the error, and the traceback of the error this frame: with these names the texts would be in
                # a cycle, which holds them until the collector comes by.
                del gather, items
                raise
        return gather, tokenized


class _Gather:
    """The sink of one request: it is done when every text has its rows, and fails with the first text that fails."""

    def __init__(self, model: str, count: int, timings: Timings) -> None:
        self._model = model
        self.rows: list[Any] = [None] * count
        self.timings = timings
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._missing = count

    def deliver(self, item: Item, output: NDArray[np.float32], timing: ItemTiming) -> None:
        """See Sink."""
        self.rows[item.index] = output
        self.timings.add(timing)
        self._missing -= 1
        if self._missing == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, item: Item, error: HubwireError) -> None:
        """See Sink."""
        if not self.done.done():
            self.done.set_exception(error.about(field=f"texts[{item.index}]", model=self._model))


def _usage(tokenized: Tokenized) -> Usage:
    return Usage(input_tokens=len(tokenized.batch.ids), truncated_texts=int(np.count_nonzero(tokenized.truncated)))


def _check_answer_size(tokens: int, dimensions: int) -> None:
    """An answer with a vector a token can be thousands of times larger than its request."""
    size = tokens * dimensions * 4
    if size > MAX_TOKEN_VECTOR_BYTES:
        raise HubwireError(
            Reason.TOO_MANY_TEXTS,
            f"the vectors of {tokens} tokens would have {size} bytes; the server answers with at most {MAX_TOKEN_VECTOR_BYTES}",
            field="texts",
            metadata={"count": str(tokens), "limit": str(MAX_TOKEN_VECTOR_BYTES // (4 * dimensions))},
        )


def _prompt(model: ReadyModel, options: EmbedOptions, path: str) -> str:
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
        raise HubwireError(Reason.PROMPT_NOT_FOUND, text, field=f"{path}.prompt_name", metadata={"available": available}, model=model.name)
    return prompts[name]
