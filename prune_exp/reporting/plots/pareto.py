"""All finished trials: what was gained against what it cost in quality."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox

from prune_exp.machine.display import one_line
from prune_exp.measurement.records import Interval
from prune_exp.reporting.document.trials import (
    KEPT,
    KEPT_ALONE,
    LOST,
    UNSHOWN,
    describe_quality,
)
from prune_exp.reporting.plots.style import (
    BETTER,
    CHOSEN,
    DENSE,
    INK,
    PALE,
    PALE_BLUE,
    PRUNED,
    new_figure,
    remove_spines,
    save_figure,
)
from prune_exp.tracking.domains import read_domains
from prune_exp.tracking.read import TrackedTrial, kept_after_correction, spells_otherwise

WIDE = 4.0
"""Ratio of the largest to the smallest cost from which on the axis is logarithmic."""
COST = "perplexity_ratio"
GAINS = {
    "speedup": "speedup, x",
    "text_speedup": "speedup for equal text, x",
    "params_pruned_pct": "parameters removed, % (not timed)",
}
LONGEST_LABEL = 40
OFFSETS = [
    (x * far, y * far) for far in (1, 2, 3.5) for x, y in ((1, 1), (1, -1), (-1, 1), (-1, -1))
] + [(0, 1.4), (0, -1.4), (0, 3), (0, -3)]
STEP_POINTS = 7
DOUBT = (PALE, "trial, quality not shown")
MARKERS = {
    KEPT: (PRUNED, "trial, quality maintained"),
    KEPT_ALONE: (PALE_BLUE, "trial, maintained by itself"),
    UNSHOWN: DOUBT,
    LOST: ("white", "trial, quality not maintained"),
}
"""Colour and words by the verdict."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A trial in the plane of cost and gain."""

    cost: float
    gain: float
    label: str
    quality: str
    """The verdict, as the table of trials has it."""
    chosen: bool
    cost_ends: tuple[float, float]
    gain_ends: tuple[float, float]
    by_text: tuple[float, ...] = ()
    """The cost on each kind of text that is to be kept, where there are several."""


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the (cost, gain) that no other beats: none costs less for at least as much gain,
    or gains more for at most as much cost. By rising cost."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    kept: list[int] = []
    for i in order:
        best = points[kept[-1]] if kept else None
        if best is None or points[i][1] > best[1] or points[i] == best:
            kept.append(i)
    return kept


def short_labels(names: Sequence[str]) -> list[str]:
    """What tells runs apart: their names without the words that all of them share."""
    if len(names) < 2:
        return [one_line(name, LONGEST_LABEL) for name in names]
    words = [name.split() for name in names]
    shared = set(words[0]).intersection(*words[1:])
    short = (" ".join(w for w in each if w not in shared) for each in words)
    return [one_line(text or name, LONGEST_LABEL) for text, name in zip(short, names, strict=True)]


def points_of(trials: Sequence[TrackedTrial], chosen: str) -> tuple[list[Point], str]:
    """The trials that can be drawn, and the metric that stands for the gain.

    Where nothing was timed, the share of the parameters that went stands in.
    """
    judged = [
        trial
        for trial in trials
        if trial.status == "FINISHED" and math.isfinite(trial.metrics.get(COST, math.nan))
    ]
    key = _choose_gain(judged)
    shown = [trial for trial in judged if key in trial.metrics]
    names = short_labels([trial.name for trial in shown])
    kept = kept_after_correction(trials)
    return [
        Point(
            cost=trial.metrics[COST],
            gain=trial.metrics[key],
            label=name,
            quality=describe_quality(trial, kept),
            chosen=trial.run_id == chosen,
            cost_ends=_ends_of(trial.metrics, COST),
            gain_ends=_ends_of(trial.metrics, key),
            by_text=_costs_by_text(trial.metrics),
        )
        for trial, name in zip(shown, names, strict=True)
    ], key


def _choose_gain(trials: Sequence[TrackedTrial]) -> str:
    """Speed for equal text where some trial's is another than that of a request."""
    timed = [trial.metrics for trial in trials if "speedup" in trial.metrics]
    if not timed:
        return "params_pruned_pct"
    return "text_speedup" if any(map(spells_otherwise, timed)) else "speedup"


def _costs_by_text(metrics: dict[str, float]) -> tuple[float, ...]:
    kept = [one.perplexity_ratio.value for one in read_domains(metrics) if one.kept]
    return tuple(kept) if len(kept) > 1 else ()


def _ends_of(metrics: dict[str, float], key: str) -> tuple[float, float]:
    """Both ends; the value alone where nothing is known of how far off it may be."""
    if Interval.is_among(metrics, key):
        found = Interval.read(metrics, key)
        if not (key == COST and found.tells_nothing):
            return found.ends
    return metrics[key], metrics[key]


