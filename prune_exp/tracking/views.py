"""What MLflow's pages show of an experiment and of its runs, and the addresses of these pages."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from requests import RequestException

from prune_exp.tracking import tags
from prune_exp.tracking.outcome import FAILED, FINISHED, HYPERVOLUME

COLUMNS = (
    "speedup",
    "memory_reduction_pct",
    "throughput_gain_pct",
    "perplexity_ratio",
    "worst_perplexity_ratio",
    "quality_maintained",
    "params_pruned_pct",
    HYPERVOLUME,
    FINISHED,
    FAILED,
)
"""The metrics that tell sweeps and trials apart, in the order in which they are shown."""
MODE = "workflowType=machine_learning"
"""In an address: the pages have what belongs to training models beside them, not to agents."""
OLD_NOTES = (
    "Pruned language models against their dense ones. Every sweep is a run with its trials below"
    " it, a note and a report (artifact report.html).",
)
"""What earlier versions said of an experiment: replaced, while a note of the user's stays."""
EXPERIMENT_TAGS = {
    tags.EXPERIMENT_KIND: "custom_model_development",
    tags.PRIMARY_METRIC: "speedup",
}
"""The kind tells MLflow that models are developed here."""


def view_state() -> str:
    """The view of an experiment as MLflow's pages read it, from a tag of the experiment."""
    metrics = [f"metrics.`{name}`" for name in COLUMNS]
    state: dict[str, Any] = {"selectedColumns": metrics, "columnOrder": metrics}
    return json.dumps(state)


def page_of_experiment(experiment_id: str) -> str:
    """The address of an experiment's runs in our view, after that of MLflow's server."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={tags.VIEW_NAME}&{MODE}"


def find_page(experiment: str) -> str:
    """The address of an experiment by name; that of all of them where it is not in the store."""
    found = MlflowClient().get_experiment_by_name(experiment)
    return "#/experiments" if found is None else page_of_experiment(found.experiment_id)


def page_of_report(experiment_id: str, run_id: str) -> str:
    """The address of a run's report, shown among its artifacts."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/report.html?{MODE}"


def describe_experiment(experiment_id: str) -> str:
    """The experiment's note."""
    return (
        f"[The figures that matter]({page_of_experiment(experiment_id)}) of pruned language models"
        " against their dense ones. Every sweep is a run with its trials below it, a note and a"
        " report."
    )


def show_experiment(experiment_id: str, known: Mapping[str, str]) -> None:
    """Gives an experiment its view and its note, where it has no note of the user's.

    A user who may not change the experiment can use it all the same.
    """
    wanted = {tags.VIEW: view_state()}
    note = describe_experiment(experiment_id)
    if known.get(tags.NOTE) in (None, "", *OLD_NOTES):
        wanted[tags.NOTE] = note
    with suppress(MlflowException, RequestException):
        for key, value in wanted.items():
            if known.get(key) != value:
                MlflowClient().set_experiment_tag(experiment_id, key, value)
