"""Fakes that are part of the product: a server in this process with a model that needs no engine, and a clock that a test moves.

    async with running_server() as server:
        async with hubwire.aio.Client(server.address) as client:
            vectors = await client.embed(["two words"])

The fake model reads words: each is one token, and its vectors depend on the words alone, so that a text has the same vector alone and in
any batch. It runs in a real worker process. Some words do something: see FakeModel.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hubwire_server._native import pool_ragged
from hubwire_server.app import App
from hubwire_server.backends.base import LoadOptions, RaggedBatch
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.models.description import (
    ClassificationDetails,
    EmbeddingDetails,
    MaskedLanguageModelDetails,
    ModelDescription,
    Task,
    TokenizerDetails,
)
from hubwire_server.models.registry import ModelState
from hubwire_server.settings import ModelArgument, Settings
from hubwire_server.workers import main as worker_main
from hubwire_server.workers import operations
from hubwire_server.workers.operations import Computed, Engine, Ragged
from hubwire_server.workers.spent import Spent
from hubwire_server.workers.supervisor import WorkerOptions

FAKE_WORKER_COMMAND = (sys.executable, "-m", "hubwire_server.testing")
HIDDEN_SIZE = 8
MAX_TOKENS = 32
_WORDS = ["[UNK]", "[CLS]", "[SEP]", "crash", "hang", "nan", "slow", "fail"]
_VOCABULARY = {word: index for index, word in enumerate(_WORDS)} | {f"w{index}": len(_WORDS) + index for index in range(1000)}
_VOCABULARY["[MASK]"] = len(_VOCABULARY)


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_ns: int = 0) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        """The time in nanoseconds."""
        return self.now_ns

    def advance(self, *, seconds: float) -> None:
        """Moves the time forward."""
        self.now_ns += int(seconds * 1e9)


class FakeModel:
    """A model whose vector of a word is drawn from the word's number. The words w0 to w999 are known, all others are one unknown word.

    crash ends the worker with SIGKILL, hang never returns, nan gives NaN, slow takes 0.2 s, fail raises an error that leaves the worker
    alive. With a head, the score of a word for the label i is value i of its vector, of a text that of the mean of its words, and of a
    question's answer to begin and to end values 0 and 1. A masked language model gives each word the product of its vector with that of the
    masked word's left neighbour.

    The folder's config.json changes its description: each key is a field of ModelDescription, or of the details of its task. "scale"
    multiplies its vectors, and "tokenizer_json" replaces its tokenizer. Four more say how loading goes: "load_seconds", "refuse" (a
    reason), "crash_at_load" and "pickled".
    """

    def __init__(self, path: Path, options: LoadOptions, task: Task = Task.EMBEDDING) -> None:
        overrides = json.loads((path / "config.json").read_text())
        if overrides.pop("pickled", False) and not options.allow_pickle:
            raise HubwireError(Reason.MODEL_NOT_ALLOWED, "the fake model's weights are a pickle")
        if overrides.pop("crash_at_load", False):
            os.kill(os.getpid(), signal.SIGKILL)
        if reason := overrides.pop("refuse", ""):
            raise HubwireError(Reason(reason), "the fake model refuses to load")
        time.sleep(overrides.pop("load_seconds", 0))
        scale = overrides.pop("scale", 1.0)
        self.tokenizer_json = overrides.pop("tokenizer_json", json.dumps(_tokenizer()))
        self.description = _describe(task, overrides)
        table = np.random.default_rng(0).standard_normal((len(_VOCABULARY), HIDDEN_SIZE), dtype=np.float32) * np.float32(scale)
        table[_VOCABULARY["nan"]] = np.nan
        self._table = table
        self.spent = Spent()

    def compute(self, operation: str, option: str, batch: RaggedBatch, extra: Ragged | None) -> Computed:
        """See workers.main.WorkerModel."""
        engine = Engine(backend=self, row_size=len(_VOCABULARY), threads=1, spent=self.spent)
        match operation:
            case "pool":
                return self._pool(engine, option, batch, extra)
            case "logits" if (
                self.description.task is not Task.TOKEN_CLASSIFICATION and self.description.task is not Task.QUESTION_ANSWERING
            ):
                return operations.texts(engine, option, batch, extra)
            case "fill" | "sparse":
                return operations.MASKED_LM[operation](engine, option, batch, extra)
            case _:
                return operations.tokens(engine, option, batch, extra)

    def forward(self, batch: RaggedBatch, rows: NDArray[np.int64] | None = None) -> tuple[NDArray[Any], str]:
        """See backends.base.Backend."""
        for word in ("crash", "hang", "slow", "fail"):
            if _VOCABULARY[word] in batch.ids:
                getattr(self, f"_{word}")()
        hidden = self._table[batch.ids]
        details = self.description
        if details.masked_language_model is not None:
            places = np.arange(len(batch.ids)) if rows is None else rows
            # The word nan gives NaN where it is read, not where it is one of the words to choose from.
            starts = batch.offsets[np.searchsorted(batch.offsets, places, side="right") - 1]
            return hidden[np.maximum(places - 1, starts)] @ np.nan_to_num(self._table).T, "float32"
        if details.task is Task.QUESTION_ANSWERING:
            return np.ascontiguousarray(hidden[:, :2]), "float32"
        if details.classification is None:
            return hidden, "float32"
        scores = np.ascontiguousarray(hidden[:, : len(details.classification.labels)])
        if details.task is Task.TOKEN_CLASSIFICATION:
            return scores, "float32"
        # Not pool_ragged, which refuses NaN: a real head gives it.
        return np.add.reduceat(scores, batch.offsets[:-1]) / np.diff(batch.offsets)[:, None].astype(np.float32), "float32"

    def _pool(self, engine: Engine, option: str, batch: RaggedBatch, extra: Ragged | None) -> Computed:
        assert self.description.embedding is not None
        hidden, _ = engine.forward(batch)
        skip = None if extra is None else operations.skips(extra)
        start = time.perf_counter_ns()
        try:
            mode: Any = option or self.description.embedding.pooling[0]
            return Computed((pool_ragged(hidden, batch.offsets, mode=mode, skip=skip),))
        except ValueError as error:
            raise HubwireError(Reason.OUTPUT_NOT_FINITE, "the model gave NaN") from error
        finally:
            self.spent.pool_ns += time.perf_counter_ns() - start

    def close(self) -> None:
        """See workers.main.WorkerModel."""

    def _crash(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _hang(self) -> None:
        time.sleep(3600)

    def _slow(self) -> None:
        time.sleep(0.2)

    def _fail(self) -> None:
        raise RuntimeError("the word fail was read")


_EMBEDDING = EmbeddingDetails(
    hidden_size=HIDDEN_SIZE,
    dimensions=HIDDEN_SIZE,
    pooling=("mean",),
    pooling_fixed=False,
    normalize=False,
    include_prompt=True,
    prompts={"query": "w1 w2 "},
    default_prompt_name="",
)
_CLASSIFICATION = ClassificationDetails(labels=("NEGATIVE", "POSITIVE"))
_DESCRIPTION = ModelDescription(
    fingerprint="00000000000000fa",
    task=Task.EMBEDDING,
    architecture="FakeModel",
    backend="fake",
    device="cpu",
    dtype="float32",
    packed=True,
    packed_note="",
    candidates=(),
    max_tokens=MAX_TOKENS,
    tokenizer=TokenizerDetails(
        special_ids=(1, 2, _VOCABULARY["[MASK]"]), unk_token_id=0, cls_token_id=1, mask_token_id=_VOCABULARY["[MASK]"], mask_token="[MASK]"
    ),
)


def _describe(task: Task, overrides: dict[str, Any]) -> ModelDescription:
    """The description of a fake model for a task, with what its folder changes of it."""
    details: Any = {
        Task.EMBEDDING: ("embedding", _EMBEDDING),
        Task.FILL_MASK: ("masked_language_model", MaskedLanguageModelDetails(mask_token="[MASK]", vocabulary_size=len(_VOCABULARY))),
        Task.SPARSE_EMBEDDING: ("masked_language_model", MaskedLanguageModelDetails(mask_token="[MASK]", vocabulary_size=len(_VOCABULARY))),
        Task.QUESTION_ANSWERING: None,
        Task.ZERO_SHOT_CLASSIFICATION: ("classification", ClassificationDetails(labels=("contradiction", "neutral", "entailment"))),
    }.get(task, ("classification", _CLASSIFICATION))
    fields: dict[str, Any] = {"task": task}
    if details is not None:
        name, struct = details
        own = {key: overrides.pop(key) for key in list(overrides) if key in struct.__struct_fields__}
        fields[name] = msgspec.convert(msgspec.to_builtins(struct) | own, type(struct))
    return msgspec.convert(msgspec.to_builtins(_DESCRIPTION) | msgspec.to_builtins(fields) | overrides, ModelDescription)


def _tokenizer() -> dict[str, object]:
    """A tokenizer of words between [CLS] and [SEP], in the JSON form of the `tokenizers` library."""
    special = [
        {"id": index, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for word, index in (("[CLS]", 1), ("[SEP]", 2))
    ]
    template = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {word: {"id": word, "ids": [index], "tokens": [word]} for word, index in (("[CLS]", 1), ("[SEP]", 2))},
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": _VOCABULARY, "unk_token": "[UNK]"},
    }


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that accepts calls."""

    app: App
    address: str


