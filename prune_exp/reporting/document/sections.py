"""What the report says of the chosen trial's figures: from findings to sections."""

from collections.abc import Sequence

from prune_exp.machine.display import clip
from prune_exp.reporting.batches import batch_labels, batch_name
from prune_exp.reporting.document.blocks import Block, Bullets, Card, Cards, Image, Paragraph, Table
from prune_exp.reporting.document.findings import Findings, Metrics
from prune_exp.reporting.document.trials import TRIAL_HEAD, place_of, trial_rows, value
from prune_exp.reporting.insights import SUMMARY, conclusion, insights

INTERVALS = (
    ("Speedup", "speedup", ".2f", "x"),
    ("Latency reduction", "latency_reduction_pct", ".1f", " %"),
    ("Memory saved", "memory_reduction_pct", ".1f", " %"),
    ("Decode throughput gain, batch 1", "throughput_gain_pct", ".1f", " %"),
    ("Prefill speedup", "prefill_speedup", ".2f", "x"),
    ("Perplexity ratio", "perplexity_ratio", ".2f", "x"),
)
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
)
MEMORY = (
    ("Weights", "weights_mib"),
    ("Keys and values, largest request", "kv_cache_mib"),
    ("Buffers: the rest of the peak", "buffers_mib"),
    ("Peak above the level before the load", "peak_memory_mib"),
)
LIMITS = (
    ("Read per token (MiB)", "mib_read_per_token", ".1f"),
    ("Limit by bandwidth (tokens/s)", "bandwidth_limit_tokens_per_s", ".1f"),
    ("Attained (tokens/s)", "throughput_tokens_per_s", ".1f"),
    ("Share of the bandwidth", "share_of_bandwidth", ".0%"),
    ("FLOP per byte", "decode_flop_per_byte", ".2f"),
    ("GFLOP/s", "decode_gflop_per_s", ".1f"),
)
OUTPUTS, LONGEST_OUTPUT = 3, 600
CAPTIONS = {
    "dashboard_overview.png": "Overview: the key figures of the dense and the pruned model",
    "detailed_comparison.png": "Details: distributions, memory, throughput, improvements with 95 %"
    " intervals, and which kinds of unit went",
    "roofline.png": "Roofline: prefill, decode and batches under what the machine allows",
    "votes.png": "Who nominated what was removed, and how alike the voters rank",
    "pareto.png": "All finished trials: what was gained against what it cost in quality",
}


def summary(found: Findings) -> list[Block]:
    """The first page's figures and sentences."""
    m = found.metrics
    rows = [
        ["Speedup", value(m, "speedup", ".2f", "x")],
        ["Pruned", value(m, "params_pruned_pct", ".1f", " %")],
        ["Active", value(m, "params_active_pct", ".1f", " %")],
    ]
    return [Table(["Figure", "Value"], rows), Paragraph(" ".join(insights(m, SUMMARY)))]


def indicators(found: Findings) -> list[Block]:
    """One card a figure, with its interval, and its verdict where the interval gives one."""
    return [Cards([_card(found.metrics, *one) for one in (*INTERVALS[:4], INTERVALS[5])])]


def _card(m: Metrics, name: str, key: str, form: str, unit: str) -> Card:
    if key not in m:
        return Card(name, "not measured")
    low, high = m[f"{key}_ci95_low"], m[f"{key}_ci95_high"]
    if key == "perplexity_ratio":
        tone = "good" if m["quality_maintained"] else "bad"
    else:
        nothing = 1.0 if unit == "x" else 0.0
        tone = "good" if low > nothing else "bad" if high < nothing else "plain"
    return Card(name, f"{m[key]:{form}}{unit}", f"{low:{form}} to {high:{form}}", tone)


def details(found: Findings) -> list[Block]:
    """Both models' figures side by side."""
    m = found.metrics
    rows = [["Parameters", f"{m['params_total']:,.0f}", f"{m['params_active']:,.0f}"]]
    batches = [
        (f"Throughput, {batch_name(label)} (tokens/s)", f"throughput_{label}_tokens_per_s", ".1f")
        for label in batch_labels(m)
    ]
    rows += _both(m, [*DETAILS, *batches])
    return [Table(["Metric", "Baseline (dense)", "Optimized (pruned)"], rows)]


