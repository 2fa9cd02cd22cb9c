"""What stands behind the overview: distributions, parts, intervals."""

from pathlib import Path
from typing import Any

from prune_exp.measurement.records import Interval
from prune_exp.pruning.plan import UNIT_NAMES
from prune_exp.reporting.batches import batch_gain, batch_labels, batch_name
from prune_exp.reporting.plots.style import (
    DENSE,
    INK,
    PRUNED,
    Metrics,
    Panel,
    draw_pair,
    draw_pairs,
    draw_panels,
    format_number,
    remove_spines,
)
from prune_exp.tracking.figures import key_figures

Samples = list[dict[str, Any]]
GAINS = key_figures("latency_reduction_pct", "memory_reduction_pct", "throughput_gain_pct")
MOST_BATCHES = 3
WIDEST = 150.0
"""Percent up to which intervals are shown whole, however small what they belong to."""


def draw_details(metrics: Metrics, samples: Samples, path: Path) -> None:
    """Latency distributions, memory, throughput, improvements with intervals, what went by kind."""
    panels: list[Panel] = []
    if samples:
        panels += [
            lambda axis: _draw_distribution(axis, samples),
            lambda axis: _draw_scatter(axis, samples),
        ]
    if "dense/weights_mib" in metrics:
        panels.append(lambda axis: _draw_memory(axis, metrics))
    if "dense/throughput_tokens_per_s" in metrics:
        panels.append(lambda axis: _draw_throughput(axis, metrics))
    if "speedup" in metrics:
        panels.append(lambda axis: _draw_improvements(axis, metrics))
    if "dense/bits_per_byte" in metrics:
        panels.append(lambda axis: _draw_quality(axis, metrics))
    panels.append(lambda axis: _draw_parameters(axis, metrics))
    if any(metrics.get(f"removed_pct/{kind}") for kind in UNIT_NAMES):
        panels.append(lambda axis: _draw_removed_by_kind(axis, metrics))
    draw_panels(panels, "Pruned against dense: details", path)


def _total_times_ms(samples: Samples, side: str) -> list[float]:
    return [sample["total_ms"] for sample in samples if sample["model"] == side]


def _draw_distribution(axis: Any, samples: Samples) -> None:
    data = [_total_times_ms(samples, "dense"), _total_times_ms(samples, "pruned")]
    boxes = axis.boxplot(data, tick_labels=["dense", "pruned"], patch_artist=True, widths=0.5)
    for box, colour in zip(boxes["boxes"], (DENSE, PRUNED), strict=True):
        box.set_facecolor(colour)
    for line in boxes["medians"]:
        line.set_color("white")
    axis.set_title(f"Latency of {len(data[0])} requests each")
    axis.set_ylabel("ms")
    axis.set_ylim(bottom=0)
    remove_spines(axis)


def _draw_scatter(axis: Any, samples: Samples) -> None:
    dense = _total_times_ms(samples, "dense")
    pruned = _total_times_ms(samples, "pruned")
    top = 1.1 * max(*dense, *pruned)
    axis.plot([0, top], [0, top], color=INK, linewidth=0.8, linestyle="--")
    axis.text(
        0.7 * top,
        0.72 * top,
        "equal",
        rotation=45,
        rotation_mode="anchor",
        transform_rotates_text=True,
        fontsize=9,
        color=INK,
    )
    axis.scatter(dense, pruned, color=PRUNED, s=22, alpha=0.8)
    axis.set(xlim=(0, top), ylim=(0, top), xlabel="dense, ms", ylabel="pruned, ms")
    axis.set_title("Each request's latency")
    remove_spines(axis)


def _both_sides(metrics: Metrics, key: str) -> tuple[float, float]:
    return metrics[f"dense/{key}"], metrics[f"pruned/{key}"]


def _draw_memory(axis: Any, metrics: Metrics) -> None:
    parts = {
        "weights": "weights_mib",
        "keys and\nvalues": "kv_cache_mib",
        "buffers": "buffers_mib",
        "peak": "peak_memory_mib",
    }
    values = {name: _both_sides(metrics, key) for name, key in parts.items()}
    draw_pairs(axis, "Memory", "MiB", values)


def _draw_throughput(axis: Any, metrics: Metrics) -> None:
    values = {"batch 1": _both_sides(metrics, "throughput_tokens_per_s")}
    for label in [one for one in batch_labels(metrics) if one != "b1"][:MOST_BATCHES]:
        name = batch_name(label).replace(", ", ",\n")
        values[name] = _both_sides(metrics, f"throughput_{label}_tokens_per_s")
    draw_pairs(axis, "Throughput", "tokens/s", values)


def _draw_quality(axis: Any, metrics: Metrics) -> None:
    draw_pair(
        axis, "Bits per byte, held out", "lower is better", *_both_sides(metrics, "bits_per_byte")
    )


def _draw_parameters(axis: Any, metrics: Metrics) -> None:
    total = metrics["params_total"]
    active = metrics["params_active"]
    scale, unit = (1e6, "millions") if total >= 1e6 else (1e3, "thousands")
    draw_pair(axis, "Parameters", unit, total / scale, active / scale)


def _draw_improvements(axis: Any, metrics: Metrics) -> None:
    labels = [label for label in batch_labels(metrics) if label != "b1"]
    gains = [*GAINS, *map(batch_gain, labels[:1])]
    intervals = [Interval.read(metrics, figure.key) for figure in gains]
    values = [one.value for one in intervals]
    low = [one.low for one in intervals]
    high = [one.high for one in intervals]
    errors = [
        [value - end for value, end in zip(values, low, strict=True)],
        [end - value for value, end in zip(values, high, strict=True)],
    ]
    names = ["\n".join(figure.short_name.replace(", ", ",\n").rsplit(" ", 1)) for figure in gains]
    axis.bar(names, values, yerr=errors, color=PRUNED, capsize=5, width=0.6)
    axis.axhline(0, color=INK, linewidth=0.8)
    edge = max(WIDEST, 3 * max(map(abs, values)))
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for place, (value, end) in enumerate(zip(values, high, strict=True)):
        top = (place, min(max(end, 0.0), edge))
        axis.annotate(
            f"{value:.1f}", top, (0, 4), textcoords="offset points", ha="center", bbox=paper
        )
    axis.margins(y=0.15)
    cut = max(high) > edge or min(low) < -edge
    if cut:
        axis.set_ylim(max(min(low), -edge) * 1.15, min(max(high), edge) * 1.15)
    axis.set_title("Improvements, 95 % intervals" + (" (cut off)" if cut else ""))
    axis.set_ylabel("%")
    axis.tick_params(axis="x", labelsize=8)
    remove_spines(axis)


def _draw_removed_by_kind(axis: Any, metrics: Metrics) -> None:
    shares = [metrics.get(f"removed_pct/{kind}", 0.0) for kind in UNIT_NAMES]
    bars = axis.bar(
        [name.replace(" ", "\n") for name in UNIT_NAMES.values()], shares, color=PRUNED, width=0.6
    )
    axis.bar_label(bars, fmt=format_number, padding=2, fontsize=9)
    axis.margins(y=0.15)
    axis.set_title("Removed, by kind of unit")
    axis.set_ylabel("% of all parameters")
    remove_spines(axis)
