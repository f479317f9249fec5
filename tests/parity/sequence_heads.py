"""Tiny models that classify whole texts, one a family, each with its kind of tokenizer; a server that holds them; and two doors to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hubwire.v1 import model_pb2, model_pb2_grpc
from hubwire_server.settings import ModelArgument, Settings
from hubwire_server.tasks.text_task import TextTask
from hubwire_server.tasks.texts import TextLimits, Texts
from tests.conftest import Server, serve
from tests.parity.texts import make_texts
from tests.unit.backends.tiny_models import make_model

FAMILIES = ("Bert", "Roberta", "DistilBert", "DebertaV2", "MPNet", "ModernBert")
MAX_TOKENS = 64
"""Less than the positions of the models, so that some texts are cut."""
VOCABULARY = 1_500
T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """What the tokenizers of a family have in common. names is the special tokens: begin, padding, end, unknown, mask; the middle is what
    stands between the texts of a pair. second is the segment of the second text."""

    model: str
    names: tuple[str, str, str, str, str]
    middle: int = 1
    second: int = 0


KINDS = {
    "Bert": Kind("WordPiece", ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"), second=1),
    "DistilBert": Kind("WordPiece", ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")),
    "MPNet": Kind("WordPiece", ("<s>", "<pad>", "</s>", "[UNK]", "<mask>"), middle=2),
    "Roberta": Kind("BPE", ("<s>", "<pad>", "</s>", "<unk>", "<mask>"), middle=2),
    "ModernBert": Kind("BPE", ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")),
    "DebertaV2": Kind("Unigram", ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"), second=1),
}


def make_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A tokenizer that is trained on the words of the tests, with the special tokens and the pairs of its family."""
    kind = KINDS[family]
    begin, pad, end, unknown, mask = kind.names
    tokenizer = Tokenizer.from_str(_trained(kind))
    ids = [(name, tokenizer.token_to_id(name)) for name in (begin, end)]
    middle = " ".join([end] * kind.middle)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", pair=f"{begin} $A {middle} $B:{kind.second} {end}:{kind.second}", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token=begin,
        sep_token=end,
        pad_token=pad,
        unk_token=unknown,
        mask_token=mask,
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask", *(["token_type_ids"] if kind.second else [])],
    )


@lru_cache
def _trained(kind: Kind) -> str:
    special = list(kind.names)
    texts = make_texts(400, seed=1)
    if kind.model == "WordPiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token=kind.names[3]))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    elif kind.model == "BPE":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=VOCABULARY, special_tokens=special, unk_token=kind.names[3], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


@dataclass(frozen=True)
class Head:
    """A model in the form of transformers, and the name under which servers hold it."""

    name: str
    path: Path
    model: Any
    tokenizer: PreTrainedTokenizerFast


def make_head(family: str, folder: Path, labels: Sequence[str], **config: Any) -> Head:
    """A head with labels over a model of a family, saved in a folder of its own."""
    tokenizer = make_tokenizer(family)
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    model = make_model(family, "ForSequenceClassification", vocab_size=len(tokenizer), num_labels=len(labels), **ids, **names, **config)
    path = folder / f"{family}-{len(labels)}"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Head(path.name, path, model, tokenizer)


@contextmanager
def head_server(heads: Sequence[Head], task: str, backend: str, cache: Path) -> Iterator[Server]:
    """A server that holds heads in a worker with a real engine, in float32."""
    first, *others = heads
    settings = Settings(
        models=(ModelArgument(str(first.path), first.name, task=task),),
        backend=backend,
        dtype="float32",
        cache_dir=cache,
        shutdown_grace_s=1,
    )
    with serve(settings=settings) as server:
        models = model_pb2_grpc.ModelServiceStub(server.channel)
        for head in others:
            request = model_pb2.LoadModelRequest(source=str(head.path), name=head.name, task=f"TASK_{task.upper()}")
            assert list(models.LoadModel(request, timeout=100))[-1].state == model_pb2.MODEL_STATE_READY
        for model in models.ListModels(model_pb2.ListModelsRequest(), timeout=10).models:
            assert (model.state, model.backend, model.dtype) == (model_pb2.MODEL_STATE_READY, backend, "float32"), model
        yield server


@contextmanager
def in_process(server: Server) -> Iterator[Callable[[Callable[[TextTask], Awaitable[T]]], T]]:
    """The door without a wire: the tasks themselves, on the server's event loop."""
    limits = TextLimits(max_texts=2_048, max_text_bytes=1_000_000, max_request_bytes=10_000_000)
    texts = Texts(limits, threads=1)
    task = TextTask(server.app.registry, server.app.dispatcher, texts)
    yield lambda work: server.on_loop(lambda: work(task))
    texts.close()


@contextmanager
def over_grpc(server: Server) -> Iterator[Callable[[Callable[[grpc.aio.Channel], Awaitable[T]]], T]]:
    """The door of the wire: a channel."""

    def run(work: Callable[[grpc.aio.Channel], Awaitable[T]]) -> T:
        async def main() -> T:
            async with grpc.aio.insecure_channel(server.address) as channel:
                return await work(channel)

        return asyncio.run(main())

    yield run


async def gather_groups(ask: Callable[[list[int]], Awaitable[Sequence[T]]], indices: Sequence[int], *, seed: int = 5) -> dict[int, T]:
    """The answers to inputs that are asked for in requests of 1 to 9 at the same time, so that each is computed among strangers."""
    rng = random.Random(seed)
    order = rng.sample(indices, len(indices))
    groups = []
    while order:
        size = rng.randint(1, 9)
        groups.append(order[:size])
        order = order[size:]
    answers: dict[int, T] = {}

    async def one(group: list[int]) -> None:
        answers.update(zip(group, await ask(group), strict=True))

    await asyncio.gather(*map(one, groups))
    return answers