def draw_pareto(points: list[Point], gain: str, limit: float | None, path: Path) -> None:
    """Gain against perplexity ratio, with the limit up to which whole intervals have to lie."""
    figure = new_figure((9.0, 5.8), "What was gained, and what it cost")
    axis = figure.subplots()
    costs = [cost for one in points for cost in (*one.cost_ends, *one.by_text)]
    costs += [limit or 1.0, 1.0]
    if max(costs) / min(costs) > WIDE:
        axis.set_xscale("log")
        _plain_ticks(axis.xaxis)
    for one in points:
        axis.plot(one.cost_ends, [one.gain] * 2, color=DENSE, linewidth=0.9, zorder=1)
        axis.plot([one.cost] * 2, one.gain_ends, color=DENSE, linewidth=0.9, zorder=1)
    _draw_markers(axis, points, (1.0, 0.0 if gain == "params_pruned_pct" else 1.0))
    axis.margins(0.12)
    left, right = axis.get_xlim()
    if limit is not None:
        axis.axvspan(left, limit, color=BETTER, zorder=0, label=f"within the limit of {limit:g}x")
    axis.set_xlim(left, right)
    axis.set_xlabel("perplexity, as a multiple of the dense model's (less is better)")
    axis.set_ylabel(GAINS[gain])
    axis.grid(visible=True, color="#ececec", linewidth=0.7)
    axis.set_axisbelow(True)
    remove_spines(axis)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _place_labels(figure, axis, points)
    save_figure(figure, path)


def _draw_markers(axis: Any, points: list[Point], dense: tuple[float, float]) -> None:
    best = [points[i] for i in pareto_front([(one.cost, one.gain) for one in points])]
    axis.plot(
        [one.cost for one in best],
        [one.gain for one in best],
        color=PRUNED,
        linewidth=1.4,
        zorder=2,
        label="no trial beats these in both",
    )
    for face, label in dict.fromkeys(MARKERS.values()):
        shown = [one for one in points if MARKERS.get(one.quality, DOUBT) == (face, label)]
        if shown:
            axis.scatter(
                [one.cost for one in shown],
                [one.gain for one in shown],
                s=46,
                facecolor=face,
                edgecolor=PRUNED,
                linewidth=1.4,
                zorder=3,
                label=label,
            )
    several = [(cost, one.gain) for one in points for cost in one.by_text]
    if several:
        axis.scatter(
            *zip(*several, strict=True),
            marker="|",
            s=70,
            color=PRUNED,
            linewidth=1.2,
            zorder=2,
            label="the same on each kind of text to be kept",
        )
    axis.scatter(*dense, marker="s", s=46, color=DENSE, zorder=3, label="dense model")
    for one in points:
        if one.chosen:
            axis.scatter(
                one.cost,
                one.gain,
                s=190,
                facecolor="none",
                edgecolor=CHOSEN,
                linewidth=2.2,
                zorder=4,
                label="chosen",
            )


def _plain_ticks(axis: Any) -> None:
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def _place_labels(figure: Any, axis: Any, points: list[Point]) -> None:
    """Writes names beside their points where there is room, the chosen and the best ones first.

    A name that would lie on another one, on a point or outside is left out; the table has it.
    """
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    best = set(pareto_front([(one.cost, one.gain) for one in points]))
    order = sorted(range(len(points)), key=lambda i: (not points[i].chosen, i not in best))
    places = axis.transData.transform([(one.cost, one.gain) for one in points])
    taken = [_box_around(x, y) for x, y in places]
    taken += [_box_around(x, y, 2.0) for x, y in _places_along_lines(axis, points)]
    frame = axis.get_window_extent(renderer)
    for i in order:
        one = points[i]
        for x, y in OFFSETS:
            text = axis.annotate(
                one.label,
                (one.cost, one.gain),
                (x * STEP_POINTS, y * STEP_POINTS),
                textcoords="offset points",
                ha="left" if x > 0 else "right" if x < 0 else "center",
                va="bottom" if y > 0 else "top",
                fontsize=9,
                color=CHOSEN if one.chosen else INK,
                parse_math=False,
            )
            text.set_in_layout(False)
            box = text.get_window_extent(renderer)
            inside = frame.containsx(box.x0) and frame.containsx(box.x1)
            inside = inside and frame.containsy(box.y0) and frame.containsy(box.y1)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _places_along_lines(axis: Any, points: list[Point]) -> list[tuple[float, float]]:
    """Places on the front's line and on the intervals, in pixels, close enough to keep off."""
    best = [points[i] for i in pareto_front([(one.cost, one.gain) for one in points])]
    lines = [((a.cost, a.gain), (b.cost, b.gain)) for a, b in pairwise(best)]
    lines += [((one.cost_ends[0], one.gain), (one.cost_ends[1], one.gain)) for one in points]
    lines += [((one.cost, one.gain_ends[0]), (one.cost, one.gain_ends[1])) for one in points]
    found = []
    for start, end in lines:
        (x0, y0), (x1, y1) = axis.transData.transform([start, end])
        steps = int(max(abs(x1 - x0), abs(y1 - y0)) / 6) + 1
        found += [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(steps)]
    return found


def _box_around(x: float, y: float, reach: float = 6.0) -> Any:
    return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)
