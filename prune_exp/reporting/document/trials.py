"""The trials of a sweep as rows of a table."""

from collections.abc import Set

from prune_exp.machine.display import one_line
from prune_exp.tracking.domains import MAINTAINED, NOT_MAINTAINED, explain_doubt, judge_quality
from prune_exp.tracking.read import (
    Choice,
    TrackedTrial,
    kept_after_correction,
    says_something,
)

TRIAL_HEAD = [
    "Trial",
    "Status",
    "Pruned",
    "Speedup",
    "Speedup, equal text",
    "Memory saved",
    "Throughput gain",
    "Bits per byte",
    "Perplexity ratio",
    "Quality maintained",
]
NOTED = (0, 1, 2, 3, 4, 8, 9)
"""Columns that a narrow place shows."""
LONGEST_REASON = 300
NO_FIGURE = "-"
LONGEST_NAME = 80
KEPT = "yes"
KEPT_ALONE = "by itself"
LOST = "no"
UNSHOWN = "not shown"
TOO_FEW = "no verdict: too few documents"


def show_value(metrics: dict[str, float], key: str, form: str, unit: str = "") -> str:
    """A figure in words."""
    return f"{metrics[key]:{form}}{unit}" if key in metrics else "not measured"


def list_known_columns(rows: list[list[str]]) -> list[int]:
    """Places of the columns that some trial has a figure for."""
    return [
        place for place in range(len(TRIAL_HEAD)) if any(row[place] != NO_FIGURE for row in rows)
    ]


def trial_rows(trials: list[TrackedTrial]) -> list[list[str]]:
    """One row a trial; why some failed or were stopped is in `list_reasons`."""
    kept = kept_after_correction(trials)
    return [
        [
            one_line(trial.name, LONGEST_NAME),
            status_of(trial),
            _show_figure(trial, "params_pruned_pct", ".1f", " %"),
            _show_figure(trial, "speedup", ".2f", "x"),
            _show_text_speed(trial),
            _show_figure(trial, "memory_reduction_pct", ".1f", " %"),
            _show_figure(trial, "throughput_gain_pct", ".1f", " %"),
            _show_figure(trial, "pruned/bits_per_byte", ".3f"),
            _show_figure(trial, "perplexity_ratio", ".2f", "x"),
            describe_quality(trial, kept),
        ]
        for trial in trials
    ]


def _show_figure(trial: TrackedTrial, key: str, form: str, unit: str = "") -> str:
    return show_value(trial.metrics, key, form, unit) if key in trial.metrics else NO_FIGURE


def _show_text_speed(trial: TrackedTrial) -> str:
    """Where the same text takes another number of tokens."""
    other = says_something(trial.metrics, "text_speedup")
    return _show_figure(trial, "text_speedup", ".2f", "x") if other else NO_FIGURE


def list_reasons(trials: list[TrackedTrial]) -> list[str]:
    """Why trials failed or were stopped, a line each."""
    return [
        f"{one_line(trial.name, LONGEST_NAME)}: {one_line(why, LONGEST_REASON)}"
        for trial in trials
        if (why := trial.error or trial.stopped)
    ]


def status_of(trial: TrackedTrial) -> str:
    """How a trial ended; of finished ones also whether constraints were broken."""
    if trial.stopped:
        return "stopped"
    return "infeasible" if trial.status == "FINISHED" and not trial.feasible else trial.status


def describe_quality(trial: TrackedTrial, kept: Set[str]) -> str:
    """The verdict in a word or two; `kept` has the runs that keep it with Holm's correction."""
    if "quality_maintained" not in trial.metrics:
        return NO_FIGURE
    verdict = judge_quality(trial.metrics)
    if verdict == MAINTAINED:
        return KEPT if trial.run_id in kept else KEPT_ALONE
    if verdict == NOT_MAINTAINED:
        return LOST
    return TOO_FEW if explain_doubt(trial.metrics) else UNSHOWN


def place_of(trials: list[TrackedTrial], best: Choice) -> int | None:
    """The chosen trial's row."""
    ids = [trial.run_id for trial in trials]
    return ids.index(best.trial.run_id) if best.trial.run_id in ids else None
