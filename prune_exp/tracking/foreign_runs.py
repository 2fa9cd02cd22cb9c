"""Runs for the jobs of any other Hydra project: one for a sweep, one below it for each job.

Where they go is MLflow's own business: its variables, or what the project has set.
"""

from collections.abc import Mapping
from typing import Any

import mlflow
from mlflow.tracking import MlflowClient

from prune_exp.settings.redaction import redact
from prune_exp.tracking import tags


def open_run(
    experiment: str | None, name: str, params: Mapping[str, str], *, parent: str | None = None
) -> str:
    """Starts a run and returns its id."""
    if experiment is not None:
        mlflow.set_experiment(experiment)
    run = mlflow.start_run(run_name=name, nested=parent is not None, parent_run_id=parent)
    if params:
        mlflow.log_params(dict(params))
    return run.info.run_id


def close_run(run_id: str, value: Any, error: BaseException | None) -> None:
    """Ends a run, with what its job returned as metrics, or with the reason why it failed."""
    client = MlflowClient()
    for key, number in _numbers_in(value).items():
        client.log_metric(run_id, key, number)
    if error is not None:
        reason = redact(f"{type(error).__name__}: {error}")
        client.set_tag(run_id, tags.ERROR, reason[: tags.LONGEST])
    status = "FINISHED" if error is None else "FAILED"
    active = mlflow.active_run()
    if active is not None and active.info.run_id == run_id:
        mlflow.end_run(status)
    else:
        client.set_terminated(run_id, status)


def _numbers_in(value: Any) -> dict[str, float]:
    """A number as `return_value`; of names with values those that are numbers."""
    named = value if isinstance(value, Mapping) else {"return_value": value}
    return {
        str(key): float(one)
        for key, one in named.items()
        if isinstance(one, int | float) and not isinstance(one, bool)
    }
