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
from hubwire_server.backends.rows import Rows, check, count, part
from hubwire_server.backends.torch.check import choose_encoder, random_texts
from hubwire_server.backends.torch.devices import resolve_device, resolve_dtype
from hubwire_server.backends.torch.model import load_checkpoint, max_tokens, own_weights
from hubwire_server.backends.torch.packed import vocabulary_size
from hubwire_server.errors import HubwireError, Reason

MEMORY_RETRY_AFTER_MS = 1000
"""When a text that did not fit into the device's memory may be tried again."""


def load(path: Path, options: LoadOptions, head: Head = Head.BODY, *, on_model: Callable[[Any], None] = lambda model: None) -> TorchBackend:
    """Loads the model of a folder with a head. The number of threads is torch's, and so the process's: the last load decides.

    on_model gets the model as transformers loaded it, before anything of it is replaced. Raises HubwireError as load_checkpoint.
    """
    torch.set_num_threads(max(1, options.threads))
    device = resolve_device(options.device)
    # Scores are promised to be those of transformers, which half precision gives to those who ask for it.
    dtype = resolve_dtype("float32" if options.dtype == "auto" and head is not Head.BODY else options.dtype, device)
    try:
        model = load_checkpoint(path, options, head, device, dtype)
        on_model(model)
        return TorchBackend(model, head)
    except torch.OutOfMemoryError as error:
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"the device {device} has too little memory for the model") from error


class TorchBackend:
    """One model of transformers, with a head or without. Not safe for use by two threads at once."""

    def __init__(self, model: Any, head: Head = Head.BODY) -> None:
        self._model = model
        body = model if head is Head.BODY else model.base_model
        limit = max_tokens(body)
        self._vocabulary_size = vocabulary_size(body)
        with torch.inference_mode():
            choice = choose_encoder(model, limit, head)
        own_weights(model)  # after the choice, which may have replaced most of them
        self._encoder = choice.encoder
        self._host = torch.empty(0, dtype=model.dtype)
        self.description = BackendDescription(
            backend="torch",
            architecture=type(model).__name__,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            head=head,
            row_size=choice.row_size,
            max_tokens=limit,
            packed=choice.packed,
            packed_note=choice.note,
        )

    def forward(self, batch: RaggedBatch, rows: NDArray[np.int64] | None = None) -> tuple[NDArray[Any], str]:
        """The output of the head (base.py). A batch that does not fit into the device's memory is halved, down to single texts.

        Raises HubwireError: OVERLOADED where a single text does not fit, INTERNAL where a token has no embedding, and what rows.check
        refuses.
        """
        head = self.description.head
        check(head, batch, rows)
        self._check_vocabulary(batch)
        if not count(head, batch, rows):
            return self._to_host(torch.empty(0, self.description.row_size, dtype=self._host.dtype)), self.description.dtype
        with torch.inference_mode():
            batches = list(_batches(batch, rows, self._encoder.max_row_tokens))
            # Copied where there are several, since each may come back in the one host buffer.
            parts = [values if len(batches) == 1 else values.copy() for each in batches for values in self._forward_halving(*each)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts), self.description.dtype

    def random_texts(self, lengths: Sequence[int]) -> RaggedBatch:
        """Texts of random tokens of these lengths, as the check at load uses them (check.py)."""
        return random_texts(self._model, lengths, self.description.max_tokens, self.description.head)

    def close(self) -> None:
        """Frees the model's memory. The backend cannot be used after it."""
        del self._encoder, self._model, self._host
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _forward_halving(self, batch: RaggedBatch, rows: Rows) -> list[NDArray[Any]]:
        if not count(self.description.head, batch, rows):
            return []
        try:
            return [self._to_host(self._encoder.forward_ragged(batch, rows))]
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
        first = [values.copy() for values in self._forward_halving(*part(batch, rows, 0, middle))]
        return first + self._forward_halving(*part(batch, rows, middle, len(batch.offsets) - 1))

    def _to_host(self, values: Tensor) -> NDArray[Any]:
        """The output as an array; bfloat16 as its bits, since numpy has no such type. From a device it comes through one pinned buffer."""
        values = values.contiguous()
        if values.device.type != "cpu":
            if self._host.numel() < values.numel():
                self._host = torch.empty(values.numel(), dtype=values.dtype, pin_memory=values.device.type == "cuda")
            host = self._host[: values.numel()].view(values.shape)
            host.copy_(values)
            values = host
        array: NDArray[Any] = (values.view(torch.uint16) if values.dtype is torch.bfloat16 else values).numpy()
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


def _batches(batch: RaggedBatch, rows: Rows, limit: int | None) -> Iterator[tuple[RaggedBatch, Rows]]:
    """The batch in parts of at most limit tokens, or of a single longer text."""
    texts = len(batch.offsets) - 1
    if limit is None or batch.offsets[-1] <= limit:
        yield batch, rows
        return
    first = 0
    while first < texts:
        last = max(first + 1, int(np.searchsorted(batch.offsets, batch.offsets[first] + limit, side="right")) - 1)
        yield part(batch, rows, first, min(last, texts))
        first = last
