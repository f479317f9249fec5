"""Linear layers with prepacked weights: which layers are replaced, that they compute the same, and how the choice falls."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from hubwire_server.backends.base import LoadOptions
from hubwire_server.backends.torch import linear, load
from hubwire_server.backends.torch.check import choose_encoder
from hubwire_server.backends.torch.linear import PrepackedLinear, PrepackedLinears, choose_linears, replaceable
from tests.unit.backends.tiny_models import MINILM, make_model

needs_the_operators = pytest.mark.skipif(not linear.available(), reason="this torch has no prepacked linear layers")


class OwnLinear(nn.Linear):
    """A subclass may compute anything."""


class Layers(nn.Module):
    """Layers that may be replaced, and layers that may not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.inner = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8, bias=False))
        self.subclass = OwnLinear(8, 8)
        self.half = nn.Linear(8, 8, dtype=torch.float16)
        self.hooked = nn.Linear(8, 8)
        self.hooked.register_forward_hook(lambda *_: None)
        self.embedding = nn.Embedding(30, 8)
        self.tied = nn.Linear(8, 30, bias=False)
        self.tied.weight = self.embedding.weight
        self.one = self.two = nn.Linear(8, 8)
        self.requires_grad_(False)
        self.trained = nn.Linear(8, 8)


class Body(nn.Module):
    """A model of one layer on a clock of its own: how long a batch takes is its number times what the layer in place takes."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, plain_s: float, prepacked_s: float, clock: list[float]) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8).requires_grad_(False)
        self._seconds, self._clock = {nn.Linear: plain_s, PrepackedLinear: prepacked_s}, clock

    def forward_ragged(self, batch: Any) -> torch.Tensor:
        self._clock[0] += self._seconds[type(self.layer)] * batch
        result: torch.Tensor = self.layer(torch.ones(1, 8))
        return result


@needs_the_operators
def test_only_plain_layers_that_own_their_weight_are_replaced() -> None:
    assert [name for _, name, _ in replaceable(Layers())] == ["first", "0", "2"]


@needs_the_operators
@pytest.mark.parametrize("shape", [(1, 1, 8), (3, 5, 8), (7, 8), (2, 3, 4, 8)])
@torch.inference_mode()
def test_a_prepacked_layer_computes_what_the_plain_one_does(shape: tuple[int, ...]) -> None:
    for bias in (True, False):
        plain = nn.Linear(8, 20, bias=bias)
        x = torch.randn(*shape)
        assert torch.allclose(PrepackedLinear(plain)(x), plain(x), atol=1e-6)


@needs_the_operators
@torch.inference_mode()
def test_layers_are_swapped_in_and_back() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)).requires_grad_(False)
    layers, expected, x = list(model), model(torch.ones(2, 8)), torch.ones(2, 8)
    linears = PrepackedLinears(model)
    linears.use(prepacked=True)
    assert {type(layer) for layer in model} == {PrepackedLinear}
    assert sum(parameter.numel() for parameter in model.parameters()) == 12  # the biases
    assert torch.allclose(model(x), expected, atol=1e-6)
    linears.use(prepacked=False)
    assert list(model) == layers
    assert torch.equal(model(x), expected)


@needs_the_operators
@pytest.mark.parametrize(
    ("plain_s", "prepacked_s", "kept", "note"),
    [
        (
            0.006,
            0.003,
            True,
            "oneDNN linears with prepacked weights: 3.0 ms against 6.0 ms of plain ones on a short text, 30 ms against 60",
        ),
        (0.003, 0.006, False, "plain linears: 3.0 ms against 6.0 ms of oneDNN's prepacked ones on a short text, 30 ms"),
        (0.00303, 0.003, False, "plain linears: 3.0 ms against 3.0 ms"),
        (1.2, 0.6, True, "600.0 ms against 1200.0 ms of plain ones on a short text$"),
    ],
    ids=["faster", "slower", "equally fast", "a model too slow for the large batch"],
)
def test_the_faster_form_stays(monkeypatch: pytest.MonkeyPatch, plain_s: float, prepacked_s: float, kept: bool, note: str) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    body = Body(plain_s, prepacked_s, clock)
    result = choose_linears(body, body, 1, [10, 10], lambda: "")
    assert type(body.layer) is (PrepackedLinear if kept else nn.Linear)
    assert re.search(note, result), result


@needs_the_operators
def test_a_form_that_fails_the_check_is_not_kept() -> None:
    body = Body(1, 0.1, [0.0])
    assert choose_linears(body, body, 1, [10, 10], lambda: "it differs") == "plain linears: with oneDNN's prepacked weights it differs"
    assert type(body.layer) is nn.Linear


def test_a_torch_without_the_operators_keeps_its_own_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "available", lambda: False)
    body = Body(1, 0.1, [0.0])
    assert choose_linears(body, body, 1, [10, 10], lambda: "") == ""
    assert type(body.layer) is nn.Linear


@needs_the_operators
def test_the_choice_is_part_of_the_note() -> None:
    note = load(MINILM, LoadOptions(threads=1)).description.packed_note
    assert "linears" in note.partition("; ")[2]


@pytest.mark.parametrize("family", ["Bert", "Albert", "MPNet"])
@torch.inference_mode()
def test_the_pooler_that_embeddings_never_read_is_dropped(family: str) -> None:
    body = make_model(family)
    assert body.pooler is not None
    choose_encoder(body, 160)
    assert body.pooler is None
