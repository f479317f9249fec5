"""Every family gives what plain transformers gives to each text alone: packed where that is possible, padded where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hubwire_server.backends.base import LoadOptions, RaggedBatch
from hubwire_server.backends.torch import linear, load
from hubwire_server.errors import HubwireError, Reason
from tests.unit.backends.tiny_models import PACKABLE, UNPACKABLE, make_model, save_folder

LENGTHS = (5, 1, 40, 40, 17, 3, 3, 3, 60, 9)


def make_batch(seed: int, lengths: tuple[int, ...] = LENGTHS) -> RaggedBatch:
    generator = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = generator.integers(1000, 30_000, offsets[-1]).astype(np.int32)
    return RaggedBatch(ids=ids, type_ids=np.zeros_like(ids), offsets=offsets)


def alone(model: Any, batch: RaggedBatch) -> np.ndarray[Any, Any]:
    """What transformers gives to each text on its own, shape (T, hidden_size)."""
    rows = []
    with torch.inference_mode():
        for start, stop in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
            rows.append(model(input_ids=torch.from_numpy(batch.ids[None, start:stop].astype(np.int64))).last_hidden_state[0])
    return torch.cat(rows).numpy()


@pytest.mark.parametrize("family", [*PACKABLE, *UNPACKABLE])
def test_a_batch_gives_what_each_text_gives_alone(family: str, tmp_path: Path) -> None:
    model = make_model(family)
    backend = load(save_folder(model, tmp_path), LoadOptions(threads=1))
    description = backend.description
    assert description.packed is (family in PACKABLE), description.packed_note
    assert description.architecture == type(model).__name__
    batch = make_batch(3)
    expected = alone(model, batch)
    hidden, dtype = backend.forward(batch)
    assert (hidden.shape, dtype, description.row_size) == (expected.shape, "float32", 32)
    assert np.abs(hidden - expected).max() / expected.std() < 2e-5
    backend.close()


@pytest.mark.skipif(not linear.available(), reason="this torch has no prepacked linear layers")
@pytest.mark.parametrize("family", [*PACKABLE, *UNPACKABLE])
def test_linear_layers_with_prepacked_weights_give_the_same(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(family)
    monkeypatch.setattr(linear, "MIN_GAIN", 0.0)  # whether they are faster here is not the question
    backend = load(save_folder(model, tmp_path), LoadOptions(threads=1))
    assert "oneDNN linears" in backend.description.packed_note
    batch = make_batch(7)
    assert np.abs(backend.forward(batch)[0] - (expected := alone(model, batch))).max() / expected.std() < 2e-5


@pytest.mark.parametrize("family", ["Bert", "Roberta", "T5", "ModernBert"])
def test_half_precision_on_a_cpu_runs_packed_too(family: str, tmp_path: Path) -> None:
    model = make_model(family)
    backend = load(save_folder(model, tmp_path), LoadOptions(threads=1, dtype="bfloat16"))
    assert backend.description.packed, backend.description.packed_note
    batch = make_batch(3)
    hidden, dtype = backend.forward(batch)
    assert (hidden.dtype, dtype) == (np.uint16, "bfloat16")
    values = (hidden.astype(np.uint32) << 16).view(np.float32)
    expected = alone(model, batch)
    assert np.sqrt(np.square(values - expected).mean()) / expected.std() < 0.03


@pytest.mark.parametrize("family", ["Bart", "MobileBert"])
def test_half_precision_finds_out_what_cannot_be_packed(family: str, tmp_path: Path) -> None:
    backend = load(save_folder(make_model(family), tmp_path), LoadOptions(threads=1, dtype="bfloat16"))
    assert not backend.description.packed


def test_a_row_of_a_model_with_a_relative_bias_is_bounded(tmp_path: Path) -> None:
    model = make_model("T5")
    backend = load(save_folder(model, tmp_path), LoadOptions(threads=1))
    batch = make_batch(5, (700, 200, 200, 1100, 5))
    assert np.abs(backend.forward(batch)[0] - (expected := alone(model, batch))).max() / expected.std() < 2e-5


def test_roberta_counts_positions_past_a_padding_token_that_a_text_spells_out(tmp_path: Path) -> None:
    model = make_model("Roberta")
    backend = load(save_folder(model, tmp_path), LoadOptions(threads=1))
    assert backend.description.max_tokens == 158
    batch = make_batch(6, (6, 8))
    batch.ids[[2, 9]] = 1
    assert np.abs(backend.forward(batch)[0] - (expected := alone(model, batch))).max() / expected.std() < 2e-5


def test_a_model_that_does_not_run_in_a_number_format_says_so(tmp_path: Path) -> None:
    with pytest.raises(HubwireError, match=r"does not run on texts in torch\.bfloat16") as caught:
        load(save_folder(make_model("FNet"), tmp_path), LoadOptions(threads=1, dtype="bfloat16"))
    assert caught.value.reason is Reason.MODEL_NOT_SUPPORTED
