"""From the last hidden states of tokens to one vector a text: pooling in Rust, then the model's own modules in numpy.

A trailing Normalize is not applied here but reported as `normalize`: the front scales, after it has cut a vector to the dimensions asked
for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hubwire_server import _native
from hubwire_server.backends.sentence_folder import SentenceFolder, read_sentence_folder
from hubwire_server.backends.sentence_modules import Normalize, SentenceModule, read_module
from hubwire_server.errors import HubwireError, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingHead:
    """What turns the tokens' hidden states of one model into its vectors, and what the front must know of it."""

    pooling: tuple[str, ...]
    """The model's own pooling modes; the vectors of several are concatenated."""
    include_prompt: bool
    """Whether the tokens of a prompt take part in pooling."""
    modules: tuple[SentenceModule, ...]
    """What follows pooling, without a trailing Normalize."""
    normalize: bool
    """Whether the model's last step scales vectors to length 1."""
    hidden_size: int
    dimensions: int
    """The size of the model's own vectors. A request that chooses another pooling of a model without modules gets hidden_size instead."""
    truncate_dim: int | None
    pooling_fixed: bool
    """Whether the modules take only the model's own pooling, so that a request cannot choose another."""
    max_seq_length: int | None
    """The longest text that the folder sets, in tokens."""
    lowercase: bool
    """Whether texts are put into lower case. export_tokenizer puts this into the tokenizer, as sentence-transformers does."""
    prompts: dict[str, str]
    default_prompt_name: str

    @classmethod
    def from_folder(cls, path: Path, *, hidden_size: int, allow_pickle: bool = False) -> EmbeddingHead:
        """The head of a model folder whose transformer gives hidden_size values a token. Raises HubwireError as read_sentence_folder and
        read_module.
        """
        return cls.from_sentence_folder(read_sentence_folder(path), hidden_size=hidden_size, allow_pickle=allow_pickle)

    @classmethod
    def from_sentence_folder(cls, folder: SentenceFolder, *, hidden_size: int, allow_pickle: bool = False) -> EmbeddingHead:
        """As from_folder, of a folder that has been read."""
        modules = [read_module(ref, allow_pickle=allow_pickle) for ref in folder.modules]
        dimensions = _check_sizes(modules, hidden_size * len(folder.pooling))
        normalize = False
        # With truncate_dim sentence-transformers cuts after Normalize and does not scale again, so it then stays a step of its own.
        while folder.truncate_dim is None and modules and isinstance(modules[-1], Normalize):
            modules.pop()
            normalize = True
        first_size = next((module.input_size for module in modules if module.input_size is not None), None)
        return cls(
            pooling=folder.pooling,
            include_prompt=folder.include_prompt,
            modules=tuple(modules),
            normalize=normalize,
            hidden_size=hidden_size,
            dimensions=min(dimensions, folder.truncate_dim or dimensions),
            truncate_dim=folder.truncate_dim,
            pooling_fixed=first_size is not None and first_size != hidden_size,
            max_seq_length=folder.max_seq_length,
            lowercase=folder.lowercase,
            prompts=dict(folder.prompts),
            default_prompt_name=folder.default_prompt_name,
        )

    def pool(
        self,
        hidden: NDArray[Any],
        dtype: str,
        offsets: NDArray[np.int64],
        *,
        mode: str | None = None,
        skip: NDArray[np.int64] | None = None,
        threads: int = 1,
    ) -> NDArray[np.float32]:
        """One vector a text, shape (n, dimensions), C-contiguous, not normalized where `normalize` leaves that to the front.

        hidden has shape (T, hidden_size) in the given dtype ("bfloat16" as uint16 bits), offsets (n + 1,). mode replaces the model's own
        pooling; skip, shape (n,), leaves the first tokens of each text out of it, which is for models with include_prompt False.
        Raises HubwireError: OUTPUT_NOT_FINITE with metadata["index"], OPTION_NOT_SUPPORTED where pooling is fixed.
        """
        if hidden.dtype != np.dtype("uint16" if dtype == "bfloat16" else dtype):
            raise HubwireError(Reason.INTERNAL, f"hidden states of type {hidden.dtype} were announced as {dtype}")
        if mode is not None and self.pooling_fixed:
            raise HubwireError(Reason.OPTION_NOT_SUPPORTED, "the modules after the model's pooling fit no other pooling")
        modes = self.pooling if mode is None else (mode,)
        pooled = [_pool(hidden, offsets, name, skip, threads) for name in modes]
        vectors = pooled[0] if len(pooled) == 1 else np.concatenate(pooled, axis=1)
        for module in self.modules:
            vectors = module(vectors)
        return np.ascontiguousarray(vectors[:, : self.truncate_dim], dtype=np.float32)


def _pool(hidden: NDArray[Any], offsets: NDArray[np.int64], mode: str, skip: NDArray[np.int64] | None, threads: int) -> NDArray[np.float32]:
    try:
        return _native.pool_ragged(hidden, offsets, mode=cast("_native.PoolingMode", mode), skip=skip, threads=threads)
    except _native.NativeError as error:
        if error.reason != "not_finite":
            raise
        raise HubwireError(
            Reason.OUTPUT_NOT_FINITE,
            "the model gave NaN or infinity",
            metadata={} if error.index is None else {"index": str(error.index)},
        ) from error


def _check_sizes(modules: list[SentenceModule], size: int) -> int:
    """The size of the vectors after all modules. Raises HubwireError (MODEL_NOT_SUPPORTED) where one module does not fit the one before
    it.
    """
    for module in modules:
        if module.input_size not in (None, size):
            raise HubwireError(
                Reason.MODEL_NOT_SUPPORTED,
                f"the module {type(module).__name__} takes vectors of size {module.input_size}, but those before it have size {size}",
            )
        size = module.output_size or size
    return size
