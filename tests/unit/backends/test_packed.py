"""The unpad shim: task heads that call their body with padded ids and a mask run packed without knowing it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hubwire_server.backends.torch.attention import PACKED, PackingError
from hubwire_server.backends.torch.packed import PackedEncoder
from tests.unit.backends.tiny_models import make_model

HEADS = {
    "ForSequenceClassification": ("Bert", "DistilBert", "Roberta", "XLMRoberta", "Electra", "Albert", "ModernBert", "Qwen3"),
    "ForTokenClassification": ("Bert", "DistilBert", "Roberta", "Electra", "Albert"),
    "ForQuestionAnswering": ("Bert", "Roberta"),
    "ForMaskedLM": ("Bert", "Albert", "ModernBert"),
}
CASES = [(family, head) for head, families in HEADS.items() for family in families]


def padded_inputs(family: str, side: str = "right") -> dict[str, torch.Tensor]:
    """Four texts of random tokens, padded to the longest."""
    generator = torch.Generator().manual_seed(11)
    pad = 1 if "Roberta" in family else 0
    ids, mask = torch.full((4, 40), pad), torch.zeros(4, 40, dtype=torch.long)
    for row, length in enumerate((7, 40, 1, 22)):
        where = slice(0, length) if side == "right" else slice(40 - length, 40)
        ids[row, where] = torch.randint(1000, 30_000, (length,), generator=generator)
        mask[row, where] = 1
    return {"input_ids": ids, "attention_mask": mask}


def difference(expected: Any, output: Any, mask: torch.Tensor) -> float:
    """The largest difference of the logits of texts, or of tokens that are not padding, in standard deviations."""
    name = "start_logits" if "start_logits" in expected else "logits"
    a, b = expected[name], output[name]
    if a.shape[:2] == mask.shape:
        a, b = a[mask.bool()], b[mask.bool()]
    return float((a - b).abs().max() / a.std())


@pytest.mark.parametrize(("family", "head"), CASES)
def test_a_head_gives_the_same_packed(family: str, head: str) -> None:
    model = make_model(family, head)
    inputs = padded_inputs(family)
    with torch.inference_mode():
        expected = model(**inputs)
        PackedEncoder(model.base_model).install()
        output = model(**inputs)
    assert model.base_model.config._attn_implementation == PACKED
    assert difference(expected, output, inputs["attention_mask"]) < 2e-5


@pytest.mark.parametrize("family", ["Bert", "Albert"])
def test_a_body_gives_its_pooler_and_hidden_states_for_each_text(family: str) -> None:
    model = make_model(family)
    inputs = padded_inputs(family)
    mask = inputs["attention_mask"].bool()
    with torch.inference_mode():
        expected = model(**inputs, output_hidden_states=True)
        PackedEncoder(model).install()
        output = model(**inputs, output_hidden_states=True)
        as_tuple = model(**inputs, return_dict=False)
    assert torch.allclose(output.pooler_output, expected.pooler_output, atol=1e-5)
    assert torch.equal(as_tuple[0], output.last_hidden_state)
    for ours, theirs in zip(output.hidden_states, expected.hidden_states, strict=True):
        assert torch.allclose(ours[mask], theirs[mask], atol=2e-5)
    assert not output.last_hidden_state[~mask].any()


def test_padding_on_the_left_is_dropped_too() -> None:
    model = make_model("Qwen3")
    inputs = padded_inputs("Qwen3", side="left")
    mask = inputs["attention_mask"].bool()
    with torch.inference_mode():
        expected = model(**inputs).last_hidden_state[mask]
        PackedEncoder(model).install()
        assert torch.allclose(model(**inputs).last_hidden_state[mask], expected, atol=1e-4)


def test_segments_of_pairs_are_kept() -> None:
    model = make_model("Bert")
    inputs = padded_inputs("Bert")
    inputs["token_type_ids"] = (torch.arange(40) % 3 == 0).long().expand(4, -1)
    mask = inputs["attention_mask"].bool()
    with torch.inference_mode():
        expected = model(**inputs).last_hidden_state[mask]
        PackedEncoder(model).install()
        assert torch.allclose(model(**inputs).last_hidden_state[mask], expected, atol=1e-5)


def test_restoring_gives_the_model_back_as_it_was() -> None:
    model = make_model("Bert")
    inputs = padded_inputs("Bert")
    with torch.inference_mode():
        expected = model(**inputs).last_hidden_state
        encoder = PackedEncoder(model)
        encoder.install()
        encoder.restore()
        assert torch.equal(model(**inputs).last_hidden_state, expected)


def test_a_packed_model_that_is_called_without_the_shim_refuses() -> None:
    model = make_model("Bert")
    PackedEncoder(model)
    with torch.inference_mode(), pytest.raises(PackingError, match="without the bounds"):
        model(**padded_inputs("Bert"))


@pytest.mark.parametrize("arguments", [{"output_attentions": True}, {"input_ids": None}, {"attention_mask": torch.ones(4, 1, 40, 40)}])
def test_what_cannot_run_packed_refuses(arguments: dict[str, Any]) -> None:
    model = make_model("Bert")
    PackedEncoder(model).install()
    with torch.inference_mode(), pytest.raises(PackingError):
        model(**{**padded_inputs("Bert"), **arguments})


def test_a_model_off_the_attention_interface_refuses() -> None:
    with pytest.raises(PackingError, match="AttentionInterface"):
        PackedEncoder(make_model("MPNet"))