@asynccontextmanager
async def running_server(
    settings: Settings | None = None,
    *,
    description: dict[str, object] | None = None,
    task: Task = Task.EMBEDDING,
    ready: bool = True,
    hang_timeout_s: float = 60.0,
    worker: WorkerOptions | None = None,
) -> AsyncIterator[RunningServer]:
    """A server on a free port of loopback (or the unix: address of its settings), in this process. Without models in its settings it serves
    the fake one under the name "fake".

    description goes into the config.json of the fake's folder; task is what it is served for. ready waits until every model
    is ready, or has failed.
    """
    with tempfile.TemporaryDirectory(prefix="hubwire-fake-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(description or {}))
        settings = settings or Settings(shutdown_grace_s=0.2)
        if not settings.address.startswith("unix:"):
            settings = dataclasses.replace(settings, address="127.0.0.1:0")
        if not settings.models:
            settings = dataclasses.replace(settings, models=(ModelArgument(folder, "fake", task=task),))
            worker = worker or WorkerOptions(command=FAKE_WORKER_COMMAND, hang_timeout_s=hang_timeout_s)
        app = App(settings, worker)
        await app.start()
        try:
            if ready:
                await wait_until_loaded(app)
            yield RunningServer(app, settings.address if settings.address.startswith("unix:") else f"127.0.0.1:{app.port}")
        finally:
            await app.stop()


async def wait_until_loaded(app: App, timeout_s: float = 60.0) -> None:
    """Waits until every model of a server is ready or has failed. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        # The registry has one listener, the health service, so this looks again and again.
        while any(model.state not in (ModelState.READY, ModelState.FAILED) for model in app.registry.all()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def load(path: Path, options: LoadOptions, task: Task) -> FakeModel:
    """Loads the fake model of a folder."""
    return FakeModel(path, options, task)


if __name__ == "__main__":
    sys.exit(worker_main.run(sys.argv[1:], load))
