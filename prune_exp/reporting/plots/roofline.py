"""What the machine allows, and what was reached."""

import math
from pathlib import Path
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from prune_exp.reporting.batches import batch_labels, batch_name
from prune_exp.reporting.plots.style import (
    DENSE,
    INK,
    PRUNED,
    Metrics,
    new_figure,
    remove_spines,
    save_figure,
)

MARKERS = ("s", "D", "v", "P", "X", "*")


def draw_roofline(metrics: Metrics, path: Path) -> None:
    """Operations a second against operations per byte, under what the machine allows.

    After Williams, Waterman and Patterson 2009 (doi:10.1145/1498765.1498785).
    """
    figure = new_figure((8.4, 5.4), "What the machine allows, and what was reached")
    axis = figure.subplots()
    phases = [("prefill", "prefill", "^"), ("decode", "decode, batch 1", "o")]
    phases += [
        (f"decode_{label}", f"decode, {batch_name(label)}", MARKERS[i % len(MARKERS)])
        for i, label in enumerate(batch_labels(metrics))
        if label != "b1"
    ]
    _draw_roof(axis, metrics, [metrics[f"dense/{phase}_flop_per_byte"] for phase, _, _ in phases])
    for phase, _, marker in phases:
        for side, colour in (("dense", DENSE), ("pruned", PRUNED)):
            x, y = (metrics[f"{side}/{phase}_{unit}"] for unit in ("flop_per_byte", "gflop_per_s"))
            axis.scatter(
                x, y, marker=marker, s=80, color=colour, edgecolor="white", alpha=0.85, zorder=3
            )
    _draw_legend(axis, phases)
    save_figure(figure, path)


def _draw_roof(axis: Any, metrics: Metrics, intensities: list[float]) -> None:
    """The slope of the bandwidth up to the ceiling of the arithmetic, and what they are."""
    slope = metrics["machine/read_bandwidth_gb_per_s"]
    ceiling = metrics["machine/peak_gflop_per_s"]
    knee = ceiling / slope
    left = min(intensities) / 2.5
    right = max(*intensities, knee) * 4
    axis.loglog([left, knee, right], [left * slope, ceiling, ceiling], color=INK, linewidth=1.6)
    axis.text(
        (at := (left * knee) ** 0.5),
        1.12 * at * slope,
        f"memory: {slope:.1f} GB/s read",
        color=INK,
        ha="center",
        va="bottom",
        rotation=math.degrees(math.atan(slope)),
        rotation_mode="anchor",
        transform_rotates_text=True,
    )
    axis.annotate(
        f"arithmetic: {ceiling:.0f} GFLOP/s",
        (right, ceiling),
        (-4, 6),
        textcoords="offset points",
        color=INK,
        ha="right",
    )
    axis.set(xlim=(left, right), xlabel="arithmetic intensity, FLOP/byte", ylabel="GFLOP/s")
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_formatter("{x:g}")
        scale.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axis.grid(visible=True, which="both", color="#ececec", linewidth=0.7)
    axis.set_axisbelow(True)
    remove_spines(axis)


def _draw_legend(axis: Any, phases: list[tuple[str, str, str]]) -> None:
    def dot(label: str, colour: str, marker: str) -> Any:
        return Line2D([], [], linestyle="", marker=marker, color=colour, markersize=8, label=label)

    models = [Patch(color=DENSE, label="dense"), Patch(color=PRUNED, label="pruned")]
    shapes = [dot(name, INK, marker) for _, name, marker in phases]
    axis.legend(handles=models + shapes, loc="lower right", edgecolor="none", fontsize=9)
