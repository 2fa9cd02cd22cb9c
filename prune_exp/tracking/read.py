"""Reads runs back from the store: the report's and the registry's only source."""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from prune_exp.measurement.records import Interval, nan_to_inf
from prune_exp.pruning.plan import PruningPlan
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import SearchSettings, TrackingSettings
from prune_exp.settings.params import restore_settings
from prune_exp.settings.surroundings import SQLITE
from prune_exp.tracking import tags
from prune_exp.tracking.attempts import try_again
from prune_exp.tracking.metrics import STOPPED

DATABASE = "mlflow.db"
"""The database of a local store."""
LATEST = "latest"
"""In place of a run's id: the newest one."""
ONE_SIDED = 0.025
"""What a 95 % interval whose upper end is within a limit amounts to."""
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
    def stopped(self) -> str:
        """Which constraint it could not meet, if it was ended for that."""
        return self.tags.get(tags.STOPPED, "")

    @property
    def has_result(self) -> bool:
        """Whether it ran to its end."""
        return self.status == "FINISHED" and not self.stopped

    @property
    def failed(self) -> bool:
        """True when it ended without a result on its own account, and not by an interruption."""
        return self.status not in ("FINISHED", "KILLED") and tags.INTERRUPTED not in self.tags

    @property
    def limits(self) -> dict[str, float]:
        """The constraints that its sweep had: metrics, and the most that each may be."""
        return restore_settings(SearchSettings, self.params, "search").limits

    @property
    def feasible(self) -> bool:
        """Whether it meets all of them; what is no number or was not measured meets none."""
        found = self.metrics
        return all(found.get(key, math.inf) <= most for key, most in self.limits.items())

    @property
    def point(self) -> tuple[tuple[str, str], ...]:
        """What tells it from other trials of its sweep: a second try at a point has the same."""
        aside = ("search.", "tracking.", "cache_dir")
        params = {key: value for key, value in self.params.items() if not key.startswith(aside)}
        return tuple(sorted((params or {"run": self.run_id}).items()))

    @property
    def error(self) -> str:
        """Why it failed, if it did."""
        return self.tags.get(tags.ERROR, "")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The best trial and the rule that chose it."""

    trial: TrackedTrial
    rule: str
    feasible: bool = True
    """Whether it meets the constraints; where none does the choice is among all."""


def count_failed_points(trials: list[TrackedTrial]) -> int:
    """Points that failed and have no result by another try either."""
    done = {trial.point for trial in trials if trial.status == "FINISHED"}
    return len({trial.point for trial in trials if trial.failed} - done)


def read_run(run_id: str) -> TrackedTrial:
    """One run, a sweep's or a trial's.

    Raises:
        SettingError: the store has no such run.
    """
    return _trial_of(_find_run(run_id))


ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's codes for a run that is not there, or cannot be."""


def _find_run(run_id: str) -> Any:
    try:
        return MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ABSENT:  # whether it is there is not known
            raise
        raise SettingError(
            f"run_id={run_id} is not in this store; copy the id from the MLflow UI"
        ) from None


def find_latest(tracking: TrackingSettings, *, trial: bool = False) -> str:
    """The run that the experiment's newest command made: a sweep's own, or that of a trial alone.

    With `trial` it is the newest finished trial, also one of a sweep.

    Raises:
        SettingError: the experiment has no such run.
    """
    client = MlflowClient()
    known = client.get_experiment_by_name(tracking.experiment)
    ours = f"tags.`{tags.ROLE}` LIKE '%'"
    done = f"tags.`{tags.ROLE}` = 'trial' and attributes.status = 'FINISHED'"
    order = ["attributes.start_time DESC"]
    runs: list[Any] = []
    if known is not None:
        where = [known.experiment_id]
        asked = done if trial else ours
        runs = client.search_runs(where, asked, max_results=1000 if trial else 1, order_by=order)
        runs = [run for run in runs if not trial or tags.STOPPED not in run.data.tags]
    if not runs:
        kind = "finished trial" if trial else "run"
        raise SettingError(
            f"tracking.experiment={tracking.experiment} has no {kind} yet; run one first, or name"
            " another experiment"
        )
    parent = None if trial else runs[0].data.tags.get(tags.PARENT_RUN)
    return parent or runs[0].info.run_id


def recent_trials(experiment: str, most: int = 200) -> list[TrackedTrial]:
    """The newest trials of an experiment that ran to their end; none where there is none."""
    client = MlflowClient()
    known = client.get_experiment_by_name(experiment)
    if known is None:
        return []
    done = f"tags.`{tags.ROLE}` = 'trial' and attributes.status = 'FINISHED'"
    order = ["attributes.start_time DESC"]
    runs = client.search_runs([known.experiment_id], done, max_results=most, order_by=order)
    return [one for run in runs if (one := _trial_of(run)).has_result]


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
    trials = [_trial_of(run) for run in runs if run.data.tags.get(tags.ROLE) != tags.DENSE]
    return sorted(trials, key=lambda trial: trial.number)


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
        beside = name.rpartition("/")[0] or None
        if name not in [item.path for item in client.list_artifacts(run_id, beside)]:
            return None
        path = Path(try_again(lambda: client.download_artifacts(run_id, name, str(folder))))
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


def spells_otherwise(metrics: Mapping[str, float]) -> bool:
    """Whether equal text takes another number of tokens than the dense model's, as far as known."""
    sides = [metrics.get(f"{side}/bytes_per_token") for side in ("dense", "pruned")]
    return "text_speedup" in metrics and sides[0] != sides[1]


def says_something(metrics: Mapping[str, float], key: str) -> bool:
    """Whether a trial has a figure, and it is no other one's again: speed for equal text is that of
    a request where tokens are the same."""
    return key in metrics and (key != "text_speedup" or spells_otherwise(metrics))


