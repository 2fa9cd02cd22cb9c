"""What a sweep or a trial shows at its end."""

import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Table

from prune_exp.machine.display import one_line
from prune_exp.measurement.records import Interval
from prune_exp.reporting.document.trials import describe_quality, status_of
from prune_exp.reporting.insights import tell_load_at_start
from prune_exp.settings.groups import TrackingSettings
from prune_exp.settings.redaction import redact
from prune_exp.tracking.domains import MAINTAINED, NOT_MAINTAINED, explain_doubt, judge_quality
from prune_exp.tracking.figures import Figure, key_figures
from prune_exp.tracking.naming import overrides_of
from prune_exp.tracking.read import (
    CANDIDATE,
    Choice,
    TrackedTrial,
    describe_correction,
    kept_after_correction,
    says_something,
    store_uri,
)
from prune_exp.tracking.ui import SERVER
from prune_exp.tracking.views import find_page

COLUMNS = {
    "Pruned": ("params_pruned_pct", ".1f", " %", 1),
    "Speed": ("speedup", ".2f", "x", 1),
    "Sp.text": ("text_speedup", ".2f", "x", 1),
    "Memory": ("memory_reduction_pct", "+.1f", " %", -1),
    "Thr.put": ("throughput_gain_pct", "+.1f", " %", 1),
    "Bits/B": ("pruned/bits_per_byte", ".3f", "", 1),
    "PPL": ("perplexity_ratio", ".2f", "x", 1),
}
"""Metric, format, unit and sign of each column; those that no trial has are left out."""
LEGEND = {
    "Pruned": "share of the parameters that is gone",
    "Sp.text": "speed for equal text",
    "Memory": "change of the peak",
    "Thr.put": "change of the tokens a second",
    "Bits/B": "bits per byte",
    "PPL": "perplexity, times the dense model's",
    "Kept": "whether quality is; by itself: without correction for the number of trials",
}
WITH_INTERVALS = (
    "speedup",
    "text_speedup",
    "memory_reduction_pct",
    "throughput_gain_pct",
    "perplexity_ratio",
)
LONGEST_NAME = 48
LONGEST_REASON = 300


def print_summary(
    trials: list[TrackedTrial],
    best: Choice | None,
    folder: Path,
    registered: str | None,
    tracking: TrackingSettings,
) -> None:
    """The table of trials and what to do next, on the terminal."""
    console = Console(markup=False, highlight=False, soft_wrap=False)
    table, names = _tabulate_trials(trials)
    console.print(table)
    said = [f"{name}: {LEGEND[name]}" for name in names if name in LEGEND]
    lines = [f"{'; '.join(said)}; t: vote_threshold."] if said else []
    lines += [
        f"{trial.name}: {one_line(why, LONGEST_REASON)}"
        for trial in trials
        if (why := trial.error or trial.stopped)
    ]
    if best is None:
        lines.append("No trial finished, so there is no report and no model.")
    else:
        lines += [
            *_describe_best(best, trials),
            *_list_next_steps(best, folder, registered, tracking),
        ]
    console.print("\n".join(lines), soft_wrap=True)


def _tabulate_trials(trials: list[TrackedTrial]) -> tuple[Table, list[str]]:
    """One row a trial, and the names of the columns that something is known for."""
    known = {
        name: form
        for name, form in COLUMNS.items()
        if any(says_something(trial.metrics, form[0]) for trial in trials)
    }
    surely = kept_after_correction(trials)
    kept = any("quality_maintained" in trial.metrics for trial in trials)
    names = [*known, *(["Kept"] if kept else [])]
    table = Table(title="Trials, against the dense model", padding=(0, 0))
    for name in ["Trial", "Status", *names]:
        table.add_column(name, overflow="fold")
    for trial in trials:
        found = [_show_figure(trial, *form) for form in known.values()]
        verdict = [describe_quality(trial, surely).partition(":")[0]] if kept else []
        table.add_row(one_line(trial.name, LONGEST_NAME), status_of(trial), *found, *verdict)
    return table, names


def _show_figure(trial: TrackedTrial, key: str, form: str, unit: str, sign: int) -> str:
    return f"{sign * trial.metrics[key]:{form}}{unit}" if key in trial.metrics else "-"


def _describe_best(best: Choice, trials: list[TrackedTrial]) -> list[str]:
    """Which trial it is, its figures with their intervals, and what speaks against them."""
    trial = best.trial
    lines = [f"Best: {trial.name}, run {trial.run_id}, chosen for {best.rule}."]
    shown = [
        _with_interval(figure, Interval.read(trial.metrics, figure.key))
        for figure in key_figures(*WITH_INTERVALS)
        if Interval.is_among(trial.metrics, figure.key)
        and says_something(trial.metrics, figure.key)
    ]
    if shown:
        lines.append(f"  {'; '.join(shown)} (95 % intervals).")
    if warning := tell_load_at_start(trial.metrics):
        lines.append(f"  {warning}")
    if not best.feasible:
        lines.append("  It breaks the constraints, so no model is registered.")
    elif "quality_maintained" in trial.metrics:
        lines += [f"  {one}" for one in _describe_verdict(trial, trials)]
    return lines


def _describe_verdict(trial: TrackedTrial, trials: list[TrackedTrial]) -> list[str]:
    """What speaks against the quality of a trial; nothing where it is surely kept."""
    verdict = judge_quality(trial.metrics)
    if verdict == NOT_MAINTAINED:
        return ["It did not keep its quality, so promote will refuse it."]
    if verdict == MAINTAINED:
        said = describe_correction(trials, trial)
        return [said] if said else []
    doubt = "Whether it kept its quality was not shown; promote judges it on other documents."
    return [explain_doubt(trial.metrics) or doubt]


def _with_interval(figure: Figure, found: Interval) -> str:
    ends = figure.show_ends(found)
    unit = "" if figure.knows_nothing_of(found) else figure.unit
    return f"{figure.short_name} {figure.show_value(found.value)}, {ends}{unit}"


def _list_next_steps(
    best: Choice, folder: Path, registered: str | None, tracking: TrackingSettings
) -> list[str]:
    lines = ["Next:"]
    if tracking.uri is None:
        lines.append(f"  browse the runs   {_browse(tracking)}")
        lines.append(f"    and open        {SERVER}{find_page(tracking.experiment)}")
    lines.append(f"  read the report   {folder / 'report.html'}")
    if registered:
        uri = f"models:/{registered}@{CANDIDATE}"
        lines.append(f'  load the model    mlflow.pyfunc.load_model("{uri}")')
        words = [f"run_id={best.trial.run_id}", *_place_of_store(tracking)]
        lines.append(f"  judge and promote python -m prune_exp.promote {shlex.join(words)}")
    return lines


def _browse(tracking: TrackingSettings) -> str:
    """The command that serves MLflow's pages, also from another folder."""
    return shlex.join(["mlflow", "ui", "--backend-store-uri", store_uri(tracking)])


def _place_of_store(tracking: TrackingSettings) -> list[str]:
    """What another command must be told to find the store, unless it is the default one."""
    default = TrackingSettings()
    names = ["uri", "experiment"] if tracking.uri else ["root", "experiment"]
    given = {
        f"tracking.{name}": redact(str(getattr(tracking, name)))
        for name in names
        if getattr(tracking, name) != getattr(default, name)
    }
    return overrides_of(given)
