"""Who voted for what, and how alike the voters rank."""

from collections import Counter
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from prune_exp.pruning.plan import UNIT_NAMES, PruningPlan, Settled
from prune_exp.reporting.plots.style import (
    CHOSEN,
    DENSE,
    INK,
    PALE,
    new_figure,
    remove_spines,
    save_figure,
)

PER_LAYER = ("layers", "heads", "mlp")
INCHES_PER_LAYER = 0.19
LEAST_INCHES = 2.6
MOST_INCHES = 14.0
MOST_TICKS = 40
MOST_CELLS_WITH_FIGURES = 12
CONTESTED = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")
"""Of those who won most often."""


def draw_votes(plan: PruningPlan, layers: int, path: Path) -> None:
    """Heat maps of what each voter nominated, and below them the rank correlations.

    `layers` is the dense model's number of layers.
    """
    top = [kind for kind in UNIT_NAMES if kind in plan.votes]
    below = [k for k in UNIT_NAMES if len(plan.agreement.get(k, {})) > 1 and (k in top or not top)]
    height = min(max(INCHES_PER_LAYER * layers, LEAST_INCHES), MOST_INCHES) if top else 0.0
    rows = [
        *([(height, top, _draw_nominations)] if top else []),
        *([(2.9, below, _draw_agreement)] if below else []),
        *([(2.6, ["mlp"], _draw_jury)] if plan.jury else []),
    ]
    width = max(3.3 * max(len(top), len(below)), 7.5)
    figure = new_figure((width, 1.1 + sum(row[0] for row in rows) + 0.9 * len(rows)), "Votes")
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=[r[0] + 0.9 for r in rows])
    for part, (_, kinds, draw) in zip(parts[:, 0], rows, strict=True):
        draw(part, kinds, plan, layers)
    save_figure(figure, path)


def _draw_nominations(part: Any, kinds: list[str], plan: PruningPlan, layers: int) -> None:
    """One map a kind of unit: layers by voters."""
    part.suptitle("Share of what was removed that each voter had on its ballot", fontsize=11)
    axes = part.subplots(1, len(kinds), squeeze=False)[0]
    image = None
    for axis, kind in zip(axes, kinds, strict=True):
        voted = plan.votes[kind]
        voters = list(voted.nominated)
        rows = nominations_by_layer(kind, plan, layers)
        image = axis.imshow(rows, cmap=_colour_map("Blues"), vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(voters)), voters, rotation=40, ha="right", rotation_mode="anchor")
        axis.set_title(UNIT_NAMES[kind], fontsize=11)
        _set_layer_ticks(axis, kind, plan, len(rows))
        _draw_grid(axis, len(rows), len(voters))
        if kind == "layers":
            _outline_layers(axis, plan.layers, len(voters))
        if kind == "vocab":
            _write_values(axis, rows)
    part.colorbar(image, ax=list(axes), shrink=0.5 if layers > 12 else 0.9, pad=0.02)


def nominations_by_layer(kind: str, plan: PruningPlan, layers: int) -> list[list[float]]:
    """Shares [layers or 1, voters]; layers that are gone have none but those of whole layers."""
    shares = list(plan.votes[kind].nominated.values())
    if kind != "layers" and kind in PER_LAYER:
        stay = [i for i in range(layers) if i not in plan.layers]
        empty = [float("nan")] * len(shares)
        table = dict(zip(stay, map(list, zip(*shares, strict=True)), strict=True))
        return [table.get(i, empty) for i in range(layers)]
    return [list(row) for row in zip(*shares, strict=True)]


def _set_layer_ticks(axis: Any, kind: str, plan: PruningPlan, rows: int) -> None:
    """Numbers of layers; those removed whole in colour."""
    if kind == "vocab":
        axis.set_yticks([])
        return
    step = -(-rows // MOST_TICKS)
    axis.set_yticks(range(0, rows, step))
    axis.tick_params(axis="y", labelsize=7)
    axis.set_ylabel("layer" + (", orange: removed" if kind == "layers" else ""), fontsize=9)
    for tick in axis.get_yticklabels():
        if kind == "layers" and int(tick.get_text()) in plan.layers:
            tick.set(color=CHOSEN, weight="bold")


def _outline_layers(axis: Any, layers: tuple[int, ...], voters: int) -> None:
    """A frame around every layer that went."""
    for layer in layers:
        frame = Rectangle(
            (-0.5, layer - 0.5), voters, 1, fill=False, color=CHOSEN, linewidth=1.6, clip_on=False
        )
        axis.add_patch(frame)


def _draw_grid(axis: Any, rows: int, columns: int) -> None:
    axis.set_xticks([x - 0.5 for x in range(columns + 1)], minor=True)
    axis.set_yticks([y - 0.5 for y in range(rows + 1)], minor=True)
    axis.grid(which="minor", color="white", linewidth=0.8)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)


def _colour_map(name: str) -> Any:
    """A colour map in which what is missing is grey."""
    return colormaps[name].with_extremes(bad=PALE)


def _draw_agreement(part: Any, kinds: list[str], plan: PruningPlan, layers: int) -> None:
    """One matrix a kind of unit."""
    del layers
    part.suptitle("Rank correlation of every two voters", fontsize=11)
    axes = part.subplots(1, len(kinds), squeeze=False)[0]
    image = None
    for axis, kind in zip(axes, kinds, strict=True):
        table = plan.agreement[kind]
        names = sorted(table)
        rows = [[table[a][b] for b in names] for a in names]
        image = axis.imshow(rows, cmap=_colour_map("PuOr"), vmin=-1, vmax=1)
        axis.set_anchor("N")
        axis.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(labelsize=9)
        axis.set_title(UNIT_NAMES[kind], fontsize=11)
        _draw_grid(axis, len(names), len(names))
        _write_values(axis, rows)
    part.colorbar(image, ax=list(axes), shrink=0.8, pad=0.02)


def _draw_jury(part: Any, kinds: list[str], plan: PruningPlan, layers: int) -> None:
    """What everyone takes out of a layer and what is contested there, with who won."""
    del kinds
    part.suptitle("MLP channels on which all agree, and those that were contested", fontsize=11)
    axis = part.subplots()
    places = [one.layer for one in plan.jury]
    agreed = [one.agreed for one in plan.jury]
    axis.bar(places, agreed, color=DENSE, label="all take them out")
    for label, rows, colour in group_contested(plan):
        axis.bar(
            [one.layer for one in rows],
            [one.contested for one in rows],
            bottom=[one.agreed for one in rows],
            color=colour,
            label=label,
        )
    axis.set_xlim(-0.6, layers - 0.4)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("layer")
    axis.set_ylabel("channels")
    remove_spines(axis)
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)


def group_contested(plan: PruningPlan) -> list[tuple[str, list[Settled], str]]:
    """Layers in which something is contested by who won there, each with a label and a colour.

    Those who won most often come first; beyond the number of colours they share a grey.
    """
    rows = [one for one in plan.jury if one.contested]
    names = [name for name, _ in Counter(one.by for one in rows).most_common()]
    named = names[: len(CONTESTED)]
    groups = [
        (f"contested; {name} won", [one for one in rows if one.by == name], colour)
        for name, colour in zip(named, CONTESTED, strict=False)
    ]
    others = [one for one in rows if one.by not in named]
    return [*groups, *([("contested; others won", others, PALE)] if others else [])]


def _write_values(axis: Any, rows: list[list[float]]) -> None:
    """Writes the values on the cells, where there are few."""
    if len(rows[0]) > MOST_CELLS_WITH_FIGURES:
        return
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            colour = "white" if abs(value) > 0.6 else INK
            axis.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
