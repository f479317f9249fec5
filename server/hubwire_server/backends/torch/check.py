"""The check at load: does a model give the same output packed, or padded, as when its class runs each text alone?

No list of families is kept. Each loaded model is run with its own weights on a few texts of random tokens, alone, and then in the way that
is to be checked. Two things must hold of what its head gives, which for a body are the hidden states:

- equality: the output for every text is what it is alone, up to the rounding of the number format;
- independence: it does not move when the neighbours' tokens change. This one has no rounding in it, so it finds in half precision too a
  model that mixes neighbouring tokens before attention (MobileBERT) or that ignores the mask (FNet).

What was chosen is then tried with other linear layers (linear.py), which must pass the same check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hubwire_server.backends.base import Head, RaggedBatch, RowKind
from hubwire_server.backends.rows import Rows, probe_rows, texts_of
from hubwire_server.backends.torch.attention import PackingError
from hubwire_server.backends.torch.heads import TokenHead
from hubwire_server.backends.torch.linear import choose_linears
from hubwire_server.backends.torch.packed import PackedEncoder, vocabulary_size
from hubwire_server.backends.torch.padded import PaddedEncoder, ends_with_eos
from hubwire_server.errors import HubwireError, Reason

LENGTHS = (7, 23, 2, 41)
"""Tokens of the texts of the check; a model with a sliding window up to MAX_CHECKED_WINDOW gets one more text that is longer than the
window.
"""

MAX_CHECKED_WINDOW = 1024
"""Above this a text that is longer than the window would make loading slow."""

MAX_DIFFERENCE = 3e-4
"""The largest difference allowed in float32, in root mean squares of the output: that of a reranker with a single label hardly varies over
texts of random tokens, so that a standard deviation would be no measure. Measured: 1e-6 to 2e-6.
"""

RMS_DIFFERENCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""The same in half precision, where single values are off by more: the root of the mean square of the differences."""

INDEPENDENCE = 1e-5
"""The largest move allowed of a text whose neighbours change, in any number format."""


SHORT_LENGTHS = (12,)
MIXED_LENGTHS = (5, 9, 14, 22, 31, 48, 70, 120)
"""The texts that linear layers are timed on: MiniLM's two rounds of them take 0.2 s on one thread."""


class Encoder(Protocol):
    """A way to run a model."""

    max_row_tokens: int | None
    """The most tokens that one call takes, or None. A single longer text is taken alone."""

    def forward_ragged(self, batch: RaggedBatch, rows: Rows = None) -> Tensor:
        """The output of the model's head, a row a text or a row a token (base.py), on the model's device."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The fastest way to run a model that passed the check; note says how the check came out, for people."""

    encoder: Encoder
    packed: bool
    note: str
    row_size: int


@dataclass(frozen=True, slots=True)
class _Probe:
    """Texts, and what the model's own class gives of each alone."""

    head: Head
    batch: RaggedBatch
    reference: Tensor

    def run(self, encoder: Encoder, batch: RaggedBatch) -> Tensor:
        """What another way gives."""
        return encoder.forward_ragged(batch, probe_rows(self.head, batch))


def choose_encoder(model: Any, max_tokens: int, head: Head = Head.BODY) -> Choice:
    """Checks a model's ways to run. Raises HubwireError (MODEL_NOT_SUPPORTED) where it does not even run one text at a time."""
    batch = probe_texts(model, max_tokens, head)
    alone = PaddedEncoder(model, head, pad=False)
    try:
        probe = _Probe(head, batch, alone.forward_ragged(batch, probe_rows(head, batch)))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # As in _problem: model code may fail in any way.
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the model does not run on texts in {model.dtype}: {_one_line(error)}") from error
    if head is Head.BODY:
        _drop_pooler(model, alone, batch, probe.reference)
    choice = _choose_way(model, alone, probe)
    short = random_texts(model, SHORT_LENGTHS, max_tokens, head)
    mixed = [random_texts(model, (*MIXED_LENGTHS, more), max_tokens, head) for more in (1, 2)]
    linears = choose_linears(model, _Timed(probe, choice.encoder), short, mixed, lambda: _problem(choice.encoder, probe))
    return replace(choice, note="; ".join(filter(None, (choice.note, linears))))


@dataclass(frozen=True, slots=True)
class _Timed:
    """A way to run as linear layers are timed in it."""

    probe: _Probe
    encoder: Encoder

    def forward_ragged(self, batch: RaggedBatch) -> Tensor:
        """See linear.Runnable."""
        return self.probe.run(self.encoder, batch)


