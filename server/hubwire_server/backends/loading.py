"""Loading an embedding model: the one entry that the worker calls."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from hubwire_server.backends.base import NO_LIMIT, Backend, Candidate, LoadOptions
from hubwire_server.backends.choice import Chooser
from hubwire_server.backends.embedding_head import EmbeddingHead
from hubwire_server.backends.fingerprint import fingerprint
from hubwire_server.backends.sentence_folder import SentenceFolder, read_sentence_folder
from hubwire_server.backends.tokenizer_export import ExportedTokenizer, export_tokenizer
from hubwire_server.errors import HubwireError, Reason

DEFAULT_MAX_TOKENS = 8192
"""The longest text of a model that sets no limit anywhere (T5 without max_seq_length): attention costs the square of it."""

ACCELERATORS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/kfd", "/dev/dxg")
"""What a Linux machine has where it has a GPU: NVIDIA's driver, that of its boards, AMD's, and that of WSL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEmbeddingModel:
    """Everything that a worker and the front need of an embedding model."""

    backend: Backend
    head: EmbeddingHead
    tokenizer_json: str
    special_ids: tuple[int, ...]
    """The ids of all special tokens. A prompt's length in tokens is that of the prompt alone, less one where its last token is among
    these.
    """
    fingerprint: str
    max_tokens: int
    """The longest text, special tokens included: what sentence-transformers would cut at, and never above what the model reads."""
    candidates: tuple[Candidate, ...] = ()
    """How the backend and the number format were chosen; empty where there was nothing to choose."""


def load_embedding_model(path: Path, options: LoadOptions) -> LoadedEmbeddingModel:
    """Loads the model of a folder. It takes seconds, most of them for importing torch and transformers the first time.

    Raises HubwireError: MODEL_NOT_ALLOWED, MODEL_NOT_SUPPORTED or MODEL_LOAD_FAILED, each with one line on what is wrong.
    """
    folder = read_sentence_folder(path)
    if options.cache_dir is not None and runs_on_cpu(options.device):
        # A format that is asked for and that only torch computes in leaves nothing to choose.
        if options.dtype not in ("float16", "bfloat16"):
            return _load_on_cpu(path, folder, options, options.cache_dir)
        options = replace(options, device="cpu")
    if options.backend == "onnx" or options.dtype == "int8":
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, "onnx and int8 are for a CPU, and need a cache folder")
    return _load_in_torch(path, folder, options)


def _load_on_cpu(path: Path, folder: SentenceFolder, options: LoadOptions, cache: Path) -> LoadedEmbeddingModel:
    chooser = Chooser(folder, lambda: fingerprint(path, folder.folders), options, cache)
    choice = chooser.load()
    return _loaded(folder, options, choice.backend, choice.tokenizer, chooser.fingerprint, choice.candidates)


def _load_in_torch(path: Path, folder: SentenceFolder, options: LoadOptions) -> LoadedEmbeddingModel:
    with ThreadPoolExecutor(1) as executor:
        # Hashing releases the GIL, so it runs beside the imports, and it brings the weights into the page cache for them.
        identity = executor.submit(fingerprint, path, folder.folders)
        from hubwire_server.backends.torch import load  # here, since importing torch takes seconds

        backend = load(folder.transformer_path, options)
        tokenizer = export_tokenizer(folder.transformer_path, allow_remote_code=options.allow_remote_code, lowercase=folder.lowercase)
        return _loaded(folder, options, backend, tokenizer, identity.result(), ())


def _loaded(
    folder: SentenceFolder,
    options: LoadOptions,
    backend: Backend,
    tokenizer: ExportedTokenizer,
    identity: str,
    candidates: tuple[Candidate, ...],
) -> LoadedEmbeddingModel:
    head = EmbeddingHead.from_sentence_folder(folder, hidden_size=backend.description.row_size, allow_pickle=options.allow_pickle)
    if folder.is_plain and tokenizer.has_chat_template:
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, "sentence-transformers reads the texts of this model through its chat template")
    limit = min(head.max_seq_length or tokenizer.model_max_length, backend.description.max_tokens)
    return LoadedEmbeddingModel(
        backend=backend,
        head=head,
        tokenizer_json=tokenizer.json,
        special_ids=tokenizer.special_ids,
        fingerprint=identity,
        max_tokens=limit if limit < NO_LIMIT else DEFAULT_MAX_TOKENS,
        candidates=candidates,
    )


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
