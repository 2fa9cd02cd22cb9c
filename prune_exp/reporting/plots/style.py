"""What all plots share. The dense model is grey and the pruned one blue, everywhere.

Colours are from Okabe and Ito's palette for all kinds of colour vision
(https://jfly.uni-koeln.de/color/).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DENSE = "#8c8c8c"
PRUNED = "#0072b2"
INK = "#222222"
CHOSEN = "#d55e00"
PALE = "#d9d9d9"
PALE_BLUE = "#9ccbe8"
BETTER = "#e3f1ec"
"""Behind what is good enough."""
Metrics = dict[str, float]
Panel = Callable[[Any], None]
DPI = 110


def new_figure(size: tuple[float, float], title: str) -> Any:
    """An empty figure that needs no display."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=15, color=INK)
    return figure


def draw_panels(panels: Sequence[Panel], title: str, path: Path) -> None:
    """Panels in rows of three, as many as there are."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure((4.4 * columns, 0.4 + 3.6 * rows), title)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> None:
    """Writes the PNG, without a word of when or by whom."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def remove_spines(axis: Any) -> None:
    """Takes the upper and the right border away."""
    axis.spines[["top", "right"]].set_visible(False)


def format_number(value: float) -> str:
    """A figure short enough for the end of a bar."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 or not value else 2
    return f"{value:,.{digits}f}"


def draw_pair(axis: Any, title: str, unit: str, dense: float, pruned: float) -> None:
    """Two bars with their values written on them."""
    draw_pairs(axis, title, unit, {"": (dense, pruned)})
    axis.set_xticks([-0.2, 0.2], ["dense", "pruned"])


def draw_pairs(axis: Any, title: str, unit: str, values: dict[str, tuple[float, float]]) -> None:
    """Two bars for every name, with a legend where there are several."""
    for side, colour, place in ((0, DENSE, -0.2), (1, PRUNED, 0.2)):
        bars = axis.bar(
            [i + place for i in range(len(values))],
            [both[side] for both in values.values()],
            width=0.36,
            color=colour,
            label=("dense", "pruned")[side],
        )
        axis.bar_label(bars, fmt=format_number, padding=2, fontsize=9)
    axis.set_xticks(range(len(values)), list(values))
    if len(values) > 1:
        axis.legend(frameon=False, fontsize=9, loc="upper center", ncols=2)
        axis.margins(y=0.25)
    else:
        axis.margins(x=0.25, y=0.15)
    axis.set_title(title)
    axis.set_ylabel(unit)
    remove_spines(axis)
