"""The check at load: does a model give the same vectors packed, or padded, as when each text runs alone?

No list of families is kept. Each loaded model is run with its own weights on a few texts of random tokens, alone, and then in the way that
is to be checked. Two things must hold:

- equality: every text's hidden states are those that it has alone, up to the rounding of the number format;
- independence: they do not move when the neighbours' tokens change. This one has no rounding in it, so it finds in half precision too a
model that
  mixes neighbouring tokens before attention (MobileBERT) or that ignores the mask (FNet).

What was chosen is then tried with other linear layers (linear.py), which must pass the same check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hubwire_server.backends.base import RaggedBatch
from hubwire_server.backends.torch.attention import PackingError
from hubwire_server.backends.torch.linear import choose_linears
from hubwire_server.backends.torch.packed import PackedEncoder, vocabulary_size
from hubwire_server.backends.torch.padded import PaddedEncoder
from hubwire_server.errors import HubwireError, Reason

LENGTHS = (7, 23, 2, 41)
"""Tokens of the texts of the check; a model with a sliding window up to MAX_CHECKED_WINDOW gets one more text that is longer than the
window.
"""

MAX_CHECKED_WINDOW = 1024
"""Above this a text that is longer than the window would make loading slow."""

MAX_DIFFERENCE = 3e-4
"""The largest difference allowed in float32, in standard deviations of the hidden states. Measured: 1e-6 to 2e-6."""

RMS_DIFFERENCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""The same in half precision, where single values are off by more: the root of the mean square of the differences."""

INDEPENDENCE = 1e-5
"""The largest move allowed of a text whose neighbours change, in any number format."""


SHORT_LENGTHS = (12,)
MIXED_LENGTHS = (5, 9, 14, 22, 31, 48, 70, 120)
"""The texts that linear layers are timed on: MiniLM's two rounds of them take 0.2 s on one thread."""


class Encoder(Protocol):
    """A way to run the body of a model."""

    max_row_tokens: int | None
    """The most tokens that one call takes, or None. A single longer text is taken alone."""

    def forward_ragged(self, batch: RaggedBatch) -> Tensor:
        """The last hidden states of all tokens, shape (T, hidden_size), on the model's device."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The fastest way to run a model that passed the check; note says how the check came out, for people."""

    encoder: Encoder
    packed: bool
    note: str
    hidden_size: int


def choose_encoder(body: Any, max_tokens: int) -> Choice:
    """Checks a model's ways to run. Raises HubwireError (MODEL_NOT_SUPPORTED) where it does not even run one text at a time."""
    probe = probe_texts(body, max_tokens)
    alone = PaddedEncoder(body, pad=False)
    try:
        reference = alone.forward_ragged(probe)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # As in _problem: model code may fail in any way.
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the model does not run on texts in {body.dtype}: {_one_line(error)}") from error
    _drop_pooler(body, alone, probe, reference)
    choice = _choose_way(body, alone, probe, reference)
    short = random_texts(body, SHORT_LENGTHS, max_tokens)
    mixed = [random_texts(body, (*MIXED_LENGTHS, more), max_tokens) for more in (1, 2)]
    linears = choose_linears(body, choice.encoder, short, mixed, lambda: _problem(choice.encoder, probe, reference))
    return replace(choice, note="; ".join(filter(None, (choice.note, linears))))


def _choose_way(body: Any, alone: PaddedEncoder, probe: RaggedBatch, reference: Tensor) -> Choice:
    hidden_size = reference.shape[-1]
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
        note = f"{way}: equal to one text at a time on {len(probe.offsets) - 1} texts of random tokens"
        return Choice(encoder, True, "; ".join([*refusals, note]), hidden_size)
    padded = PaddedEncoder(body)
    if problem := _problem(padded, probe, reference):
        return Choice(alone, False, "; ".join([*refusals, f"not padded: {problem}; each text runs alone"]), hidden_size)
    return Choice(padded, False, "; ".join(refusals), hidden_size)


def _drop_pooler(body: Any, alone: PaddedEncoder, probe: RaggedBatch, reference: Tensor) -> None:
    """Takes away the layer that gives pooler_output, which embeddings never read, where the model runs on without it."""
    pooler = getattr(body, "pooler", None)
    if not isinstance(pooler, torch.nn.Module):
        return
    body.pooler = None
    stop = int(probe.offsets[1])
    first = RaggedBatch(ids=probe.ids[:stop], type_ids=probe.type_ids[:stop], offsets=probe.offsets[:2])
    try:
        same = torch.equal(alone.forward_ragged(first), reference[:stop])
    except torch.OutOfMemoryError:
        raise
    except Exception:
        # A class that calls its pooler without asking whether it has one raises TypeError; code of a folder's own anything.
        same = False
    if not same:
        body.pooler = pooler


def _problem(encoder: Encoder, probe: RaggedBatch, reference: Tensor) -> str:
    """What speaks against running in this way; empty where nothing does."""
    try:
        hidden = encoder.forward_ragged(probe)
        moved = encoder.forward_ragged(_with_other_neighbours(probe))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # Model code may fail in any way on a shape that it was not written for, and every way means the same here.
        return f"the model fails ({_one_line(error)})"
    if hidden.shape != reference.shape:
        return f"the model gives {tuple(hidden.shape)} instead of {tuple(reference.shape)}"
    scale = reference.float().std().clamp(min=1e-12)
    differences = (hidden.float() - reference.float()) / scale
    limit = RMS_DIFFERENCE.get(reference.dtype)
    difference = float(differences.abs().max() if limit is None else differences.square().mean().sqrt())
    if not difference <= (limit or MAX_DIFFERENCE):  # not, so that NaN is a difference
        return f"differs from one text at a time by {difference:.1e} standard deviations"
    kept = torch.from_numpy(np.repeat(np.arange(len(probe.offsets) - 1) % 2 == 0, np.diff(probe.offsets)))
    move = float((moved[kept].float() - hidden[kept].float()).abs().max() / scale)
    if not move <= INDEPENDENCE:
        return f"a text's vectors move with its neighbours by {move:.1e} standard deviations"
    return ""


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"


def probe_texts(body: Any, max_tokens: int) -> RaggedBatch:
    """The texts of the check. Their tokens are random, none of them special: some models treat padding and end tokens in their own way."""
    window = getattr(body.config, "sliding_window", None)
    lengths = list(LENGTHS)
    if isinstance(window, int) and window <= min(MAX_CHECKED_WINDOW, max_tokens - 9):
        lengths.append(window + 9)
    return random_texts(body, lengths, max_tokens)


def random_texts(body: Any, lengths: Sequence[int], max_tokens: int) -> RaggedBatch:
    """Texts of these lengths, cut to max_tokens, of tokens that are not special. The same lengths give the same texts."""
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, max_tokens))]).astype(np.int64)
    generator = np.random.default_rng(20261124)
    special = {
        value
        for name in ("pad", "bos", "eos", "sep", "cls", "mask", "unk")
        if isinstance(value := getattr(body.config, f"{name}_token_id", None), int)
    }
    vocabulary = np.setdiff1d(np.arange(vocabulary_size(body)), list(special))
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