def _choose_way(model: Any, alone: PaddedEncoder, probe: _Probe) -> Choice:
    body = model if probe.head is Head.BODY else model.base_model
    row_size = probe.reference.shape[-1]
    refusals = []
    flash = body.device.type == "cuda" and body.dtype in (torch.float16, torch.bfloat16)
    for with_flash in (True, False) if flash else (False,):
        way = "packed with variable-length flash attention" if with_flash else "packed"
        try:
            packed = PackedEncoder(body, flash=with_flash)
        except PackingError as error:
            refusals.append(f"not {way}: {error}")
            continue
        encoder = _packed(model, probe.head, packed)
        if problem := _problem(encoder, probe):
            packed.restore()
            refusals.append(f"not {way}: {problem}")
            continue
        note = f"{way}: equal to one text at a time on {len(probe.batch.offsets) - 1} texts of random tokens"
        return Choice(encoder, True, "; ".join([*refusals, note]), row_size)
    padded = _padded(model, probe.head, pad=True)
    if not (problem := _problem(padded, probe)):
        return Choice(padded, False, "; ".join(refusals), row_size)
    refusals.append(f"not padded: {problem}; each text runs alone")
    faster = _padded(model, probe.head, pad=False)
    return Choice(alone if _problem(faster, probe) else faster, False, "; ".join(refusals), row_size)


def _packed(model: Any, head: Head, packed: PackedEncoder) -> Encoder:
    """A model with a head, its body running packed."""
    if head is Head.BODY:
        return packed
    if head.row_kind is RowKind.TOKEN:
        return TokenHead(model, head, packed)
    packed.install()
    return PaddedEncoder(model, head, max_row_tokens=packed.max_row_tokens)


def _padded(model: Any, head: Head, *, pad: bool) -> Encoder:
    """A model with a head on its own attention. The head of a token runs on chosen tokens alone, as it does packed."""
    if head is Head.BODY or head.row_kind is RowKind.TEXT:
        return PaddedEncoder(model, head, pad=pad)
    return TokenHead(model, head, PaddedEncoder(model.base_model, pad=pad))


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


def _problem(encoder: Encoder, probe: _Probe) -> str:
    """What speaks against running in this way; empty where nothing does."""
    batch, reference = probe.batch, probe.reference
    try:
        output = probe.run(encoder, batch)
        moved = probe.run(encoder, _with_other_neighbours(batch))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # Model code may fail in any way on a shape that it was not written for, and every way means the same here.
        return f"the model fails ({_one_line(error)})"
    if output.shape != reference.shape:
        return f"the model gives {tuple(output.shape)} instead of {tuple(reference.shape)}"
    scale = reference.float().square().mean().sqrt().clamp(min=1e-12)
    differences = (output.float() - reference.float()) / scale
    limit = RMS_DIFFERENCE.get(reference.dtype)
    difference = float(differences.abs().max() if limit is None else differences.square().mean().sqrt())
    if not difference <= (limit or MAX_DIFFERENCE):  # not, so that NaN is a difference
        return f"differs from one text at a time by {difference:.1e} root mean squares"
    kept = torch.from_numpy(texts_of(probe.head, batch, probe_rows(probe.head, batch)) % 2 == 0)
    move = float((moved[kept].float() - output[kept].float()).abs().max() / scale)
    if not move <= INDEPENDENCE:
        return f"a text's output moves with its neighbours by {move:.1e} root mean squares"
    return ""


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"


def probe_texts(model: Any, max_tokens: int, head: Head = Head.BODY) -> RaggedBatch:
    """The texts of the check. Their tokens are random, none of them special: some models treat padding and end tokens in their own way."""
    window = getattr(model.config, "sliding_window", None)
    lengths = list(LENGTHS)
    if isinstance(window, int) and window <= min(MAX_CHECKED_WINDOW, max_tokens - 9):
        lengths.append(window + 9)
    return random_texts(model, lengths, max_tokens, head)


def random_texts(model: Any, lengths: Sequence[int], max_tokens: int, head: Head = Head.BODY) -> RaggedBatch:
    """Texts of these lengths, cut to max_tokens, of tokens that are not special, but for a last one where a head reads its state. The same
    lengths give the same texts.
    """
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, max_tokens))]).astype(np.int64)
    generator = np.random.default_rng(20261124)
    special = {
        value
        for name in ("pad", "bos", "eos", "sep", "cls", "mask", "unk")
        if isinstance(value := getattr(model.config, f"{name}_token_id", None), int)
    }
    body = model if head is Head.BODY else model.base_model
    vocabulary = np.setdiff1d(np.arange(vocabulary_size(body)), list(special))
    segments = min(2, max(1, getattr(model.config, "type_vocab_size", 1) or 1))
    ids = generator.choice(vocabulary, offsets[-1]).astype(np.int32)
    if (eos := ends_with_eos(model, head)) is not None:
        ids[offsets[1:] - 1] = eos
    return RaggedBatch(
        ids=ids,
        type_ids=generator.integers(0, segments, offsets[-1]).astype(np.int32),
        offsets=offsets,
    )


def _with_other_neighbours(probe: RaggedBatch) -> RaggedBatch:
    """The same texts at even places, and the tokens of those at odd places in reverse order, all but the last one."""
    ids = probe.ids.copy()
    for text in range(1, len(probe.offsets) - 1, 2):
        start, stop = probe.offsets[text], probe.offsets[text + 1] - 1
        ids[start:stop] = probe.ids[start:stop][::-1]
    return RaggedBatch(ids=ids, type_ids=probe.type_ids, offsets=probe.offsets)
