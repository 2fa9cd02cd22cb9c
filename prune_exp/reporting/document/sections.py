"""What the report says of the chosen trial's figures: from findings to sections."""

from collections.abc import Sequence

from prune_exp.measurement.records import Interval
from prune_exp.pruning.plan import describe_lost_scripts
from prune_exp.reporting.batches import batch_gain, batch_labels, batch_name
from prune_exp.reporting.document.elements import (
    Bullets,
    Card,
    Cards,
    Element,
    Image,
    Paragraph,
    Table,
)
from prune_exp.reporting.document.findings import Findings, Metrics
from prune_exp.reporting.document.trials import (
    TRIAL_HEAD,
    list_known_columns,
    list_reasons,
    place_of,
    show_value,
    trial_rows,
)
from prune_exp.reporting.insights import SUMMARY, conclude, list_insights, show_percent
from prune_exp.tracking import tags
from prune_exp.tracking.domains import MAINTAINED, NOT_MAINTAINED, judge_quality
from prune_exp.tracking.figures import HEADLINE, KEY_FIGURES, Figure, key_figures
from prune_exp.tracking.read import describe_correction, says_something

CARDS = key_figures(*HEADLINE)
TONES = {MAINTAINED: "good", NOT_MAINTAINED: "bad"}
"""How the card of quality is coloured; plainly where nothing was shown."""
DETAILS = (
    ("Average latency (ms)", "latency_ms_mean", ".1f"),
    ("Latency p50 (ms)", "latency_ms_p50", ".1f"),
    ("Latency p90 (ms)", "latency_ms_p90", ".1f"),
    ("Latency p99 (ms)", "latency_ms_p99", ".1f"),
    ("Prefill: time to first token (ms)", "ttft_ms", ".1f"),
    ("Prefill, p99 (ms)", "ttft_ms_p99", ".1f"),
    ("Decode: time per output token (ms)", "tpot_ms", ".2f"),
    ("Decode, p99 (ms)", "tpot_ms_p99", ".2f"),
    ("Decode throughput, batch 1 (tokens/s)", "throughput_tokens_per_s", ".1f"),
    ("Peak memory (MiB)", "peak_memory_mib", ".1f"),
    ("Start-up of the process (s)", "startup_s", ".1f"),
    ("Bits per byte, held out", "bits_per_byte", ".3f"),
    ("Perplexity, held out", "perplexity", ".1f"),
    ("Runs of tokens that an answer repeats (%)", "repeated_runs_pct", ".1f"),
    ("Answers that mostly repeat themselves (%)", "degenerate_answers_pct", ".1f"),
)
MEMORY = (
    ("Weights", "weights_mib"),
    ("Keys and values, largest request", "kv_cache_mib"),
    ("Buffers: the rest of the peak", "buffers_mib"),
    ("Peak above the level before the load", "peak_memory_mib"),
)
SHARE = "share"
"""In place of a format: per cent of it, with two digits where it is small."""
LIMITS = (
    ("Read per token (MiB)", "mib_read_per_token", ".1f"),
    ("Limit by bandwidth (tokens/s)", "bandwidth_limit_tokens_per_s", ".1f"),
    ("Attained (tokens/s)", "throughput_tokens_per_s", ".1f"),
    ("Share of the bandwidth", "share_of_bandwidth", SHARE),
    ("FLOP per byte", "decode_flop_per_byte", ".2f"),
    ("GFLOP/s", "decode_gflop_per_s", ".1f"),
)
CAPTIONS = {
    "dashboard_overview.png": "Overview: the key figures of the dense and the pruned model",
    "detailed_comparison.png": "Details: distributions, memory, throughput, improvements with 95 %"
    " intervals, and which kinds of unit went",
    "roofline.png": "Roofline: prefill, decode and batches under what the machine allows",
    "votes.png": "Who nominated what was removed, and how alike the voters rank",
    "pareto.png": "All finished trials: what was gained against what it cost in quality",
}


