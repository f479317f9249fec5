"""The plots, as SVG: small, sharp at every size, and the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")  # before pyplot: no window, and no toolkit for one
import matplotlib.pyplot as plt

STYLE = {
    "svg.hashsalt": "hubwire",  # ids would be random otherwise
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
OURS = "#c0392b"
OTHERS = ("#2471a3", "#1e8449", "#b9770e", "#7d3c98", "#707b7c")


def latency_against_load(figures: Mapping[str, Any], caption: str, path: Path) -> None:
    """One panel a workload: latency, on a logarithmic axis, against the offered load, one line per server. A line ends where its server no
    longer answered what was offered.
    """
    with plt.rc_context(STYLE):
        panels = figures["open_loop"]
        figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.2), squeeze=False, layout="constrained")
        for axis, (workload, lines) in zip(axes[0], panels.items(), strict=True):
            colors = iter(OTHERS)
            for name, points in lines.items():
                measured = [point for point in points if "p95_ms" in point]
                style: dict[str, Any] = {"color": OURS, "linewidth": 2.2, "zorder": 3} if name == "hubwire" else {"color": next(colors)}
                loads, latencies = [point["offered_per_s"] for point in measured], [point["p95_ms"] for point in measured]
                axis.plot(loads, latencies, marker="o", markersize=3.5, label=figures["labels"][name], **style)
            axis.set(yscale="log", xlabel=f"offered load, {workload} texts/s", ylabel="latency, 95th percentile, ms", title=workload)
            axis.yaxis.set_major_formatter("{x:g}")
            axis.set_xlim(left=0)
        axes[0][0].legend(fontsize=8)
        _save(figure, caption, path)


def growth(curves: Sequence[Mapping[str, Any]], memory: Mapping[str, Sequence[float]], caption: str, path: Path) -> None:
    """One panel a curve: the cost on the left axis, the resident memory of front and worker on the right one."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(9.6, 6.2), layout="constrained")
        for axis, curve in zip(axes.flat, curves, strict=True):
            axis.plot(curve["sizes"], curve["costs"], marker="o", markersize=3.5, color=OURS)
            axis.set(xscale="log", xlabel=curve["size_unit"], title=curve["name"])
            axis.set_ylabel(curve["cost_unit"], color=OURS)
            axis.set_xticks(curve["sizes"], [f"{size:,}" for size in curve["sizes"]])
            axis.minorticks_off()
            axis.set_ylim(0, max(curve["costs"]) * 1.15)
            right = axis.twinx()
            right.plot(curve["sizes"], memory[curve["name"]], color=OTHERS[0], linestyle="--", marker=".", linewidth=1)
            right.set_ylim(0, max(memory[curve["name"]]) * 1.5)
            right.set_ylabel("memory of front and worker, MB", color=OTHERS[0])
            right.grid(visible=False)
        _save(figure, caption, path)


def _save(figure: Any, caption: str, path: Path) -> None:
    figure.suptitle(caption, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
