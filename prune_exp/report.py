"""The performance report: a function of what the store holds, nothing typed in."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from prune_exp import figures
from prune_exp.figures import batch_labels, batch_name
from prune_exp.insights import SUMMARY, insights
from prune_exp.settings import TrackingSettings
from prune_exp.tracked import CANDIDATE, Choice, TrackedTrial, read_artifact, store_uri

Metrics = dict[str, float]
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
LIMITS = (
    ("Read per token (MiB)", "mib_read_per_token", ".1f"),
    ("Limit by bandwidth (tokens/s)", "bandwidth_limit_tokens_per_s", ".1f"),
    ("Attained (tokens/s)", "throughput_tokens_per_s", ".1f"),
    ("Share of the bandwidth", "share_of_bandwidth", ".0%"),
    ("FLOP per byte", "decode_flop_per_byte", ".2f"),
    ("GFLOP/s", "decode_gflop_per_s", ".1f"),
)


def write_report(
    root_run_id: str, trials: list[TrackedTrial], best: Choice, folder: Path
) -> list[Path]:
    """Writes report.md and the plots to `folder` and to the best run's artifacts."""
    from mlflow.tracking import MlflowClient

    folder.mkdir(parents=True, exist_ok=True)
    metrics = best.trial.metrics
    with tempfile.TemporaryDirectory() as scratch:
        samples = read_artifact(best.trial.run_id, "samples.json", Path(scratch)) or []
        machine = read_artifact(best.trial.run_id, "machine.json", Path(scratch)) or {}
    written: list[Path] = []
    if "speedup" in metrics:
        names = ("dashboard_overview.png", "detailed_comparison.png", "roofline.png")
        written = [folder / name for name in names]
        figures.dashboard_overview(metrics, written[0])
        figures.detailed_comparison(metrics, samples, written[1])
        figures.roofline(metrics, written[2])
    page = folder / "report.md"
    page.write_text(markdown(root_run_id, trials, best, samples, machine), encoding="utf-8")
    client = MlflowClient()
    for path in [page, *written]:
        client.log_artifact(best.trial.run_id, str(path))
    return [page, *written]


