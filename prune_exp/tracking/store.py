"""The MLflow store: made, or found."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlflow
import requests
from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.uri import is_local_uri

from prune_exp.machine.display import first_line
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.settings.redaction import redact
from prune_exp.settings.surroundings import SQLITE
from prune_exp.tracking.moving import ARTIFACTS, follow_store
from prune_exp.tracking.read import DATABASE, store_uri
from prune_exp.tracking.views import EXPERIMENT_TAGS, show_experiment

DATABASES = ("postgresql", "mysql", "mssql")
"""How the URIs of databases begin that several machines may use, and that hold no files."""
SQLITE_KINDS = ("sqlite:", "sqlite+")
IMPATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
"""For the first question; MLflow's own patience comes to minutes."""


def open_store(tracking: TrackingSettings) -> str:
    """Makes sure the store and the experiment exist; returns the experiment's id.

    A database that several processes create at once breaks for good, hence the lock.

    Raises:
        SettingError: the folder is not writable, the server does not answer, or the experiment
            was deleted.
    """
    uri = store_uri(tracking)
    _use_uri(uri)
    if _is_remote(uri):
        _check_answers(uri, tracking.experiment)
        if uri.startswith(DATABASES):
            _check_place_for_files(uri, tracking.experiment)
        return _experiment_id(tracking.experiment, None)
    root = Path(tracking.root).expanduser().absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".store.lock"):
            (root / ARTIFACTS).mkdir(exist_ok=True)
            experiment_id = _experiment_id(tracking.experiment, (root / ARTIFACTS).as_uri())
            if uri == f"{SQLITE}{root / DATABASE}" and (
                other := follow_store(root, tracking.experiment)
            ):
                raise SettingError(
                    f"tracking.root={root} is used by a process that sees it as {other}, as one in"
                    " a container does; wait until that has ended, or work there too"
                )
            return experiment_id
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
    if _is_remote(uri):
        _check_answers(uri, tracking.experiment)
    file = Path(uri.removeprefix(SQLITE))
    if uri.startswith(SQLITE) and not file.is_file():
        raise SettingError(
            f"there is no store at {file}; run a sweep first, or say where it is with"
            " tracking.root=DIR or tracking.uri=URI"
        )
    if tracking.uri is None and os.access(file, os.W_OK):
        follow_store(file.parent, tracking.experiment)
    _use_uri(uri)


def _is_told_elsewhere(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def _use_uri(uri: str) -> None:
    """Points MLflow at a store; its variable, which MLflow sets as well, stays the user's.

    MLflow logs an error of the database with its traceback and then raises it: once is enough.
    """
    logging.getLogger("mlflow.store.db.utils").addFilter(_is_told_elsewhere)
    with _environment({}):
        mlflow.set_tracking_uri(uri)


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Sets variables that the user has not set; in the end all are as they were."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in changes.items() if name not in before})
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _is_remote(uri: str) -> bool:
    """Whether a store is elsewhere: anything but a SQLite file or a folder.

    Its experiments must not be given a place for files on this machine. Besides servers these are
    databricks, arn:... and whatever a plugin of MLflow's knows.
    """
    return not uri.startswith(SQLITE_KINDS) and not is_local_uri(uri)


def _check_place_for_files(uri: str, experiment: str) -> None:
    """Raises SettingError where nobody has said where a new experiment keeps its files.

    It would be a folder on this machine, which others that use the database do not see.
    """
    if MlflowClient(uri).get_experiment_by_name(experiment) is None:
        raise SettingError(
            f"tracking.experiment={experiment} is not in {redact(uri)}, and a database keeps no"
            f" files; make it once with mlflow experiments create -n {experiment} -l PLACE, where"
            " PLACE is a folder or a bucket that all machines see, or use an MLflow server"
        )


def _check_answers(uri: str, experiment: str) -> None:
    """Asks the server once, with the credentials and certificates that MLflow's client uses."""
    try:
        with _environment(IMPATIENCE):
            MlflowClient(uri).get_experiment_by_name(experiment)
    except (MlflowException, ImportError) as error:
        if not isinstance(error, MlflowException) or not uri.startswith("http"):
            raise SettingError(
                f"tracking.uri={redact(uri)} cannot be used ({first_line(error)}); give one that"
                " MLflow knows here, or a local store with tracking.root=DIR"
            ) from None
        why = _explain_silence(error)
        raise SettingError(f"the MLflow server at {redact(uri)} {why}") from None


def _explain_silence(error: MlflowException) -> str:
    """Why a server was of no use, and what to do."""
    below = error.__context__
    if isinstance(below, requests.exceptions.SSLError):
        return (
            "has a certificate that is not trusted; name the file that vouches for it with"
            " MLFLOW_TRACKING_SERVER_CERT_PATH=FILE"
        )
    if isinstance(below, requests.RequestException):
        return (
            f"does not answer ({type(below).__name__}); start it, or use a local store: leave"
            " tracking.uri out and give tracking.root=DIR"
        )
    status = error.get_http_status_code()
    if status in (401, 403):
        return (
            f"does not let you in ({status}); set MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to what it knows you by"
        )
    if status == 404:
        return "answers, but has no MLflow there (404); check the address and its path"
    return f"answers, but not with what MLflow understands ({first_line(error)})"


def _experiment_id(name: str, artifacts: str | None) -> str:
    found = mlflow.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        raise SettingError(
            f"tracking.experiment={name} was deleted in this store; restore it (mlflow experiments"
            f" restore --experiment-id {found.experiment_id}), or give another"
            " tracking.experiment=NAME"
        )
    if found is not None:
        show_experiment(found.experiment_id, found.tags)
        return found.experiment_id
    made = mlflow.create_experiment(name, artifact_location=artifacts, tags=EXPERIMENT_TAGS)
    show_experiment(made, EXPERIMENT_TAGS)
    return made
