"""Linear layers of oneDNN with prepacked weights, where they are faster than torch's own.

On a CPU in float32 torch multiplies with MKL, which reads the weights in their plain layout and is slow on AMD. oneDNN reads them in blocks
that fit its kernel: on an AMD EPYC (AVX2, one thread) a whole MiniLM forward of 12 tokens took 3.4 instead of 5.9 ms. Which of the two is
faster depends on the machine and on the sizes of the model, so both are timed at load, and the check of check.py decides whether the
vectors are the same.

The operators are private to torch (its inductor uses them). A torch without them keeps its own layers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

PACKING_HINT = 64
"""The number of tokens that oneDNN lays the weights out for. The weights serve any other number too."""

MIN_GAIN = 1.05
"""How much faster than torch's layers the prepacked ones must be, so that noise does not choose."""

SLOW_FORWARD_S = 0.5
"""Where a short text takes longer than this, the large batch is not timed."""

SHORT_ROUNDS, LARGE_ROUNDS = 5, 2


class Runnable(Protocol):
    """A way to run the body of a model on a batch."""

    def forward_ragged(self, batch: Any) -> Tensor:
        """The last hidden states."""
        ...


class PrepackedLinear(nn.Module):
    """What nn.Linear computes, with the weight in the layout of oneDNN."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        # T5 reads the dtype of a layer's weight. It is no parameter: nothing can convert or save it.
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKING_HINT)

    def forward(self, x: Tensor) -> Tensor:
        """x has shape (..., in_features)."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return result


@dataclass(slots=True)
class _Place:
    parent: nn.Module
    name: str
    plain: nn.Module
    prepacked: nn.Module


class PrepackedLinears:
    """The linear layers of a model in both forms. The plain ones are in place until use is called."""

    def __init__(self, body: nn.Module) -> None:
        self._places = [_Place(parent, name, linear, PrepackedLinear(linear)) for parent, name, linear in replaceable(body)]

    def __len__(self) -> int:
        return len(self._places)

    def use(self, *, prepacked: bool) -> None:
        """Puts one of the two forms into place."""
        for place in self._places:
            setattr(place.parent, place.name, place.prepacked if prepacked else place.plain)

    def settle(self) -> None:
        """Frees the form that is not in place."""
        self._places.clear()


def available() -> bool:
    """Whether this torch has the operators."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return bool(torch._C._has_mkldnn) and all(hasattr(torch.ops.mkldnn, name) for name in names)


def replaceable(body: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """The layers that may be replaced, each with its parent and its name there: nn.Linear itself, on a CPU in float32, with a weight that
    nothing else uses, without hooks and without gradients.
    """
    uses = Counter(id(parameter) for _, parameter in body.named_parameters(remove_duplicate=False))
    return [
        (parent, name, child)
        for parent in body.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
        and (child.weight.device.type, child.weight.dtype) == ("cpu", torch.float32)
        and not child.weight.requires_grad
        and uses[id(child.weight)] == 1
        and not (child._forward_hooks or child._forward_pre_hooks or "forward" in vars(child))
    ]


def choose_linears(body: Any, encoder: Runnable, short: Any, large: Sequence[Any], problem: Callable[[], str]) -> str:
    """Leaves the faster form of the model's linear layers in place, and returns how that came out, for people.

    problem runs the model and says what is wrong with its results, or nothing. large holds one batch a round, each with another number of
    tokens, since oneDNN makes a kernel for every number that it meets the first time. Returns "" where there was nothing to choose.
    """
    if body.device.type != "cpu" or body.dtype != torch.float32 or not available():
        return ""
    try:
        linears = PrepackedLinears(body)
    except RuntimeError:  # an operator that takes other arguments in this torch
        return ""
    if not len(linears):
        return ""
    linears.use(prepacked=True)
    note, keep = "", False
    if wrong := problem():
        note = f"plain linears: with oneDNN's prepacked weights {wrong}"
    else:
        short_s = _time(linears, encoder, [short] * SHORT_ROUNDS)
        large_s = _time(linears, encoder, large[:LARGE_ROUNDS]) if max(short_s) < SLOW_FORWARD_S else None
        keep = all(plain >= MIN_GAIN * prepacked for prepacked, plain in filter(None, (short_s, large_s)))
        note = _note(keep, short_s, large_s)
    linears.use(prepacked=keep)
    linears.settle()
    return note


def _time(linears: PrepackedLinears, encoder: Runnable, batches: Sequence[Any]) -> tuple[float, float]:
    """The shortest seconds of the prepacked and of the plain form, which take turns."""
    best = {True: float("inf"), False: float("inf")}
    for batch in batches:
        for prepacked in (True, False):
            linears.use(prepacked=prepacked)
            started = time.perf_counter()
            encoder.forward_ragged(batch)
            best[prepacked] = min(best[prepacked], time.perf_counter() - started)
            if best[prepacked] > SLOW_FORWARD_S and best[not prepacked] < float("inf"):
                return best[True], best[False]
    return best[True], best[False]


def _note(keep: bool, short_s: tuple[float, float], large_s: tuple[float, float] | None) -> str:
    mine, other = (0, 1) if keep else (1, 0)
    name, than = ("oneDNN linears with prepacked weights", "plain ones") if keep else ("plain linears", "oneDNN's prepacked ones")
    parts = [f"{short_s[mine] * 1e3:.1f} ms against {short_s[other] * 1e3:.1f} ms of {than} on a short text"]
    if large_s is not None:
        parts.append(f"{large_s[mine] * 1e3:.0f} ms against {large_s[other] * 1e3:.0f} ms on a mixed batch")
    return f"{name}: {', '.join(parts)}"
