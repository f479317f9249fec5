"""The torch backend: any family of transformers, on any device that torch runs on."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hubwire_server.backends.base import BackendDescription, Head, LoadOptions, RaggedBatch
from hubwire_server.backends.torch.check import choose_encoder, random_texts
from hubwire_server.backends.torch.devices import resolve_device, resolve_dtype
from hubwire_server.backends.torch.model import load_body, max_tokens, own_weights
from hubwire_server.backends.torch.packed import vocabulary_size
from hubwire_server.errors import HubwireError, Reason

MEMORY_RETRY_AFTER_MS = 1000
"""When a text that did not fit into the device's memory may be tried again."""


def load(path: Path, options: LoadOptions, on_body: Callable[[Any], None] = lambda body: None) -> TorchBackend:
    """Loads the model of a folder. The number of threads is torch's, and so the process's: the last load
    decides.

    on_body gets the model as transformers loaded it, before anything of it is replaced.
    """
    torch.set_num_threads(max(1, options.threads))
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    try:
        body = load_body(path, options, device, dtype)
        on_body(body)
        return TorchBackend(body)
    except torch.OutOfMemoryError as error:
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"the device {device} has too little memory for the model") from error


class TorchBackend:
    """The body of one model. Not safe for use by two threads at once."""

    def __init__(self, body: Any) -> None:
        self._body = body
        limit = max_tokens(body)
        with torch.inference_mode():
            choice = choose_encoder(body, limit)
        own_weights(body)  # after the choice, which may have replaced most of them
        self._encoder = choice.encoder
        self._vocabulary_size = vocabulary_size(body)
        self._host = torch.empty(0, dtype=body.dtype)
        self.description = BackendDescription(
            backend="torch",
            architecture=type(body).__name__,
            device=str(body.device),
            dtype=str(body.dtype).removeprefix("torch."),
            head=Head.BODY,
            row_size=choice.hidden_size,
            max_tokens=limit,
            packed=choice.packed,
            packed_note=choice.note,
        )

    def forward(self, batch: RaggedBatch, rows: NDArray[np.int64] | None = None) -> tuple[NDArray[Any], str]:
        """The last hidden states of all tokens (base.py). A batch that does not fit into the device's memory is halved, down to single
        texts.

        Raises HubwireError: OVERLOADED where a single text does not fit, INTERNAL where a token has no embedding.
        """
        self._check_vocabulary(batch)
        if not len(batch.ids):
            return self._to_host(torch.empty(0, self.description.row_size, dtype=self._host.dtype)), self.description.dtype
        with torch.inference_mode():
            batches = list(_rows(batch, self._encoder.max_row_tokens))
            # Copied where there are several, since each may come back in the one host buffer.
            parts = [part if len(batches) == 1 else part.copy() for each in batches for part in self._forward_halving(each)]
        hidden = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return hidden if rows is None else hidden[rows], self.description.dtype

    def random_texts(self, lengths: Sequence[int]) -> RaggedBatch:
        """Texts of random tokens of these lengths, as the check at load uses them (check.py)."""
        return random_texts(self._body, lengths, self.description.max_tokens)

    def close(self) -> None:
        """Frees the model's memory. The backend cannot be used after it."""
        del self._encoder, self._body, self._host
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _forward_halving(self, batch: RaggedBatch) -> list[NDArray[Any]]:
        try:
            return [self._to_host(self._encoder.forward_ragged(batch))]
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        # Outside of the handler, where the traceback no longer holds the tensors that filled the memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch.offsets) == 2:
            raise HubwireError(
                Reason.OVERLOADED,
                f"the device has too little memory for a text of {len(batch.ids)} tokens",
                retry_after_ms=MEMORY_RETRY_AFTER_MS,
            )
        middle = int(np.clip(np.searchsorted(batch.offsets, len(batch.ids) // 2), 1, len(batch.offsets) - 2))
        # Copied, since both halves may come back in the one host buffer.
        first = [part.copy() for part in self._forward_halving(_texts(batch, 0, middle))]
        return first + self._forward_halving(_texts(batch, middle, len(batch.offsets) - 1))

    def _to_host(self, hidden: Tensor) -> NDArray[Any]:
        """The hidden states as an array; bfloat16 as its bits, since numpy has no such type. From a device they come through one pinned
        buffer.
        """
        hidden = hidden.contiguous()
        if hidden.device.type != "cpu":
            if self._host.numel() < hidden.numel():
                self._host = torch.empty(hidden.numel(), dtype=hidden.dtype, pin_memory=hidden.device.type == "cuda")
            host = self._host[: hidden.numel()].view(hidden.shape)
            host.copy_(hidden)
            hidden = host
        array: NDArray[Any] = (hidden.view(torch.uint16) if hidden.dtype is torch.bfloat16 else hidden).numpy()
        return array

    def _check_vocabulary(self, batch: RaggedBatch) -> None:
        """A tokenizer that knows more tokens than the model would end the process on CUDA, and raise an IndexError elsewhere."""
        if len(batch.ids) and (batch.ids.min() < 0 or batch.ids.max() >= self._vocabulary_size):
            position = int(np.argmax((batch.ids < 0) | (batch.ids >= self._vocabulary_size)))
            text = int(np.searchsorted(batch.offsets, position, side="right")) - 1
            raise HubwireError(
                Reason.INTERNAL,
                f"the tokenizer gives token {batch.ids[position]}, but the model has {self._vocabulary_size} embeddings",
                metadata={"index": str(text)},
            )


def _is_out_of_memory(error: RuntimeError) -> bool:
    # The allocator of the CPU raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def _texts(batch: RaggedBatch, first: int, last: int) -> RaggedBatch:
    """The texts first to last, the last one excluded."""
    start, stop = batch.offsets[first], batch.offsets[last]
    return RaggedBatch(ids=batch.ids[start:stop], type_ids=batch.type_ids[start:stop], offsets=batch.offsets[first : last + 1] - start)


def _rows(batch: RaggedBatch, limit: int | None) -> Iterator[RaggedBatch]:
    """The batch in parts of at most limit tokens, or of a single longer text."""
    texts = len(batch.offsets) - 1
    if limit is None or batch.offsets[-1] <= limit:
        yield batch
        return
    first = 0
    while first < texts:
        last = max(first + 1, int(np.searchsorted(batch.offsets, batch.offsets[first] + limit, side="right")) - 1)
        yield _texts(batch, first, min(last, texts))
        first = last
