"""Plots of tracked figures. The dense model is grey and the pruned one blue, everywhere."""

import math
import re
from pathlib import Path
from typing import Any

DENSE, PRUNED, INK = "#8c8c8c", "#0072b2", "#222222"
Metrics = dict[str, float]


def batch_labels(metrics: Metrics) -> list[str]:
    """Labels of the batches that were measured, such as b8 or b8_p128, by size and length."""
    found = (re.fullmatch(r"throughput_(b\d+(?:_p\d+)?)_ratio", key) for key in metrics)
    labels = [match.group(1) for match in found if match]
    return sorted(labels, key=lambda label: [int(n) for n in re.findall(r"\d+", label)])


def batch_name(label: str) -> str:
    """A label in words: `b8_p128` is batch 8, 128-token prompts."""
    size, *length = re.findall(r"\d+", label)
    return f"batch {size}" + (f", {length[0]}-token prompts" if length else "")


def _new(
    columns: int, rows: int, title: str, size: tuple[float, float] | None = None
) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size or (4.4 * columns, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=15, color=INK)
    return figure, figure.subplots(rows, columns)


def _pair(axis: Any, title: str, unit: str, dense: float, pruned: float) -> None:
    """Two bars with their values written on them."""
    bars = axis.bar(["dense", "pruned"], [dense, pruned], color=[DENSE, PRUNED], width=0.6)
    axis.bar_label(bars, fmt=lambda v: f"{v:,.1f}" if v < 1000 else f"{v:,.0f}", padding=2)
    axis.set_title(title)
    axis.set_ylabel(unit)
    axis.margins(y=0.15)
    axis.spines[["top", "right"]].set_visible(False)


def _cards(axis: Any, cards: list[tuple[str, str]]) -> None:
    axis.axis("off")
    axis.set_title("Key figures")
    for row, (name, value) in enumerate(cards):
        y = 0.88 - row * 0.25
        axis.text(0.02, y, value, fontsize=19, color=PRUNED, weight="bold", va="center")
        axis.text(0.98, y, name, fontsize=11, color=INK, va="center", ha="right")


def _gauge(axis: Any, metrics: Metrics) -> None:
    gone = metrics["params_pruned_pct"]
    axis.pie(
        [gone, 100 - gone],
        colors=["#d9d9d9", PRUNED],
        startangle=90,
        counterclock=False,
        wedgeprops={"width": 0.35},
    )
    axis.text(0, 0, f"{gone:.1f} %\npruned", ha="center", va="center", fontsize=14, color=INK)
    axis.set_title(f"Parameters: {metrics['params_active'] / 1e6:.1f} M active")


def _table(axis: Any, metrics: Metrics) -> None:
    rows = [
        ("latency p50 (ms)", "latency_ms_p50", ".0f"),
        ("time to 1st token (ms)", "ttft_ms", ".0f"),
        ("per token (ms)", "tpot_ms", ".1f"),
        ("peak memory (MiB)", "peak_memory_mib", ".0f"),
        ("bits per byte", "bits_per_byte", ".3f"),
        ("perplexity", "perplexity", ".1f"),
    ]
    cells = [
        [label, format(metrics[f"dense/{key}"], form), format(metrics[f"pruned/{key}"], form)]
        for label, key, form in rows
        if f"dense/{key}" in metrics
    ]
    axis.axis("off")
    axis.set_title("Metrics")
    table = axis.table(
        cells, colLabels=["", "dense", "pruned"], loc="center", colWidths=[0.5, 0.25, 0.25]
    )
    table.auto_set_font_size(False)
    table.set_fontsize(10)
    table.scale(1, 1.6)


def dashboard_overview(metrics: Metrics, path: Path) -> None:
    """Cards, latency, memory, sparsity and a table on one page."""
    figure, axes = _new(3, 2, "Pruned against dense: overview")
    cards = [
        ("speedup", f"{metrics['speedup']:.2f}x"),
        ("latency reduction", f"{metrics['latency_reduction_pct']:.1f} %"),
        ("memory saved", f"{metrics['memory_reduction_pct']:.1f} %"),
        ("throughput gain", f"{metrics['throughput_gain_pct']:+.1f} %"),
    ]
    _cards(axes[0, 0], cards)
    for axis, title, unit, key in (
        (axes[0, 1], "Latency, median", "ms", "latency_ms_p50"),
        (axes[0, 2], "Peak memory", "MiB", "peak_memory_mib"),
        (axes[1, 1], "Throughput, batch 1", "tokens/s", "throughput_tokens_per_s"),
    ):
        _pair(axis, title, unit, metrics[f"dense/{key}"], metrics[f"pruned/{key}"])
    _gauge(axes[1, 0], metrics)
    _table(axes[1, 2], metrics)
    figure.savefig(path, dpi=110)


def detailed_comparison(metrics: Metrics, samples: list[dict[str, Any]], path: Path) -> None:
    """Latency distributions, memory, throughput, parameters, improvements with intervals."""
    figure, axes = _new(3, 2, "Pruned against dense: details")
    _distribution(axes[0, 0], samples)
    _pair(
        axes[0, 1],
        "Weights in memory",
        "MiB",
        metrics["dense/weights_mib"],
        metrics["pruned/weights_mib"],
    )
    label = batch_labels(metrics)[0]
    key = f"throughput_{label}_tokens_per_s"
    _pair(
        axes[0, 2],
        f"Throughput, {batch_name(label)}",
        "tokens/s",
        metrics[f"dense/{key}"],
        metrics[f"pruned/{key}"],
    )
    _pair(
        axes[1, 0],
        "Parameters",
        "millions",
        metrics["params_total"] / 1e6,
        metrics["params_active"] / 1e6,
    )
    _improvements(axes[1, 1], metrics)
    _scatter(axes[1, 2], samples)
    figure.savefig(path, dpi=110)


