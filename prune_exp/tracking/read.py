"""Reads runs back from the store: the report's and the registry's only source."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from prune_exp.measurement.records import Interval
from prune_exp.pruning.plan import PruningPlan
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.settings.surroundings import SQLITE
from prune_exp.tracking import tags

DATABASE = "mlflow.db"
"""The database of a local store."""
CANDIDATE = "candidate"
"""Alias of the version that the latest sweep or trial registered."""


def store_uri(tracking: TrackingSettings) -> str:
    """The tracking URI; by default a SQLite file under `tracking.root`."""
    if tracking.uri is not None:
        return tracking.uri
    return f"{SQLITE}{Path(tracking.root).expanduser().absolute() / DATABASE}"


@dataclass(frozen=True, kw_only=True)
class TrackedTrial:
    """One trial as the store has it."""

    run_id: str
    name: str
    status: str
    number: int
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]

    @property
    def is_sweep(self) -> bool:
        """True for a sweep's own run, which has trials below it and no result."""
        return self.tags.get(tags.ROLE) == "sweep"

    @property
    def maintained(self) -> bool:
        """True when quality was measured and is within the limit."""
        return self.metrics.get("quality_maintained", 0.0) == 1.0

    @property
    def failed(self) -> bool:
        """True when it ended without a result on its own account."""
        return self.status != "FINISHED" and tags.INTERRUPTED not in self.tags

    @property
    def error(self) -> str:
        """Why it failed, if it did."""
        return self.tags.get(tags.ERROR, "")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The best trial and the rule that chose it."""

    trial: TrackedTrial
    rule: str


def read_run(run_id: str) -> TrackedTrial:
    """One run, a sweep's or a trial's.

    Raises:
        SettingError: the store has no such run.
    """
    return _trial_of(_find_run(run_id))


def _find_run(run_id: str) -> Any:
    try:
        return MlflowClient().get_run(run_id)
    except MlflowException:
        raise SettingError(
            f"run_id={run_id} is not in this store; copy the id from the MLflow UI"
        ) from None


def read_trials(root_run_id: str) -> list[TrackedTrial]:
    """The trials of a sweep in order, or the one trial that the run is.

    Raises:
        SettingError: the store has no such run.
    """
    root = _find_run(root_run_id)
    if root.data.tags.get(tags.ROLE) != "sweep":
        return [_trial_of(root)]
    runs = MlflowClient().search_runs(
        [root.info.experiment_id], f"tags.`{tags.PARENT_RUN}` = '{root_run_id}'", max_results=5000
    )
    return sorted((_trial_of(run) for run in runs), key=lambda trial: trial.number)


def _trial_of(run: Any) -> TrackedTrial:
    return TrackedTrial(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        number=tags.job_number(run.data.tags),
        metrics=dict(run.data.metrics),
        params=dict(run.data.params),
        tags=dict(run.data.tags),
    )


def text_digests(run_id: str) -> dict[str, str]:
    """Digests of the texts that a trial used, by role: calibration, heldout."""
    inputs = MlflowClient().get_run(run_id).inputs
    return {
        tag.value: one.dataset.digest
        for one in (inputs.dataset_inputs if inputs is not None else [])
        for tag in one.tags
        if tag.key == tags.DATASET_ROLE
    }


def read_plan(run_id: str) -> PruningPlan | None:
    """The plan that a trial stored, or None when it has none."""
    with tempfile.TemporaryDirectory() as scratch:
        found = read_artifact(run_id, "plan.json", Path(scratch))
    return PruningPlan.from_json(found) if found is not None else None


def read_artifact(run_id: str, name: str, folder: Path) -> Any:
    """A JSON artifact of a run, or None when it has none of that name."""
    client = MlflowClient()
    path = _artifacts_beside(client.get_run(run_id), client.tracking_uri) / name
    if not path.is_file():
        if name not in [item.path for item in client.list_artifacts(run_id)]:
            return None
        try:
            path = Path(client.download_artifacts(run_id, name, str(folder)))
        except MlflowException:
            return None
    return json.loads(path.read_text(encoding="utf-8"))


def _artifacts_beside(run: Any, uri: str) -> Path:
    """Where a run's artifacts lie beside a local database, also when their folder was moved."""
    if not uri.startswith(SQLITE):
        return Path("/nonexistent")
    beside = Path(uri.removeprefix(SQLITE)).parent / "artifacts"
    return beside / run.info.run_id / "artifacts"


def speed_key(metrics: Mapping[str, float]) -> str:
    """The metric that a model's speed is judged by: for equal text where that is known.

    A model with a smaller vocabulary makes more tokens of the same text.
    """
    return "text_speedup" if Interval.is_among(metrics, "text_speedup") else "speedup"


def choose_best(trials: list[TrackedTrial], rule: str) -> Choice | None:
    """Picks the best finished trial by `tracking.best`, and says which rule applied."""
    done = [trial for trial in trials if trial.status == "FINISHED"]
    fast = [trial for trial in done if "speedup" in trial.metrics]
    kept = [trial for trial in fast if trial.maintained]
    judged = [trial for trial in done if "perplexity_ratio" in trial.metrics]
    equal_text = any(speed_key(trial.metrics) == "text_speedup" for trial in fast)
    by_speed = f"the largest speedup{' for equal text' if equal_text else ''}"
    if rule == "speedup" and fast:
        return Choice(trial=max(fast, key=_speedup_of), rule=by_speed)
    if rule == "speedup_if_maintained" and kept:
        return Choice(
            trial=max(kept, key=_speedup_of), rule=f"{by_speed} among the trials that kept quality"
        )
    if judged:
        best = min(judged, key=lambda trial: trial.metrics["perplexity_ratio"])
        why = "the best quality"
        if rule == "speedup_if_maintained":
            why += ", since no trial both kept quality and was measured for speed"
        return Choice(trial=best, rule=why)
    if done:
        return Choice(trial=fast[0] if fast else done[0], rule="the first finished trial")
    return None


def choose_as_then(trials: list[TrackedTrial]) -> Choice | None:
    """Picks the best finished trial by the rule that the trials themselves ran with."""
    rule = next((t.params["tracking.best"] for t in trials if "tracking.best" in t.params), "")
    return choose_best(trials, rule or "speedup_if_maintained")


def _speedup_of(trial: TrackedTrial) -> float:
    return trial.metrics[speed_key(trial.metrics)]
