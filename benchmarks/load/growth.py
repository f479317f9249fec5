"""Whether a curve of costs grows where it should not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A cost against a size, from the smallest size to the largest. It should be flat or falling.

    tolerance is the part by which a cost may exceed the lowest cost at a smaller size, for noise and for what must grow; reason says
    what that is.
    """

    name: str
    size_unit: str
    cost_unit: str
    sizes: Sequence[int]
    costs: Sequence[float]
    tolerance: float
    reason: str

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.costs) or len(self.sizes) < 2 or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"{self.name}: a curve has rising sizes, at least two, and one cost for each")

    @property
    def rise(self) -> float:
        """The largest rise over the lowest cost before it, as a part of that cost; negative where every cost is lower."""
        return max(cost / min(self.costs[:place]) - 1 for place, cost in enumerate(self.costs) if place)

    @property
    def holds(self) -> bool:
        """Whether the curve is flat or falling within its tolerance."""
        return self.rise <= self.tolerance

    def __str__(self) -> str:
        points = ", ".join(f"{size:,}: {cost:.4g}" for size, cost in zip(self.sizes, self.costs, strict=True))
        verdict = "flat or falling" if self.holds else "RISES"
        limits = f"{self.cost_unit} by {self.size_unit}; rise {self.rise:+.0%}, at most {self.tolerance:.0%}"
        return f"{verdict:15} {self.name} ({limits}): {points}"

    def as_dict(self) -> dict[str, Any]:
        """For the result."""
        return {
            "name": self.name,
            "size_unit": self.size_unit,
            "cost_unit": self.cost_unit,
            "sizes": list(self.sizes),
            "costs": list(self.costs),
            "tolerance": self.tolerance,
            "reason": self.reason,
            "rise": self.rise,
            "holds": self.holds,
        }
