"""What stands behind the overview: distributions, parts, intervals."""

from pathlib import Path
from typing import Any

from prune_exp.reporting.batches import batch_labels, batch_name
from prune_exp.reporting.plots.style import (
    DENSE,
    INK,
    PRUNED,
    Metrics,
    Panel,
    bare,
    draw_panels,
    number,
    pair,
    pairs,
)

Samples = list[dict[str, Any]]
KINDS = {"layers": "whole\nlayers", "heads": "heads", "mlp": "MLP\nchannels", "vocab": "tokens"}
GAINS = (
    ("latency\nsaved", "latency_reduction_pct"),
    ("memory\nsaved", "memory_reduction_pct"),
    ("throughput\ngained", "throughput_gain_pct"),
)
MOST_BATCHES = 3
WIDEST = 150.0
"""Percent up to which intervals are shown whole, however small what they belong to."""


def detailed_comparison(metrics: Metrics, samples: Samples, path: Path) -> None:
    """Latency distributions, memory, throughput, improvements with intervals, what went by kind."""
    panels: list[Panel] = []
    if samples:
        panels += [lambda axis: _distribution(axis, samples), lambda axis: _scatter(axis, samples)]
    if "dense/weights_mib" in metrics:
        panels.append(lambda axis: _memory(axis, metrics))
    if "dense/throughput_tokens_per_s" in metrics:
        panels.append(lambda axis: _throughput(axis, metrics))
    if "speedup" in metrics:
        panels.append(lambda axis: _improvements(axis, metrics))
    if "dense/bits_per_byte" in metrics:
        panels.append(lambda axis: _quality(axis, metrics))
    panels.append(lambda axis: _parameters(axis, metrics))
    if any(metrics.get(f"removed_pct/{kind}") for kind in KINDS):
        panels.append(lambda axis: _by_kind(axis, metrics))
    draw_panels(panels, "Pruned against dense: details", path)


def _totals(samples: Samples, side: str) -> list[float]:
    return [sample["total_ms"] for sample in samples if sample["model"] == side]


def _distribution(axis: Any, samples: Samples) -> None:
    data = [_totals(samples, "dense"), _totals(samples, "pruned")]
    boxes = axis.boxplot(data, tick_labels=["dense", "pruned"], patch_artist=True, widths=0.5)
    for box, colour in zip(boxes["boxes"], (DENSE, PRUNED), strict=True):
        box.set_facecolor(colour)
    for line in boxes["medians"]:
        line.set_color("white")
    axis.set_title(f"Latency of {len(data[0])} requests each")
    axis.set_ylabel("ms")
    axis.set_ylim(bottom=0)
    bare(axis)


def _scatter(axis: Any, samples: Samples) -> None:
    dense, pruned = _totals(samples, "dense"), _totals(samples, "pruned")
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
    bare(axis)


def _both(metrics: Metrics, key: str) -> tuple[float, float]:
    return metrics[f"dense/{key}"], metrics[f"pruned/{key}"]


def _memory(axis: Any, metrics: Metrics) -> None:
    parts = {
        "weights": "weights_mib",
        "keys and\nvalues": "kv_cache_mib",
        "buffers": "buffers_mib",
        "peak": "peak_memory_mib",
    }
    values = {name: _both(metrics, key) for name, key in parts.items()}
    pairs(axis, "Memory", "MiB", values)


def _throughput(axis: Any, metrics: Metrics) -> None:
    values = {"batch 1": _both(metrics, "throughput_tokens_per_s")}
    for label in [one for one in batch_labels(metrics) if one != "b1"][:MOST_BATCHES]:
        name = batch_name(label).replace(", ", ",\n")
        values[name] = _both(metrics, f"throughput_{label}_tokens_per_s")
    pairs(axis, "Throughput", "tokens/s", values)


def _quality(axis: Any, metrics: Metrics) -> None:
    pair(axis, "Bits per byte, held out", "lower is better", *_both(metrics, "bits_per_byte"))


def _parameters(axis: Any, metrics: Metrics) -> None:
    total, active = metrics["params_total"], metrics["params_active"]
    scale, unit = (1e6, "millions") if total >= 1e6 else (1e3, "thousands")
    pair(axis, "Parameters", unit, total / scale, active / scale)


def _improvements(axis: Any, metrics: Metrics) -> None:
    gains = [*GAINS]
    gains += [
        (f"{batch_name(label)}\ngained".replace(", ", ",\n"), f"throughput_{label}_gain_pct")
        for label in [one for one in batch_labels(metrics) if one != "b1"][:1]
    ]
    values = [metrics[key] for _, key in gains]
    low = [metrics[f"{key}_ci95_low"] for _, key in gains]
    high = [metrics[f"{key}_ci95_high"] for _, key in gains]
    errors = [
        [value - end for value, end in zip(values, low, strict=True)],
        [end - value for value, end in zip(values, high, strict=True)],
    ]
    names = [name for name, _ in gains]
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
    bare(axis)


def _by_kind(axis: Any, metrics: Metrics) -> None:
    shares = [metrics.get(f"removed_pct/{kind}", 0.0) for kind in KINDS]
    bars = axis.bar(list(KINDS.values()), shares, color=PRUNED, width=0.6)
    axis.bar_label(bars, fmt=number, padding=2, fontsize=9)
    axis.margins(y=0.15)
    axis.set_title("Removed, by kind of unit")
    axis.set_ylabel("% of all parameters")
    bare(axis)
