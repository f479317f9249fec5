"""The check at load: does a model give the same vectors packed, or padded, as when each text runs alone?

No list of families is kept. Each loaded model is run with its own weights on a few texts of random tokens, alone, and then in the way that
is to be checked. Two things must hold:

- equality: every text's hidden states are those that it has alone, up to the rounding of the number format;
- independence: they do not move when the neighbours' tokens change. This one has no rounding in it, so it finds in half precision too a
model that
  mixes neighbouring tokens before attention (MobileBERT) or that ignores the mask (FNet).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hubwire_server.backends.base import RaggedBatch
from hubwire_server.backends.torch.attention import PackingError
from hubwire_server.backends.torch.packed import PackedEncoder
from hubwire_server.backends.torch.padded import PaddedEncoder

LENGTHS = (7, 23, 2, 41)
"""Tokens of the texts of the check; a model with a sliding window up to MAX_CHECKED_WINDOW gets one more text that is longer than the
window.
"""

MAX_CHECKED_WINDOW = 1024
"""Above this a text that is longer than the window would make loading slow."""

EQUALITY = {torch.float32: 3e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""The largest difference allowed, in standard deviations of the hidden states."""

INDEPENDENCE = 1e-5
"""As EQUALITY, for the move of a text whose neighbours change."""


class Encoder(Protocol):
    """A way to run the body of a model."""

    max_row_tokens: int | None
    """The most tokens that one call takes, or None. A single longer text is taken alone."""

    def forward_ragged(self, batch: RaggedBatch) -> Tensor:
        """The last hidden states of all tokens, shape (T, hidden_size), on the model's device."""
        ...


def choose_encoder(body: Any, max_tokens: int) -> tuple[Encoder, bool, str]:
    """The fastest way to run a model that passes the check; whether it is packed; and how the check came out, for people."""
    probe = _probe(body, max_tokens)
    alone = PaddedEncoder(body, pad=False)
    reference = alone.forward_ragged(probe)
    refusals = []
    flash = body.device.type == "cuda" and body.dtype in (torch.float16, torch.bfloat16)
    for with_flash in (True, False) if flash else (False,):
        way = "packed with variable-length flash attention" if with_flash else "packed"
        try:
            encoder = PackedEncoder(body, flash=with_flash)
        except PackingError as error:
            refusals.append(f"not {way}: {error}")
            continue
        if problem := _problem(encoder, probe, reference):
            encoder.restore()
            refusals.append(f"not {way}: {problem}")
            continue
        return (
            encoder,
            True,
            "; ".join([*refusals, f"{way}: equal to one text at a time on {len(probe.offsets) - 1} texts of random tokens"]),
        )
    padded = PaddedEncoder(body)
    if problem := _problem(padded, probe, reference):
        return alone, False, "; ".join([*refusals, f"not padded: {problem}; each text runs alone"])
    return padded, False, "; ".join(refusals)


def _problem(encoder: Encoder, probe: RaggedBatch, reference: Tensor) -> str:
    """What speaks against running in this way; empty where nothing does."""
    try:
        hidden = encoder.forward_ragged(probe)
        moved = encoder.forward_ragged(_with_other_neighbours(probe))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # Model code may fail in any way on a shape that it was not written for, and every way means the same here.
        return f"the model fails ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'})"
    if hidden.shape != reference.shape:
        return f"the model gives {tuple(hidden.shape)} instead of {tuple(reference.shape)}"
    scale = reference.float().std().clamp(min=1e-12)
    difference = float((hidden.float() - reference.float()).abs().max() / scale)
    if not difference <= EQUALITY[reference.dtype]:
        return f"differs from one text at a time by {difference:.1e} standard deviations"
    kept = torch.from_numpy(np.repeat(np.arange(len(probe.offsets) - 1) % 2 == 0, np.diff(probe.offsets)))
    move = float((moved[kept].float() - hidden[kept].float()).abs().max() / scale)
    if not move <= INDEPENDENCE:
        return f"a text's vectors move with its neighbours by {move:.1e} standard deviations"
    return ""


def _probe(body: Any, max_tokens: int) -> RaggedBatch:
    """Texts of random tokens, none of them special: some models treat padding and end tokens in their own way."""
    window = getattr(body.config, "sliding_window", None)
    lengths = [min(length, max_tokens) for length in LENGTHS]
    if isinstance(window, int) and window <= min(MAX_CHECKED_WINDOW, max_tokens - 9):
        lengths.append(window + 9)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    generator = np.random.default_rng(20261124)
    special = {
        value
        for name in ("pad", "bos", "eos", "sep", "cls", "mask", "unk")
        if isinstance(value := getattr(body.config, f"{name}_token_id", None), int)
    }
    vocabulary = np.setdiff1d(np.arange(body.get_input_embeddings().weight.shape[0]), list(special))
    segments = min(2, max(1, getattr(body.config, "type_vocab_size", 1) or 1))
    return RaggedBatch(
        ids=generator.choice(vocabulary, offsets[-1]).astype(np.int32),
        type_ids=generator.integers(0, segments, offsets[-1]).astype(np.int32),
        offsets=offsets,
    )


def _with_other_neighbours(probe: RaggedBatch) -> RaggedBatch:
    """The same texts at even places, and the tokens of those at odd places in reverse order."""
    ids = probe.ids.copy()
    for text in range(1, len(probe.offsets) - 1, 2):
        start, stop = probe.offsets[text], probe.offsets[text + 1]
        ids[start:stop] = probe.ids[start:stop][::-1]
    return RaggedBatch(ids=ids, type_ids=probe.type_ids, offsets=probe.offsets)
