"""Text to vectors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hubwire_server._native import RaggedBatch
from hubwire_server.errors import HubwireError, Reason, out_of_range
from hubwire_server.models.description import Task
from hubwire_server.models.registry import ReadyModel
from hubwire_server.scheduling.item import BatchKey, Output
from hubwire_server.tasks.answer import Timings, Usage
from hubwire_server.tasks.stream import StreamEntry
from hubwire_server.tasks.text_task import TextTask, TextWork, batch_key
from hubwire_server.tasks.texts import Caller, Reading, Tokenized, Truncation, limit_tokens

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


MAX_RESPONSE_BYTES = 2_097_152
"""About as much as one message of a stream's vectors holds: gRPC clients take 4 MiB unless they are told otherwise."""


@dataclass(frozen=True, slots=True)
class EmbedPlan:
    """The options of a request, settled for one model; also a StreamPlan (stream.py), whose values are vectors of shape (dimensions,)."""

    model: ReadyModel
    key: BatchKey
    reading: Reading
    format: VectorFormat

    @property
    def most_results(self) -> int:
        """See StreamPlan."""
        return max(1, MAX_RESPONSE_BYTES // (4 * self.format.dimensions))

    def extras(self, tokenized: Tokenized) -> Sequence[NDArray[Any]] | None:
        """How many tokens of each text are a prompt that is left out of the pooling."""
        return None if self.model.embedding.include_prompt else list(tokenized.skip[:, None])

    def refusal(self, tokenized: Tokenized, rows: Sequence[int]) -> HubwireError | None:
        """See StreamPlan: nothing, since a text is one row."""
        return None

    def value(self, entry: StreamEntry, tokenized: Tokenized, rows: Sequence[int], outputs: Sequence[Output]) -> NDArray[np.float32]:
        """See StreamPlan. The row is copied: it would otherwise keep the memory of its whole batch."""
        vector: NDArray[np.float32] = outputs[0][0].copy()
        return vector


class EmbeddingTask:
    """Embeds texts."""

    def __init__(self, texts: TextTask) -> None:
        self.texts = texts

    async def embed(self, request: EmbedRequest, caller: Caller) -> EmbedResult:
        """One vector a text, or HubwireError for the first text that has none."""
        plan = self.plan(request.model, request.options)
        texts = self.texts.texts
        texts.check(request.texts)
        texts.check_prompt(plan.reading.prompt, len(request.texts), "options.prompt")
        work = TextWork(model=plan.model, key=plan.key, reading=plan.reading, texts=request.texts, extras=plan.extras)
        done = await self.texts.compute(work, caller, request.arrived_ns)
        return EmbedResult(vectors=done.array(), format=plan.format, model=plan.model, usage=done.usage, timings=done.timings)

    async def embed_tokens(self, request: EmbedTokensRequest, caller: Caller) -> EmbedTokensResult:
        """One vector a token, or HubwireError for the first text that has none."""
        model = self.texts.registry.ready(request.model, Task.EMBEDDING)
        limit = limit_tokens(model, request.truncation, "options.truncation")
        self.texts.texts.check(request.texts)

        def check(tokenized: Tokenized) -> None:
            _check_answer_size(len(tokenized.batch.ids), model.embedding.hidden_size)

        work = TextWork(
            model=model,
            key=batch_key(model, "tokens"),
            reading=Reading(limit_tokens=limit, truncation=request.truncation, spans=request.offset_unit),
            texts=request.texts,
            extras=check,
        )
        done = await self.texts.compute(work, caller, request.arrived_ns)
        return EmbedTokensResult(vectors=done.array(), batch=done.tokenized.batch, model=model, usage=done.usage, timings=done.timings)

    def plan(self, model_name: str, options: EmbedOptions, path: str = "") -> EmbedPlan:
        """Settles the options of a request. Raises HubwireError with the option that does not fit; path is where the options are in the
        request."""
        model = self.texts.registry.ready(model_name, Task.EMBEDDING, field=f"{path}model")
        path = f"{path}options"
        details = model.embedding
        pooling = "" if (options.pooling,) == details.pooling else options.pooling
        if pooling and details.pooling_fixed:
            text = f'the model "{model.name}" has modules after pooling that fit its own pooling ({"+".join(details.pooling)}) alone'
            raise HubwireError(Reason.OPTION_NOT_SUPPORTED, text, field=f"{path}.pooling", model=model.name)
        # A pooling of several modes gives one vector for each; the one that a request chooses in its place does not.
        dimensions = details.hidden_size if pooling and len(details.pooling) > 1 else details.dimensions
        if not 0 <= options.dimensions <= dimensions:
            text = f"dimensions is {options.dimensions}; this model has 1 to {dimensions}"
            raise out_of_range(text, f"{path}.dimensions", 1, dimensions)
        limit = limit_tokens(model, options.truncation, f"{path}.truncation")
        prompt = _prompt(model, options, path)
        self.texts.texts.check_prompt(prompt, 1, f"{path}.prompt")
        return EmbedPlan(
            model=model,
            key=batch_key(model, "pool", pooling),
            reading=Reading(limit_tokens=limit, truncation=options.truncation, prompt=prompt),
            format=VectorFormat(
                dimensions=options.dimensions or dimensions,
                normalize=details.normalize if options.normalize is None else options.normalize,
                encoding=options.encoding,
            ),
        )


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
    prompts = model.embedding.prompts
    if options.prompt is not None:
        return options.prompt
    name = options.prompt_name
    if name is None:
        return prompts.get(model.embedding.default_prompt_name, "")
    if name not in prompts:
        available = ", ".join(sorted(prompts)) or "none"
        text = f'the model "{model.name}" has no prompt named "{name}" (it has: {available})'
        raise HubwireError(Reason.PROMPT_NOT_FOUND, text, field=f"{path}.prompt_name", metadata={"available": available}, model=model.name)
    return prompts[name]
