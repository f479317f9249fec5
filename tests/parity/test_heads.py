"""Every task head of every family gives what transformers gives to each text alone: in torch and in ONNX Runtime, alone and in company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from hubwire_server.backends.base import Backend, Head, LoadOptions, RaggedBatch
from hubwire_server.backends.loading import load_model
from hubwire_server.errors import HubwireError
from tests.unit.backends.tiny_models import EXPORTED, PACKABLE, UNPACKABLE, make_model, save_folder

CLASSES = {
    Head.SEQUENCE_CLASSIFICATION: "ForSequenceClassification",
    Head.TOKEN_CLASSIFICATION: "ForTokenClassification",
    Head.QUESTION_ANSWERING: "ForQuestionAnswering",
    Head.MASKED_LM: "ForMaskedLM",
}
FAMILIES = ("Bert", "Roberta", "XLMRoberta", "DistilBert", "DebertaV2", "MPNet", "ModernBert", "Electra", "Albert")
LENGTHS = (5, 1, 40, 40, 17, 3, 3, 60, 9)
LABELS = {f"label {index}": index for index in range(5)}
TOLERANCE = 1e-4
"""Of a logit, or of the root mean square of all where that is above 1: the weights of these models are large for their size."""


def make_batch(seed: int, lengths: tuple[int, ...] = LENGTHS) -> RaggedBatch:
    generator = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = generator.integers(1000, 30_000, offsets[-1]).astype(np.int32)
    return RaggedBatch(ids=ids, type_ids=generator.integers(0, 2, offsets[-1]).astype(np.int32), offsets=offsets)


def one_text(batch: RaggedBatch, text: int) -> RaggedBatch:
    start, stop = batch.offsets[text], batch.offsets[text + 1]
    return RaggedBatch(ids=batch.ids[start:stop], type_ids=batch.type_ids[start:stop], offsets=np.array([0, stop - start]))


def alone(model: Any, head: Head, batch: RaggedBatch) -> np.ndarray[Any, Any]:
    """What transformers gives to each text on its own: a row a text, or a row a token."""
    takes_types = getattr(model.config, "type_vocab_size", 0) > 1
    rows = []
    with torch.inference_mode():
        for start, stop in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
            inputs = {"input_ids": torch.from_numpy(batch.ids[None, start:stop].astype(np.int64))}
            if takes_types:
                inputs["token_type_ids"] = torch.from_numpy(batch.type_ids[None, start:stop].astype(np.int64))
            output = model(**inputs)
            if head is Head.QUESTION_ANSWERING:
                rows.append(torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1))
            else:
                rows.append(output.logits if head is Head.SEQUENCE_CLASSIFICATION else output.logits[0])
    return torch.cat(rows).numpy()


def assert_equal(ours: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    assert (ours.shape, ours.dtype, ours.flags.c_contiguous) == (expected.shape, np.float32, True)
    assert np.abs(ours - expected).max() < TOLERANCE * max(1.0, float(np.sqrt(np.square(expected).mean())))


def labelled(head: Head) -> dict[str, Any]:
    classifies = head in (Head.SEQUENCE_CLASSIFICATION, Head.TOKEN_CLASSIFICATION)
    return {"label2id": LABELS, "id2label": {index: name for name, index in LABELS.items()}} if classifies else {}


def load(path: Path, head: Head, backend: str, cache: Path) -> Backend:
    return load_model(path, head, LoadOptions(threads=1, backend=backend, dtype="float32", cache_dir=cache)).backend


@pytest.fixture(params=[(family, head) for head in CLASSES for family in FAMILIES], ids=lambda case: f"{case[0]}-{case[1]}")
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Head, Path]:
    """A model, its head and its folder."""
    family, head = request.param
    assert hasattr(transformers, (PACKABLE | UNPACKABLE | EXPORTED)[family][0] + CLASSES[head])
    model = make_model(family, CLASSES[head], **labelled(head))
    return model, head, save_folder(model, tmp_path / "model")


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_head_gives_what_transformers_gives_to_each_text_alone(case: tuple[Any, Head, Path], engine: str, tmp_path: Path) -> None:
    model, head, path = case
    backend = load(path, head, engine, tmp_path / "cache")
    description = backend.description
    assert (description.backend, description.head, description.architecture) == (engine, head, type(model).__name__)
    batch = make_batch(3)
    expected = alone(model, head, batch)
    assert description.row_size == expected.shape[1]
    output, dtype = backend.forward(batch)
    assert dtype == "float32"
    assert_equal(output, expected)
    for text in (1, 4, 7):
        start, stop = batch.offsets[text], batch.offsets[text + 1]
        of_text = expected[text : text + 1] if head is Head.SEQUENCE_CLASSIFICATION else expected[start:stop]
        assert_equal(backend.forward(one_text(batch, text))[0], of_text)
    if head is Head.SEQUENCE_CLASSIFICATION:
        with pytest.raises(ValueError, match="of which none can be left out"):
            backend.forward(batch, np.array([0]))
        with pytest.raises(HubwireError, match="no tokens") as caught:
            backend.forward(make_batch(3, (4, 0, 2)))
        assert caught.value.metadata == {"index": "1"}
        return
    for rows in (
        np.array([0]),
        np.array([5, 6, 7, 45, 46, 120, len(batch.ids) - 1]),
        np.arange(0, len(batch.ids), 7),
        np.array([], np.int64),
    ):
        chosen = backend.forward(batch, rows.astype(np.int64))[0]
        assert chosen.shape == (len(rows), description.row_size)
        if len(rows):
            assert_equal(chosen, expected[rows])
    middle = np.array([20, 39])
    assert_equal(backend.forward(one_text(batch, 3), middle)[0], expected[batch.offsets[3] + middle])


@pytest.mark.parametrize("family", ["Bert", "DebertaV2", "ModernBert"])
@pytest.mark.parametrize("head", CLASSES)
def test_the_control_a_model_that_loses_its_mask_differs_by_more_than_is_allowed(family: str, head: Head) -> None:
    """So that the test above would fail where padding took part."""
    model = make_model(family, CLASSES[head], **labelled(head))
    batch = make_batch(3, (9, 24))
    expected = alone(model, head, one_text(batch, 0))
    padded = torch.zeros(1, 24, dtype=torch.long)
    padded[0, :9] = torch.from_numpy(batch.ids[:9].astype(np.int64))
    types = torch.zeros(1, 24, dtype=torch.long)
    types[0, :9] = torch.from_numpy(batch.type_ids[:9].astype(np.int64))
    inputs = {"token_type_ids": types} if getattr(model.config, "type_vocab_size", 0) > 1 else {}
    with torch.inference_mode():
        output = model(input_ids=padded, attention_mask=torch.ones_like(padded), **inputs)
    logits = output.start_logits[:, :9, None] if head is Head.QUESTION_ANSWERING else output.logits
    given = logits.numpy() if head is Head.SEQUENCE_CLASSIFICATION else logits[0, :9].numpy()
    expected = expected[:, :1] if head is Head.QUESTION_ANSWERING else expected
    scale = max(1.0, float(np.sqrt(np.square(expected).mean())))
    assert np.abs(given - expected).max() > 100 * TOLERANCE * scale


@pytest.mark.parametrize("engine", ["torch", "onnx"])
@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("Qwen3", Head.SEQUENCE_CLASSIFICATION),
        ("Qwen3", Head.TOKEN_CLASSIFICATION),
        ("Bart", Head.SEQUENCE_CLASSIFICATION),
        ("Bart", Head.QUESTION_ANSWERING),
        ("T5", Head.TOKEN_CLASSIFICATION),
    ],
)
def test_decoders_and_models_with_both_halves_give_what_each_text_gives_alone(family: str, head: Head, engine: str, tmp_path: Path) -> None:
    model = make_model(family, CLASSES[head], decoder_start_token_id=102)
    backend = load(save_folder(model, tmp_path / "model"), head, engine, tmp_path / "cache")
    batch = make_batch(4, (5, 40, 17, 3, 31, 9))
    # BART reads the state of the last of these, and takes texts with unlike numbers of them together only where they are kept apart.
    batch.ids[batch.offsets[1:] - 1] = 102
    batch.ids[batch.offsets[1] + 7] = 102
    expected = alone(model, head, batch)
    assert_equal(backend.forward(batch)[0], expected)
    # And two texts whose numbers of this token, one and three, add up to a multiple of the texts.
    pair = RaggedBatch(ids=batch.ids[:45].copy(), type_ids=batch.type_ids[:45], offsets=batch.offsets[:3])
    pair.ids[30] = 102
    assert_equal(backend.forward(pair)[0], alone(model, head, pair))


def test_texts_of_very_unlike_lengths_come_back_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubwire_server.backends.torch.padded.MAX_RECTANGLE", 64)
    model = make_model("Bert", CLASSES[Head.SEQUENCE_CLASSIFICATION])
    backend = load(save_folder(model, tmp_path / "model"), Head.SEQUENCE_CLASSIFICATION, "torch", tmp_path / "cache")
    assert backend.description.packed
    batch = make_batch(5, (90, 2, 3, 60, 1, 7, 90, 4))
    assert_equal(backend.forward(batch)[0], alone(model, Head.SEQUENCE_CLASSIFICATION, batch))


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_vocabulary_is_computed_in_parts_that_are_bounded(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("torch.heads", "onnx.backend"):
        monkeypatch.setattr(f"hubwire_server.backends.{module}.MAX_VALUES", 20 * 30_522)
    model = make_model("Bert", CLASSES[Head.MASKED_LM])
    backend = load(save_folder(model, tmp_path / "model"), Head.MASKED_LM, engine, tmp_path / "cache")
    batch = make_batch(6, (90, 2, 33))
    expected = alone(model, Head.MASKED_LM, batch)
    assert_equal(backend.forward(batch)[0], expected)
    rows = np.arange(0, 125, 3)
    assert_equal(backend.forward(batch, rows)[0], expected[rows])