def kept_after_correction(trials: Sequence[TrackedTrial]) -> set[str]:
    """Ids of the runs whose quality is maintained among all that a sweep has judged.

    Of many trials at the limit some pass by luck. By Holm's procedure (1979, Scandinavian Journal
    of Statistics 6:65) the chance that any trial passes wrongly is that of a single one. A trial
    has to pass on every text to be kept, so its p-value is that of the worst of them, and texts add
    nothing to the correction. Runs that recorded no p-value keep the verdict that they have.
    """
    judged = judged_trials(trials)
    kept: set[str] = set()
    for place, trial in enumerate(sorted(judged, key=_p_value)):
        if not _p_value(trial) <= ONE_SIDED / (len(judged) - place):
            break
        if trial.maintained:
            kept.add(trial.run_id)
    return kept


def describe_correction(trials: Sequence[TrackedTrial], trial: TrackedTrial) -> str | None:
    """What the correction makes of a trial's verdict; None where nothing is to be corrected."""
    count = len(judged_trials(trials))
    if count < 2 or not trial.maintained:
        return None
    if trial.run_id in kept_after_correction(trials):
        return f"Its quality counts as maintained also with Holm's correction for {count} trials."
    return (
        f"With Holm's correction for the {count} trials that were judged, its quality does not"
        " count as maintained; by itself it does."
    )


def judged_trials(trials: Sequence[TrackedTrial]) -> list[TrackedTrial]:
    """Those that held-out text has judged, also where it ended them early."""
    return [
        t
        for t in trials
        if t.status == "FINISHED" and ("quality_maintained" in t.metrics or t.metrics.get(STOPPED))
    ]


def _p_value(trial: TrackedTrial) -> float:
    found = trial.metrics.get("quality_p_value", 0.0 if trial.maintained else 1.0)
    return 1.0 if math.isnan(found) else found


def choose_best(trials: list[TrackedTrial], rule: str) -> Choice | None:
    """Picks the best finished trial by `tracking.best`, and says which rule applied.

    Those that meet `search.constraints` come before all others.
    """
    done = [trial for trial in trials if trial.has_result]
    feasible = [trial for trial in done if trial.feasible]
    choice = _choose_among(feasible or done, rule, trials)
    if choice is None or not any(trial.limits for trial in done):
        return choice
    if feasible:
        return replace(choice, rule=f"{choice.rule}, of those that met search.constraints")
    return replace(
        choice, rule=f"{choice.rule}, though no trial met search.constraints", feasible=False
    )


def _choose_among(
    done: list[TrackedTrial], rule: str, trials: Sequence[TrackedTrial]
) -> Choice | None:
    """The best of `done`; whether quality is kept is corrected for all `trials`."""
    fast = [trial for trial in done if "speedup" in trial.metrics]
    surely = kept_after_correction(trials)
    kept = [trial for trial in fast if trial.run_id in surely]
    many = f" (corrected for {count})" if (count := len(judged_trials(trials))) > 1 else ""
    judged = [trial for trial in done if "perplexity_ratio" in trial.metrics]
    equal_text = any(speed_key(trial.metrics) == "text_speedup" for trial in fast)
    by_speed = f"the largest speedup{' for equal text' if equal_text else ''}"
    if rule == "speedup" and fast:
        return Choice(trial=max(fast, key=_speedup_of), rule=by_speed)
    if rule == "speedup_if_maintained" and kept:
        return Choice(
            trial=max(kept, key=_speedup_of),
            rule=f"{by_speed} among the trials that kept quality{many}",
        )
    by_size = rule == "size_if_maintained"
    if by_size or (rule != "quality" and not fast):
        largest = _choose_largest(judged, surely, many, asked=by_size)
        if largest is not None:
            return largest
    if judged:
        best = min(judged, key=lambda trial: nan_to_inf(trial.metrics["perplexity_ratio"]))
        return Choice(trial=best, rule=_explain_quality(rule, many, timed=bool(fast)))
    if done:
        return Choice(trial=fast[0] if fast else done[0], rule="the first finished trial")
    return None


def _choose_largest(
    judged: Sequence[TrackedTrial], surely: Set[str], many: str, *, asked: bool
) -> Choice | None:
    """The largest cut that kept quality for certain; where size is `asked` for, else by itself."""
    certain = [trial for trial in judged if trial.run_id in surely]
    alone = [trial for trial in judged if trial.maintained and asked]
    if not certain and not alone:
        return None
    trial = max(certain or alone, key=lambda one: one.metrics["params_pruned_pct"])
    if certain:
        more = many if asked else ", since nothing was timed"
    else:
        more = f", though not for certain{many}"
    return Choice(trial=trial, rule=f"the largest cut that kept quality{more}")


def _explain_quality(rule: str, many: str, *, timed: bool) -> str:
    """Why the best quality was chosen; `many` says for how many trials verdicts are corrected."""
    if rule == "quality":
        return "the best quality"
    if rule == "size_if_maintained":
        return "the best quality, since no trial kept it"
    if not timed:
        return "the best quality, since no trial kept it and nothing was timed"
    return f"the best quality, since no trial both kept quality{many} and was measured for speed"


def choose_as_then(trials: list[TrackedTrial]) -> Choice | None:
    """Picks the best finished trial by the rule that the trials themselves ran with."""
    rule = next((t.params["tracking.best"] for t in trials if "tracking.best" in t.params), "")
    return choose_best(trials, rule or "speedup_if_maintained")


def _speedup_of(trial: TrackedTrial) -> float:
    found = trial.metrics[speed_key(trial.metrics)]
    return -math.inf if math.isnan(found) else found