def show_summary(found: Findings) -> list[Element]:
    """The first page's figures and sentences."""
    m = found.metrics
    rows = [
        ["Speedup", show_value(m, "speedup", ".2f", "x")],
        ["Pruned", show_value(m, "params_pruned_pct", ".1f", " %")],
        ["Active (parameters that stay)", show_value(m, "params_active_pct", ".1f", " %")],
    ]
    correction = describe_correction(found.trials, found.best.trial)
    said = [*list_insights(m, SUMMARY), _tell_lost_scripts(found), correction]
    return [Table(["Figure", "Value"], rows), Paragraph(" ".join(filter(None, said)))]


def show_indicators(found: Findings) -> list[Element]:
    """One card a figure, with its interval, and its verdict where the interval gives one."""
    m = found.metrics
    cards = [_make_card(m, figure) for figure in CARDS if figure.key in m]
    missing = [figure.short_name for figure in CARDS if figure.key not in m]
    shown: list[Element] = [Cards(cards)] if cards else []
    return shown + ([Paragraph(f"Not measured: {', '.join(missing)}.")] if missing else [])


def _make_card(m: Metrics, figure: Figure) -> Card:
    interval = Interval.read(m, figure.key)
    if figure.key == "perplexity_ratio":
        tone = TONES.get(judge_quality(m), "plain")
    else:
        better = interval.low > figure.nothing
        worse = interval.high < figure.nothing
        tone = "good" if better else "bad" if worse else "plain"
    return Card(figure.name, figure.show_value(interval.value), figure.show_ends(interval), tone)


def show_details(found: Findings) -> list[Element]:
    """Both models' figures side by side."""
    m = found.metrics
    rows = [["Parameters", f"{m['params_total']:,.0f}", f"{m['params_active']:,.0f}"]]
    batches = [
        (f"Throughput, {batch_name(label)} (tokens/s)", f"throughput_{label}_tokens_per_s", ".1f")
        for label in batch_labels(m)
    ]
    rows += _rows_of_both(m, [*DETAILS, *batches])
    return [Table(["Metric", "Baseline (dense)", "Optimized (pruned)"], rows)]


def _rows_of_both(m: Metrics, wanted: Sequence[tuple[str, str, str]]) -> list[list[str]]:
    """Rows of what was measured of both models."""
    return [
        [name, *(_show_figure(m[f"{side}/{key}"], form) for side in ("dense", "pruned"))]
        for name, key, form in wanted
        if f"dense/{key}" in m
    ]


def _show_figure(value: float, form: str) -> str:
    return f"{show_percent(value)} %" if form == SHARE else f"{value:{form}}"


def show_improvements(found: Findings) -> list[Element]:
    """Ratios and differences with their intervals."""
    m = found.metrics
    figures = [*KEY_FIGURES, *map(batch_gain, batch_labels(m))]
    rows = []
    for figure in figures:
        if says_something(m, figure.key):
            interval = Interval.read(m, figure.key)
            value = figure.show_value(interval.value)
            rows.append([figure.name, value, figure.show_ends(interval)])
    if not rows:
        return [Paragraph("Nothing was measured.")]
    shown: list[Element] = [Table(["Change", "Value", "95 % interval"], rows)]
    if "speedup" in m:
        shown.append(
            Paragraph(
                "Ratios of times are the middle of the pairs' ratios, each pair being one prompt"
                " asked of both models; they need not be the quotient of the averages above."
            )
        )
    return shown


def show_picture(drawn: dict[str, str], name: str) -> Element:
    """A plot, or why there is none; `drawn` has the reasons by file name, empty where drawn."""
    if drawn[name]:
        return Paragraph(f"{name} is not drawn: {drawn[name]}.")
    return Image(name, CAPTIONS[name])


