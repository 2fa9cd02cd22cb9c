"""Everything a report is made of, read from the store alone."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prune_exp.pruning.plan import PruningPlan
from prune_exp.settings.errors import SettingError
from prune_exp.tracking import tags
from prune_exp.tracking.read import (
    Choice,
    TrackedTrial,
    choose_as_then,
    read_artifact,
    read_run,
    read_trials,
)

ASKED_FOR = "asked for by its id"
Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The trial that is reported on, the others beside it, and what was kept of it."""

    root: TrackedTrial
    """The sweep's run, or the trial itself when it has none."""
    trials: list[TrackedTrial]
    best: Choice
    samples: list[dict[str, Any]] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    plan: PruningPlan | None = None
    flipped: list[dict[str, str]] = field(default_factory=list)
    """Questions that one of both models answers right."""
    documents: list[dict[str, Any]] = field(default_factory=list)
    """Both models' losses on each held-out document; none in runs that did not record them."""
    rivals: dict[str, Any] = field(default_factory=dict)
    """Files of this model and of its dense one at equal size, where they were compared."""

    @property
    def metrics(self) -> Metrics:
        """Those of the trial that is reported on."""
        return self.best.trial.metrics

    @property
    def params(self) -> dict[str, str]:
        """Its settings."""
        return self.best.trial.params

    @property
    def finished(self) -> list[TrackedTrial]:
        """Trials with a result."""
        return [trial for trial in self.trials if trial.has_result]


def gather_findings(root: TrackedTrial, trials: list[TrackedTrial], best: Choice) -> Findings:
    """Reads what the store keeps of the chosen trial beside its figures."""
    with tempfile.TemporaryDirectory() as scratch:
        found = {
            name: read_artifact(best.trial.run_id, f"{name}.json", Path(scratch))
            for name in ("samples", "machine", "plan", "flipped", "documents", "rivals/rivals")
        }
    return Findings(
        root=root,
        trials=trials,
        best=best,
        samples=found["samples"] or [],
        machine=found["machine"] or {},
        plan=PruningPlan.from_json(found["plan"]) if found["plan"] else None,
        flipped=_rows_of(found["flipped"]),
        documents=_rows_of(found["documents"]),
        rivals=found["rivals/rivals"] or {},
    )


def _rows_of(table: Any) -> list[dict[str, Any]]:
    """A table as MLflow keeps it, row by row."""
    if not table:
        return []
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def look_up_findings(run_id: str) -> Findings:
    """What there is to report on a sweep, whose best trial is chosen as it was then, or on a trial.

    Raises:
        SettingError: there is no such run, or nothing in it finished.
    """
    trials = read_trials(run_id)
    asked = read_run(run_id)
    if asked.is_sweep:
        best = choose_as_then(trials)
        if best is None:
            raise SettingError(
                f"run_id={run_id} is a sweep of {len(trials)} trials of which none finished, so"
                " there is nothing to report; the MLflow UI shows the tag prune_exp.error of each"
            )
        return gather_findings(asked, trials, best)
    if (role := asked.tags.get(tags.ROLE)) != "trial":
        what = "the row of the dense model" if role == tags.DENSE else "no run of a trial"
        raise SettingError(f"run_id={run_id} is {what}; give that of a trial or of a sweep")
    if not asked.has_result:
        why = asked.error or asked.stopped
        status = "stopped" if asked.stopped else asked.status
        raise SettingError(f"run_id={run_id} is {status} and has no result{why and f': {why}'}")
    parent = asked.tags.get(tags.PARENT_RUN)
    root = read_run(parent) if parent else asked
    return gather_findings(
        root,
        read_trials(parent) if parent else trials,
        Choice(trial=asked, rule=ASKED_FOR),
    )
