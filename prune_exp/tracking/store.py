"""The MLflow store: made, or found."""

from pathlib import Path

import mlflow
import requests
from filelock import FileLock

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.settings.redaction import redact
from prune_exp.tracking import tags
from prune_exp.tracking.read import store_uri

ANSWER_TIMEOUT_S = 5
EXPERIMENT_TAGS = {
    tags.EXPERIMENT_KIND: "custom_model_development",
    tags.NOTE: "Pruned language models against their dense ones. Every sweep is a run"
    " with its trials below it, a note and a report (artifact report.html).",
}
"""What the experiment's page says; the kind tells MLflow that models are developed here."""


def open_store(tracking: TrackingSettings) -> str:
    """Makes sure the store and the experiment exist; returns the experiment's id.

    A database that several processes create at once breaks for good, hence the lock.

    Raises:
        SettingError: the folder is not writable, the server does not answer, or the experiment
            was deleted.
    """
    uri = store_uri(tracking)
    mlflow.set_tracking_uri(uri)
    if uri.startswith("http"):
        _check_answers(uri)
        return _experiment_id(tracking.experiment, None)
    root = Path(tracking.root).expanduser().absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".store.lock"):
            (root / "artifacts").mkdir(exist_ok=True)
            return _experiment_id(tracking.experiment, (root / "artifacts").as_uri())
    except OSError as error:
        raise SettingError(
            f"tracking.root={tracking.root} cannot be written ({error.strerror or error}); give a"
            " writable folder with tracking.root=DIR"
        ) from None


def use_store(tracking: TrackingSettings) -> None:
    """Points MLflow at a store that exists; makes none.

    Raises:
        SettingError: there is no such store, or the server does not answer.
    """
    uri = store_uri(tracking)
    if uri.startswith("http"):
        _check_answers(uri)
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.is_file():
        raise SettingError(
            f"there is no store at {file}; run a sweep first, or say where it is with"
            " tracking.root=DIR or tracking.uri=URI"
        )
    mlflow.set_tracking_uri(uri)


def _check_answers(uri: str) -> None:
    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_TIMEOUT_S).raise_for_status()
    except requests.RequestException as error:
        raise SettingError(
            f"tracking.uri={redact(uri)} does not answer ({type(error).__name__}); start the server"
            " or leave tracking.uri out to use the local store"
        ) from None


def _experiment_id(name: str, artifacts: str | None) -> str:
    found = mlflow.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        raise SettingError(
            f"tracking.experiment={name} was deleted in this store; restore it (mlflow experiments"
            f" restore --experiment-id {found.experiment_id}), or give another"
            " tracking.experiment=NAME"
        )
    if found is not None:
        return found.experiment_id
    return mlflow.create_experiment(name, artifact_location=artifacts, tags=EXPERIMENT_TAGS)