def show_memory(found: Findings) -> list[Element]:
    """The peak split into what it consists of."""
    m = found.metrics
    if "saved/peak_memory_mib" not in m:
        return [Paragraph("Memory was not measured.")]
    rows = [
        [name, *(f"{m[f'{column}/{key}']:.1f}" for column in ("dense", "pruned", "saved"))]
        for name, key in MEMORY
    ]
    return [
        Table(["MiB", "Dense", "Pruned", "Saved"], rows),
        Paragraph(f"{_tell_source_of_peak(found)} {_tell_cache_held(found)}"),
    ]


def _tell_source_of_peak(found: Findings) -> str:
    rounds = found.params.get("benchmark.memory_rounds", "several")
    if found.best.trial.tags.get(tags.DEVICE, "cpu") != "cpu":
        source = "what the allocator of the GPU gave out at most, without the driver's own"
    else:
        source = "the kernel's own record of a fresh process"
    return (
        f"The peak is {source}, from {rounds} processes of each model; those of the dense model"
        " may be of an earlier trial of the same settings on this machine."
    )


def _tell_cache_held(found: Findings) -> str:
    """Only where the runtime can be asked what its cache holds."""
    counted = "Weights and keys and values are counted from shapes"
    if found.params.get("benchmark.backend") == "llama_cpp":
        return f"{counted}."
    held = [found.metrics[f"{side}/kv_cache_measured_mib"] for side in ("dense", "pruned")]
    return (
        f"{counted}, and the cache held {held[0]:.1f} and {held[1]:.1f} MiB when the largest"
        " request ended."
    )


def show_limits(found: Findings, drawn: dict[str, str]) -> list[Element]:
    """How near to the machine's own limits both models come."""
    m = found.metrics
    if "machine/read_bandwidth_gb_per_s" not in m:
        return [Paragraph("Speed was not measured."), show_picture(drawn, "roofline.png")]
    return [
        Table(["Decoding, batch 1", "Dense", "Pruned"], _rows_of_both(m, LIMITS)),
        Paragraph(
            f"This machine was measured to read {m['machine/read_bandwidth_gb_per_s']:.1f} GB/s, to"
            f" copy {m['machine/copy_bandwidth_gb_per_s']:.1f} GB/s and to compute"
            f" {m['machine/peak_gflop_per_s']:.0f} GFLOP/s with the same number of threads. Bytes"
            " are counted, not observed: all matrices once, one row of each table, and the keys"
            " and values attended to."
        ),
        show_picture(drawn, "roofline.png"),
    ]


def show_insights(found: Findings) -> list[Element]:
    """Every sentence that the figures support."""
    return [Bullets(list_insights(found.metrics))]


def show_trials(found: Findings, drawn: dict[str, str]) -> list[Element]:
    """The sweep as a table and as a plot, without columns that no trial has a figure for."""
    marked = place_of(found.trials, found.best)
    rows = trial_rows(found.trials)
    known = list_known_columns(rows)
    shown: list[Element] = [
        Table(
            [TRIAL_HEAD[place] for place in known],
            [[row[place] for place in known] for row in rows],
            marked=marked,
        )
    ]
    if reasons := list_reasons(found.trials):
        shown.append(Bullets(reasons))
    if any("quality_maintained" in trial.metrics for trial in found.trials):
        shown.append(
            Paragraph(
                "Quality maintained: yes with Holm's correction for the number of trials that were"
                " judged; by itself: only without it; not shown: the limit lies within the interval"
                " of some text to be kept."
            )
        )
    return [*shown, show_picture(drawn, "pareto.png")]


def show_conclusion(found: Findings) -> list[Element]:
    """What may be claimed, and what may not."""
    correction = describe_correction(found.trials, found.best.trial)
    said = [conclude(found.metrics), _tell_lost_scripts(found), correction]
    return [Paragraph(" ".join(filter(None, said)))]


def _tell_lost_scripts(found: Findings) -> str | None:
    """Which scripts a smaller vocabulary hardly knows."""
    plan = found.plan
    return describe_lost_scripts(plan) if plan is not None and plan.lost_scripts else None
