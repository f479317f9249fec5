"""Loading a model with the head that a task needs: the one entry that the worker calls."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from hubwire_server.backends.base import NO_LIMIT, Backend, BackendDescription, Candidate, Head, LoadOptions
from hubwire_server.backends.choice import Chooser
from hubwire_server.backends.comparison import OutputComparer, VectorComparer
from hubwire_server.backends.embedding_head import EmbeddingHead
from hubwire_server.backends.fingerprint import fingerprint
from hubwire_server.backends.head_folder import HeadFolder, read_head_folder
from hubwire_server.backends.sentence_folder import SentenceFolder, read_sentence_folder
from hubwire_server.backends.source import ModelSource
from hubwire_server.backends.tokenizer_export import ExportedTokenizer, brings_chat_template, export_tokenizer
from hubwire_server.errors import HubwireError, Reason

DEFAULT_MAX_TOKENS = 8192
"""The longest text of a model that sets no limit anywhere (T5 without max_seq_length): attention costs the square of it."""

ACCELERATORS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/kfd", "/dev/dxg")
"""What a Linux machine has where it has a GPU: NVIDIA's driver, that of its boards, AMD's, and that of WSL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """Everything that a worker and the front need of a model. Which head it has is part of the backend's description."""

    backend: Backend
    tokenizer: ExportedTokenizer
    fingerprint: str
    max_tokens: int
    """The longest text, special tokens included: what sentence-transformers would cut at, and never above what the model reads."""
    candidates: tuple[Candidate, ...] = ()
    """How the backend and the number format were chosen; empty where there was nothing to choose."""
    embedding_head: EmbeddingHead | None = None
    """What makes vectors of the hidden states. Only of models with the head BODY."""
    labels: tuple[str, ...] = ()
    """The name of each value of a row, as id2label of the configuration has them. Only of models that classify texts or tokens."""
    problem_type: str = ""
    """"regression", "single_label_classification" or "multi_label_classification"; empty where the configuration does not say."""


def load_model(path: Path, head: Head, options: LoadOptions) -> LoadedModel:
    """Loads the model of a folder with a head. It takes seconds, most of them for importing torch and transformers the first time.

    Raises HubwireError: MODEL_NOT_ALLOWED, MODEL_NOT_SUPPORTED or MODEL_LOAD_FAILED, each with one line on what is wrong.
    """
    if head is Head.BODY:
        return _load_body(path, options)
    folder = read_head_folder(path, head)
    source = ModelSource(path=folder.path, head=head, lowercase=folder.lowercase, comparer=OutputComparer(head))
    return _loaded_head(folder, _load(source, (path, folder.path), options))


def _load_body(path: Path, options: LoadOptions) -> LoadedModel:
    folder = read_sentence_folder(path)
    if folder.is_plain and brings_chat_template(folder.transformer_path):
        raise _reads_chats()
    source = ModelSource(
        path=folder.transformer_path,
        head=Head.BODY,
        lowercase=folder.lowercase,
        comparer=VectorComparer(folder, allow_pickle=options.allow_pickle),
    )
    return _loaded_body(folder, options, _load(source, (path, *folder.folders), options))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """What every head has."""

    backend: Backend
    tokenizer: ExportedTokenizer
    fingerprint: str
    candidates: tuple[Candidate, ...] = ()


def _load(source: ModelSource, folders: tuple[Path, ...], options: LoadOptions) -> _Loaded:
    """folders are those whose files the fingerprint is made of; the first is the model's own."""
    if options.cache_dir is not None and runs_on_cpu(options.device):
        # A format that is asked for and that only torch computes in leaves nothing to choose.
        if options.dtype not in ("float16", "bfloat16"):
            return _load_on_cpu(source, folders, options, options.cache_dir)
        options = replace(options, device="cpu")
    if options.backend == "onnx" or options.dtype == "int8":
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, "onnx and int8 are for a CPU, and need a cache folder")
    return _load_in_torch(source, folders, options)


def _load_on_cpu(source: ModelSource, folders: tuple[Path, ...], options: LoadOptions, cache: Path) -> _Loaded:
    chooser = Chooser(source, lambda: fingerprint(folders[0], folders[1:]), options, cache)
    choice = chooser.load()
    return _Loaded(backend=choice.backend, tokenizer=choice.tokenizer, fingerprint=chooser.fingerprint, candidates=choice.candidates)


def _load_in_torch(source: ModelSource, folders: tuple[Path, ...], options: LoadOptions) -> _Loaded:
    with ThreadPoolExecutor(1) as executor:
        # Hashing releases the GIL, so it runs beside the imports, and it brings the weights into the page cache for them.
        identity = executor.submit(fingerprint, folders[0], folders[1:])
        from hubwire_server.backends.torch import load  # here, since importing torch takes seconds

        backend = load(source.path, options, source.head)
        tokenizer = export_tokenizer(source.path, allow_remote_code=options.allow_remote_code, lowercase=source.lowercase)
        return _Loaded(backend=backend, tokenizer=tokenizer, fingerprint=identity.result())


def _loaded_body(folder: SentenceFolder, options: LoadOptions, loaded: _Loaded) -> LoadedModel:
    description = loaded.backend.description
    head = EmbeddingHead.from_sentence_folder(folder, hidden_size=description.row_size, allow_pickle=options.allow_pickle)
    if folder.is_plain and loaded.tokenizer.has_chat_template:
        raise _reads_chats()
    return LoadedModel(
        backend=loaded.backend,
        tokenizer=loaded.tokenizer,
        fingerprint=loaded.fingerprint,
        max_tokens=_limit(head.max_seq_length, loaded.tokenizer, description),
        candidates=loaded.candidates,
        embedding_head=head,
    )


def _loaded_head(folder: HeadFolder, loaded: _Loaded) -> LoadedModel:
    description = loaded.backend.description
    classifies = description.head in (Head.SEQUENCE_CLASSIFICATION, Head.TOKEN_CLASSIFICATION)
    return LoadedModel(
        backend=loaded.backend,
        tokenizer=loaded.tokenizer,
        fingerprint=loaded.fingerprint,
        max_tokens=_limit(folder.max_seq_length, loaded.tokenizer, description),
        candidates=loaded.candidates,
        labels=folder.labels(description.row_size) if classifies else (),
        problem_type=folder.problem_type if classifies else "",
    )


def _limit(set_by_folder: int | None, tokenizer: ExportedTokenizer, description: BackendDescription) -> int:
    limit = min(set_by_folder or tokenizer.model_max_length, description.max_tokens)
    return limit if limit < NO_LIMIT else DEFAULT_MAX_TOKENS


def _reads_chats() -> HubwireError:
    return HubwireError(Reason.MODEL_NOT_SUPPORTED, "sentence-transformers reads the texts of this model through its chat template")


def runs_on_cpu(device: str) -> bool:
    """Whether a device is the CPU. "auto" is, where nothing of this machine looks like an accelerator, which is found without torch, or
    where torch finds that none is of use.
    """
    if device != "auto":
        return device == "cpu"
    if sys.platform != "darwin" and not any(Path(name).exists() for name in ACCELERATORS):
        return True
    from hubwire_server.backends.torch import detect_device

    return detect_device() == "cpu"