def _totals(samples: list[dict[str, Any]], side: str) -> list[float]:
    return [sample["total_ms"] for sample in samples if sample["model"] == side]


def _distribution(axis: Any, samples: list[dict[str, Any]]) -> None:
    data = [_totals(samples, "dense"), _totals(samples, "pruned")]
    boxes = axis.boxplot(data, tick_labels=["dense", "pruned"], patch_artist=True, widths=0.5)
    for box, colour in zip(boxes["boxes"], (DENSE, PRUNED), strict=True):
        box.set_facecolor(colour)
    for line in boxes["medians"]:
        line.set_color("white")
    axis.set_title(f"Latency of {len(data[0])} requests")
    axis.set_ylabel("ms")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)


def _improvements(axis: Any, metrics: Metrics) -> None:
    label = batch_labels(metrics)[0]
    names = {
        "latency_reduction_pct": "latency\nsaved",
        "memory_reduction_pct": "memory\nsaved",
        "throughput_gain_pct": "throughput\ngained",
        f"throughput_{label}_gain_pct": f"{batch_name(label)}\ngained",
    }
    values = [metrics[key] for key in names]
    below = [metrics[key] - metrics[f"{key}_ci95_low"] for key in names]
    above = [metrics[f"{key}_ci95_high"] - metrics[key] for key in names]
    axis.bar(list(names.values()), values, yerr=[below, above], color=PRUNED, capsize=5, width=0.6)
    for place, (value, high) in enumerate(zip(values, above, strict=True)):
        axis.annotate(
            f"{value:.1f}", (place, value + high), (0, 4), textcoords="offset points", ha="center"
        )
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.margins(y=0.15)
    axis.set_title("Improvements, 95 % intervals")
    axis.set_ylabel("%")
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _scatter(axis: Any, samples: list[dict[str, Any]]) -> None:
    dense, pruned = _totals(samples, "dense"), _totals(samples, "pruned")
    top = 1.1 * max(*dense, *pruned)
    axis.plot([0, top], [0, top], color=INK, linewidth=0.8, linestyle="--")
    axis.annotate("equal", (0.82 * top, 0.85 * top), rotation=38, ha="right", fontsize=9)
    axis.scatter(dense, pruned, color=PRUNED, s=22)
    axis.set(xlim=(0, top), ylim=(0, top), xlabel="dense, ms", ylabel="pruned, ms")
    axis.set_title("Each prompt's latency")
    axis.spines[["top", "right"]].set_visible(False)


MARKERS = ("s", "D", "v", "P", "X", "*")


def roofline(metrics: Metrics, path: Path) -> None:
    """Operations a second against operations per byte, under what the machine allows.

    After Williams, Waterman and Patterson 2009 (doi:10.1145/1498765.1498785).
    """
    figure, axis = _new(1, 1, "What the machine allows, and what was reached", size=(8.4, 5.4))
    phases = [("prefill", "prefill", "^"), ("decode", "decode, batch 1", "o")]
    phases += [
        (f"decode_{label}", f"decode, {batch_name(label)}", MARKERS[i % len(MARKERS)])
        for i, label in enumerate(batch_labels(metrics))
        if label != "b1"
    ]
    _roof(axis, metrics, [metrics[f"dense/{phase}_flop_per_byte"] for phase, _, _ in phases])
    for phase, _, marker in phases:
        for side, colour in (("dense", DENSE), ("pruned", PRUNED)):
            x, y = (metrics[f"{side}/{phase}_{unit}"] for unit in ("flop_per_byte", "gflop_per_s"))
            axis.scatter(
                x, y, marker=marker, s=80, color=colour, edgecolor="white", alpha=0.85, zorder=3
            )
    _roofline_legend(axis, phases)
    figure.savefig(path, dpi=110)


def _roof(axis: Any, metrics: Metrics, intensities: list[float]) -> None:
    """The slope of the bandwidth up to the ceiling of the arithmetic, and what they are."""
    slope, ceiling = metrics["machine/read_bandwidth_gb_per_s"], metrics["machine/peak_gflop_per_s"]
    knee = ceiling / slope
    left, right = min(intensities) / 2.5, max(*intensities, knee) * 4
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
        f"arithmetic: {ceiling:.0f} GFLOP/s, fp32",
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
    axis.spines[["top", "right"]].set_visible(False)


def _roofline_legend(axis: Any, phases: list[tuple[str, str, str]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def dot(label: str, colour: str, marker: str) -> Any:
        return Line2D([], [], linestyle="", marker=marker, color=colour, markersize=8, label=label)

    models = [Patch(color=DENSE, label="dense"), Patch(color=PRUNED, label="pruned")]
    shapes = [dot(name, INK, marker) for _, name, marker in phases]
    axis.legend(handles=models + shapes, loc="lower right", edgecolor="none", fontsize=9)
