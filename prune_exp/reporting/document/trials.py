"""The trials of a sweep as rows of a table."""

from prune_exp.machine.display import one_line
from prune_exp.tracking.domains import list_too_few
from prune_exp.tracking.read import Choice, TrackedTrial, kept_after_correction

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
NOTED = (0, 1, 2, 3, 7, 8)
"""Columns that a narrow place shows."""
LONGEST_REASON = 120
LONGEST_NAME = 80


def show_value(metrics: dict[str, float], key: str, form: str, unit: str = "") -> str:
    """A figure in words."""
    return f"{metrics[key]:{form}}{unit}" if key in metrics else "not measured"


def trial_rows(trials: list[TrackedTrial]) -> list[list[str]]:
    """One row a trial, failed ones with their reason."""
    kept = kept_after_correction(trials)
    return [
        [
            one_line(trial.name, LONGEST_NAME),
            status_of(trial),
            show_value(trial.metrics, "params_pruned_pct", ".1f", " %"),
            show_value(trial.metrics, "speedup", ".2f", "x"),
            show_value(trial.metrics, "memory_reduction_pct", ".1f", " %"),
            show_value(trial.metrics, "throughput_gain_pct", ".1f", " %"),
            show_value(trial.metrics, "pruned/bits_per_byte", ".3f"),
            show_value(trial.metrics, "perplexity_ratio", ".2f", "x"),
            _describe_quality(trial, corrected=trial.run_id in kept),
        ]
        for trial in trials
    ]


def status_of(trial: TrackedTrial) -> str:
    """How a trial ended; of finished ones also whether constraints were broken."""
    return "infeasible" if trial.status == "FINISHED" and not trial.feasible else trial.status


def _describe_quality(trial: TrackedTrial, *, corrected: bool) -> str:
    if trial.error:
        return one_line(trial.error, LONGEST_REASON)
    if "quality_maintained" not in trial.metrics:
        return "not measured"
    if list_too_few(trial.metrics):
        return "no verdict: too few documents"
    if trial.maintained:
        return "yes" if corrected else "by itself"
    return "no"


def place_of(trials: list[TrackedTrial], best: Choice) -> int | None:
    """The chosen trial's row."""
    ids = [trial.run_id for trial in trials]
    return ids.index(best.trial.run_id) if best.trial.run_id in ids else None