def markdown(
    root_run_id: str,
    trials: list[TrackedTrial],
    best: Choice,
    samples: list[dict[str, Any]],
    machine: dict[str, Any],
) -> str:
    """The report's text."""
    metrics = best.trial.metrics
    parts = [
        f"# Performance report: {best.trial.params.get('model.name', 'model')}",
        f"Run `{best.trial.run_id}` ({best.trial.name}), chosen for {best.rule}."
        f" Sweep or root run `{root_run_id}`.",
        "## Executive summary\n\n" + _summary(metrics),
        "## Key performance indicators\n\n" + _indicators(metrics),
        "## Detailed metrics\n\n" + _details(metrics),
        "## Improvements\n\n" + _improvements(metrics),
        "## Visual dashboard\n\n" + _images(metrics),
        "## Where memory goes\n\n" + _memory(metrics),
        "## The limit\n\n" + _limit(metrics),
        "## Key insights\n\n" + "\n".join(f"- {line}" for line in insights(metrics)),
        "## All trials\n\n" + _trials(trials),
        "## Sample outputs\n\n" + _outputs(samples),
        "## Conclusion\n\n" + conclusion(metrics),
        "## How it was measured\n\n" + _methods(best.trial, machine),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; markup in cells stays text."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(safe.split())


def _value(m: Metrics, key: str, form: str, unit: str) -> str:
    return f"{m[key]:{form}}{unit}" if key in m else "not measured"


def _summary(m: Metrics) -> str:
    rows = [
        ["Speedup", _value(m, "speedup", ".2f", "x")],
        ["Pruned", _value(m, "params_pruned_pct", ".1f", " %")],
        ["Active", _value(m, "params_active_pct", ".1f", " %")],
    ]
    return table(["Figure", "Value"], rows) + "\n\n" + " ".join(insights(m, SUMMARY))


def _indicators(m: Metrics) -> str:
    rows = [[name, _value(m, key, form, unit)] for name, key, form, unit in INTERVALS[:4]]
    return table(["Indicator", "Value"], rows)


def _details(m: Metrics) -> str:
    rows = [["Parameters", f"{m['params_total']:,.0f}", f"{m['params_active']:,.0f}"]]
    batches = [
        (f"Throughput, {batch_name(label)} (tokens/s)", f"throughput_{label}_tokens_per_s", ".1f")
        for label in batch_labels(m)
    ]
    rows += _both(m, [*DETAILS, *batches])
    return table(["Metric", "Baseline (dense)", "Optimized (pruned)"], rows)


def _both(m: Metrics, wanted: Sequence[tuple[str, str, str]]) -> list[list[str]]:
    """Rows of what was measured of both models."""
    return [
        [name, f"{m[f'dense/{key}']:{form}}", f"{m[f'pruned/{key}']:{form}}"]
        for name, key, form in wanted
        if f"dense/{key}" in m
    ]


def _memory(m: Metrics) -> str:
    if "saved/peak_memory_mib" not in m:
        return "Memory was not measured."
    parts = (
        ("Weights", "weights_mib"),
        ("Keys and values, largest request", "kv_cache_mib"),
        ("Buffers: the rest of the peak", "buffers_mib"),
        ("Peak above the level before the load", "peak_memory_mib"),
    )
    rows = [
        [name, *(f"{m[f'{column}/{key}']:.1f}" for column in ("dense", "pruned", "saved"))]
        for name, key in parts
    ]
    return (
        table(["MiB", "Dense", "Pruned", "Saved"], rows)
        + "\n\nThe peak is the kernel's own record of a fresh process; weights and keys and values"
        " are counted from shapes, and the cache held"
        f" {m['dense/kv_cache_measured_mib']:.1f} and {m['pruned/kv_cache_measured_mib']:.1f} MiB"
        " when the largest request ended."
    )


def _limit(m: Metrics) -> str:
    if "machine/read_bandwidth_gb_per_s" not in m:
        return "Speed was not measured."
    rows = _both(m, LIMITS)
    return (
        table(["Decoding, batch 1", "Dense", "Pruned"], rows)
        + f"\n\nThis machine was measured to read {m['machine/read_bandwidth_gb_per_s']:.1f} GB/s,"
        f" to copy {m['machine/copy_bandwidth_gb_per_s']:.1f} GB/s and to compute"
        f" {m['machine/peak_gflop_per_s']:.0f} GFLOP/s with the same number of threads. Bytes are"
        " counted, not observed: all matrices once, one row of each table, and the keys and values"
        " attended to.\n\n![Roofline](roofline.png)"
    )


def _improvements(m: Metrics) -> str:
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
    return table(["Change", "Value", "95 % interval"], rows) if rows else "Nothing was measured."


def _images(m: Metrics) -> str:
    if "speedup" not in m:
        return "Speed was not measured, so there is nothing to draw."
    return "![Overview](dashboard_overview.png)\n\n![Details](detailed_comparison.png)"


def trial_rows(trials: list[TrackedTrial]) -> list[list[str]]:
    """One row a trial, failed ones with their reason."""
    return [
        [
            trial.name,
            trial.status,
            _value(trial.metrics, "params_pruned_pct", ".1f", " %"),
            _value(trial.metrics, "speedup", ".2f", "x"),
            _value(trial.metrics, "memory_reduction_pct", ".1f", " %"),
            _value(trial.metrics, "throughput_gain_pct", ".1f", " %"),
            _value(trial.metrics, "pruned/bits_per_byte", ".3f", ""),
            _value(trial.metrics, "perplexity_ratio", ".2f", "x"),
            shorten(trial.error, 120) or ("yes" if trial.maintained else "no"),
        ]
        for trial in trials
    ]


TRIAL_HEAD = [
    "Trial",
    "Status",
    "Pruned",
    "Speedup",
    "Memory saved",
    "Throughput gain",
    "Bits per byte",
    "Perplexity ratio",
    "Quality maintained",
]


SHORT_HEAD = ["Trial", "Status", "Pruned", "Speed", "Memory", "Thr.put", "Bits/B", "PPL", "Kept"]
"""Column names for a terminal of 80 columns."""


def _trials(trials: list[TrackedTrial]) -> str:
    return table(TRIAL_HEAD, trial_rows(trials))


def _outputs(samples: list[dict[str, Any]]) -> str:
    if not samples:
        return "None; speed was not measured."
    texts = {(s["prompt"], s["model"]): s["text"] for s in samples}
    rows = [
        [s["prompt_text"], texts[s["prompt"], "dense"], texts[s["prompt"], "pruned"]]
        for s in samples
        if s["model"] == "dense" and s["prompt"] < 3 and s["round"] == 0
    ]
    return table(["Prompt", "Dense", "Pruned"], rows)


def conclusion(m: Metrics) -> str:
    """What may be claimed, and what may not."""
    faster = m.get("speedup_ci95_low", 0.0) > 1
    if "speedup" not in m:
        first = "The model is smaller; whether it is faster was not measured."
    elif faster:
        first = f"The pruned model is faster ({m['speedup']:.2f}x) and smaller."
    else:
        first = "The pruned model is smaller, but no speedup was shown."
    if "perplexity_ratio" not in m:
        return f"{first} Its quality was not measured."
    if m["quality_maintained"]:
        return f"{first} Its quality on held-out text is maintained."
    return (
        f"{first} Its quality on held-out text is not maintained: perplexity is"
        f" {m['perplexity_ratio']:.2f}x the dense model's. Do not use it in the dense model's place"
        " without training it further."
    )


def _training(trial: TrackedTrial) -> str:
    m, params = trial.metrics, trial.params
    if "recovery/steps" not in m:
        return "none"
    rank = params.get("recovery.lora_rank", "0")
    what = "all weights" if rank == "0" else f"adapters of rank {rank}, merged"
    return (
        f"distillation from the dense model, {what}: {m['recovery/steps']:,.0f} steps,"
        f" {m['recovery/tokens']:,.0f} tokens ({params.get('recovery.text', 'not recorded')} text),"
        f" {m['recovery/seconds'] / 60:.1f} minutes, weights of step {m['recovery/best_step']:,.0f}"
    )


def _calibration(params: dict[str, str]) -> str:
    text, blocks = params.get("data.path", "not recorded"), params.get("data.calibration_blocks")
    if params.get("data.calibration") == "generated":
        text = f"written by the dense model at temperature {params['data.generation_temperature']}"
    return f"{text}, {blocks} blocks"


def _methods(trial: TrackedTrial, machine: dict[str, Any]) -> str:
    m, params = trial.metrics, trial.params
    rows = [
        [
            "Device",
            f"{trial.tags.get('device', 'cpu')}, {machine.get('processor', 'not recorded')}",
        ],
        ["Cores, threads", f"{machine.get('cores', '?')}, {machine.get('threads', '?')}"],
        ["Frequency governor", str(machine.get("governor", "not recorded"))],
        ["Versions", ", ".join(f"{k} {v}" for k, v in machine.get("versions", {}).items())],
        ["Test prompts", _value(m, "test_prompts", ".0f", "")],
        ["New tokens per prompt", params.get("benchmark.new_tokens", "not recorded")],
        ["Pairs of requests", _value(m, "test_pairs", ".0f", "")],
        ["Stopped by", str(machine.get("stopped_by", "not recorded"))],
        ["Batches", ", ".join(map(batch_name, batch_labels(m))) or "not measured"],
        ["Seed", params.get("seed", "not recorded")],
        ["Calibration text", _calibration(params)],
        ["Held-out tokens", _value(m, "heldout_tokens", ",.0f", "")],
        ["Training after pruning", _training(trial)],
        ["Voters", params.get("pruning.voters", "not recorded")],
        ["Commit", trial.tags.get("git_commit", "not recorded")],
    ]
    load = [machine.get("load_average_start"), machine.get("load_average_end")]
    if None not in load:
        rows.append(["Load average before and after", f"{load[0]:.2f}, {load[1]:.2f}"])
    return (
        table(["Fact", "Value"], rows)
        + "\n\nBoth models run in fresh processes and answer every prompt in turns (by"
        f" {params.get('benchmark.turns', 'request')}), the order alternating. Ratios of times are"
        " interquartile means over pairs of the log ratios; throughput at batch 1 counts tokens"
        " after the first. Memory is the process's peak above its level"
        " before the model loads. Intervals are percentile bootstraps over pairs, Student's t where"
        " there are fewer than 12, and speak of these prompts; a percentile such as p99 is that of"
        " as many requests as there were pairs."
    )


def print_summary(
    trials: list[TrackedTrial],
    best: Choice | None,
    folder: Path,
    registered: str | None,
    tracking: TrackingSettings,
) -> None:
    """The table of trials and what to do next, on the terminal."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="Trials, against the dense model", padding=(0, 0))
    for name in SHORT_HEAD:
        shown.add_column(name, overflow="fold")
    for row in trial_rows(trials):
        shown.add_row(*row)
    console = Console(markup=False, highlight=False, soft_wrap=False)
    console.print(shown)
    if best is None:
        console.print("No trial finished, so there is no report and no model.")
        return
    lines = [f"Best: {best.trial.name}, chosen for {best.rule}.", "Next:"]
    if tracking.uri is None:
        lines.append(f"  browse the runs   mlflow ui --backend-store-uri {store_uri(tracking)}")
    lines.append(f"  read the report   {folder / 'report.md'}")
    if registered:
        uri = f"models:/{registered}@{CANDIDATE}"
        lines.append(f'  load the model    mlflow.pyfunc.load_model("{uri}")')
    console.print("\n".join(lines), soft_wrap=True)
