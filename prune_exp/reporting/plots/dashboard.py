"""One page for a first look."""

from pathlib import Path
from typing import Any

from prune_exp.reporting.plots.style import (
    INK,
    PALE,
    PRUNED,
    Metrics,
    Panel,
    draw_pair,
    draw_panels,
)
from prune_exp.tracking.figures import HEADLINE, key_figures

CARDS = key_figures(*HEADLINE)
PAIRS = (
    ("Latency, median", "ms", "latency_ms_p50"),
    ("Peak memory", "MiB", "peak_memory_mib"),
    ("Throughput, batch 1", "tokens/s", "throughput_tokens_per_s"),
)
ROWS = (
    ("latency p50 (ms)", "latency_ms_p50", ".0f"),
    ("time to 1st token (ms)", "ttft_ms", ".0f"),
    ("per token (ms)", "tpot_ms", ".1f"),
    ("peak memory (MiB)", "peak_memory_mib", ".0f"),
    ("bits per byte", "bits_per_byte", ".3f"),
    ("perplexity", "perplexity", ".1f"),
)


def draw_dashboard(metrics: Metrics, path: Path) -> None:
    """Cards, latency, memory, sparsity and a table; without what was not measured."""
    panels: list[Panel] = []
    if any(figure.key in metrics for figure in CARDS):
        panels.append(lambda axis: _draw_cards(axis, metrics))
    panels += [_pair_panel(metrics, *one) for one in PAIRS[:2] if f"dense/{one[2]}" in metrics]
    panels.append(lambda axis: _draw_gauge(axis, metrics))
    panels += [_pair_panel(metrics, *one) for one in PAIRS[2:] if f"dense/{one[2]}" in metrics]
    if any(f"dense/{key}" in metrics for _, key, _ in ROWS):
        panels.append(lambda axis: _draw_table(axis, metrics))
    draw_panels(panels, "Pruned against dense: overview", path)


def _pair_panel(metrics: Metrics, title: str, unit: str, key: str) -> Panel:
    dense = metrics[f"dense/{key}"]
    pruned = metrics[f"pruned/{key}"]
    return lambda axis: draw_pair(axis, title, unit, dense, pruned)


def _draw_cards(axis: Any, metrics: Metrics) -> None:
    axis.axis("off")
    axis.set_title("Key figures")
    cards = [
        (figure.short_name, figure.show_value(metrics[figure.key]))
        for figure in CARDS
        if figure.key in metrics
    ]
    step = 0.92 / max(len(cards), 4)
    for row, (name, value) in enumerate(cards):
        y = 0.9 - row * step
        axis.text(0.02, y, value, fontsize=18, color=PRUNED, weight="bold", va="center")
        axis.text(0.98, y, name, fontsize=11, color=INK, va="center", ha="right")


def _draw_gauge(axis: Any, metrics: Metrics) -> None:
    """What stays and what is gone, each in its slice's colour; of zeroed weights none is gone."""
    zeroed = metrics.get("weights_zeroed_pct", 0.0)
    gone, words = (
        (zeroed, ("not zero", "set to zero"))
        if zeroed
        else (metrics["params_pruned_pct"], ("active", "pruned"))
    )
    axis.pie(
        [gone, 100 - gone],
        colors=[PALE, PRUNED],
        startangle=90,
        counterclock=False,
        wedgeprops={"width": 0.3},
    )
    shares = zip((100 - gone, gone), words, (PRUNED, INK), (0.14, -0.14), strict=True)
    for share, word, colour, height in shares:
        axis.text(
            0, height, f"{share:.1f} % {word}", ha="center", va="center", fontsize=11, color=colour
        )
    active = metrics["params_active"]
    shown = f"{active / 1e6:,.1f} M" if active >= 1e6 else f"{active:,.0f}"
    axis.set_title(f"Parameters: {shown} active")


def _draw_table(axis: Any, metrics: Metrics) -> None:
    cells = [
        [label, format(metrics[f"dense/{key}"], form), format(metrics[f"pruned/{key}"], form)]
        for label, key, form in ROWS
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