def _both(m: Metrics, wanted: Sequence[tuple[str, str, str]]) -> list[list[str]]:
    """Rows of what was measured of both models."""
    return [
        [name, f"{m[f'dense/{key}']:{form}}", f"{m[f'pruned/{key}']:{form}}"]
        for name, key, form in wanted
        if f"dense/{key}" in m
    ]


def improvements(found: Findings) -> list[Block]:
    """Ratios and differences with their intervals."""
    m = found.metrics
    batches = [
        (f"Throughput gain, {batch_name(label)}", f"throughput_{label}_gain_pct", ".1f", " %")
        for label in batch_labels(m)
    ]
    rows = [
        [
            name,
            f"{m[key]:{form}}{unit}",
            f"{m[f'{key}_ci95_low']:{form}} to {m[f'{key}_ci95_high']:{form}}",
        ]
        for name, key, form, unit in [*INTERVALS, *batches]
        if key in m
    ]
    if not rows:
        return [Paragraph("Nothing was measured.")]
    return [Table(["Change", "Value", "95 % interval"], rows)]


def picture(drawn: dict[str, str], name: str) -> Block:
    """A plot, or why there is none; `drawn` has the reasons by file name, empty where drawn."""
    if drawn[name]:
        return Paragraph(f"{name} is not drawn: {drawn[name]}.")
    return Image(name, CAPTIONS[name])


def memory(found: Findings) -> list[Block]:
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
        Paragraph(
            "The peak is the kernel's own record of a fresh process; weights and keys and values"
            " are counted from shapes, and the cache held"
            f" {m['dense/kv_cache_measured_mib']:.1f} and"
            f" {m['pruned/kv_cache_measured_mib']:.1f} MiB when the largest request ended."
        ),
    ]


def limit(found: Findings, drawn: dict[str, str]) -> list[Block]:
    """How near to the machine's own limits both models come."""
    m = found.metrics
    if "machine/read_bandwidth_gb_per_s" not in m:
        return [Paragraph("Speed was not measured."), picture(drawn, "roofline.png")]
    return [
        Table(["Decoding, batch 1", "Dense", "Pruned"], _both(m, LIMITS)),
        Paragraph(
            f"This machine was measured to read {m['machine/read_bandwidth_gb_per_s']:.1f} GB/s, to"
            f" copy {m['machine/copy_bandwidth_gb_per_s']:.1f} GB/s and to compute"
            f" {m['machine/peak_gflop_per_s']:.0f} GFLOP/s with the same number of threads. Bytes"
            " are counted, not observed: all matrices once, one row of each table, and the keys"
            " and values attended to."
        ),
        picture(drawn, "roofline.png"),
    ]


def key_insights(found: Findings) -> list[Block]:
    """Every sentence that the figures support."""
    return [Bullets(insights(found.metrics))]


def all_trials(found: Findings, drawn: dict[str, str]) -> list[Block]:
    """The sweep as a table and as a plot."""
    marked = place_of(found.trials, found.best)
    return [
        Table(TRIAL_HEAD, trial_rows(found.trials), marked=marked),
        picture(drawn, "pareto.png"),
    ]


def outputs(found: Findings) -> list[Block]:
    """What both models went on to write."""
    texts = {(s["prompt"], s["model"]): s["text"] for s in found.samples if s["round"] == 0}
    rows = [
        [clip(one, LONGEST_OUTPUT) for one in (s["prompt_text"], *_answers(texts, s["prompt"]))]
        for s in found.samples
        if s["model"] == "dense" and s["prompt"] < OUTPUTS and s["round"] == 0
    ]
    if rows:
        return [Table(["Prompt", "Dense", "Pruned"], rows, figures=False)]
    if "speedup" in found.metrics:
        return [Paragraph("The store does not hold them.")]
    return [Paragraph("None; speed was not measured.")]


def _answers(texts: dict[tuple[int, str], str], prompt: int) -> tuple[str, str]:
    return texts[prompt, "dense"], texts.get((prompt, "pruned"), "not in the store")


def concluding(found: Findings) -> list[Block]:
    """What may be claimed, and what may not."""
    return [Paragraph(conclusion(found.metrics))]
