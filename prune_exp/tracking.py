"""MLflow runs: one parent a sweep, one nested run a trial, everything a trial found logged."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from prune_exp.device import device_of, name_of
from prune_exp.metrics import metrics
from prune_exp.naming import remembered
from prune_exp.packaged import installed_version
from prune_exp.params import flatten
from prune_exp.records import TrialResult
from prune_exp.redaction import redact
from prune_exp.settings import SettingError, Settings, TrackingSettings
from prune_exp.tracked import INTERRUPTED, OVERRIDES, PREFIX, read_trials, store_uri

ANSWER_TIMEOUT_S = 5
INPUT_ATTEMPTS = 5
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "Pruned language models against their dense ones. Every sweep is a run"
    " with its trials below it, a note and a report (artifact report.html).",
}
"""What the experiment's page says; the kind tells MLflow that models are developed here."""


def open_store(tracking: TrackingSettings) -> str:
    """Makes sure the store and the experiment exist; returns the experiment's id.

    A database that several processes create at once breaks for good, hence the lock.

    Raises:
        SettingError: the folder is not writable, or the server does not answer.
    """
    import mlflow
    from filelock import FileLock

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
    import mlflow

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
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_TIMEOUT_S).raise_for_status()
    except requests.RequestException as error:
        raise SettingError(
            f"tracking.uri={redact(uri)} does not answer ({type(error).__name__}); start the server"
            " or leave tracking.uri out to use the local store"
        ) from None


def _experiment_id(name: str, artifacts: str | None) -> str:
    import mlflow

    found = mlflow.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    return mlflow.create_experiment(name, artifact_location=artifacts, tags=EXPERIMENT_TAGS)


def start_sweep(
    settings: Settings,
    folder: Path,
    *,
    study: str,
    name: str,
    overrides: list[str],
    earlier: str | None,
) -> str:
    """Opens the parent run, or an earlier one again, and returns its id."""
    import mlflow

    tags = {
        f"{PREFIX}role": "sweep",
        f"{PREFIX}folder": str(folder),
        f"{PREFIX}study": study,
        OVERRIDES: remembered(overrides),
        **process_tags(),
        **environment_tags(),
    }
    experiment = open_store(settings.tracking)
    if earlier is not None:
        mlflow.start_run(run_id=earlier)
        mlflow.set_tags(tags)
        return earlier
    run = mlflow.start_run(experiment_id=experiment, run_name=name, tags=tags)
    mlflow.log_params({"model.name": settings.model.name, "study": study})
    return run.info.run_id


def start_trial(
    settings: Settings,
    folder: Path,
    number: int | None,
    parent: str | None,
    *,
    name: str,
    overrides: list[str],
) -> None:
    """Opens a trial's run, nested under its sweep's when there is one."""
    import mlflow

    tags = {
        f"{PREFIX}role": "trial",
        f"{PREFIX}folder": str(folder),
        OVERRIDES: remembered(overrides),
        "hydra.job_num": str(number),
        "device": name_of(device_of(settings.device)),
    }
    mlflow.start_run(
        experiment_id=open_store(settings.tracking),
        run_name=name,
        nested=parent is not None,
        parent_run_id=parent,
        tags=tags | process_tags() | environment_tags(),
    )
    mlflow.log_params(flatten(settings))


def process_tags() -> dict[str, str]:
    """Which process a run belongs to, so that a later one can see whether it still lives."""
    import socket

    import psutil

    started = psutil.Process().create_time()
    return {f"{PREFIX}process": f"{socket.gethostname()} {os.getpid()} {started:.2f}"}


def is_dead(process: str) -> bool:
    """Whether the process of a run has gone; false for what another machine runs."""
    import socket

    import psutil

    host, pid, started = process.split(" ")
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(started)) > 1
    except psutil.NoSuchProcess:
        return True


def reap(tracking: TrackingSettings) -> None:
    """Marks runs as FAILED whose process was killed: nothing else would ever end them.

    Raises:
        SettingError: as `open_store` does.
    """
    from mlflow.tracking import MlflowClient

    experiment_id, client = open_store(tracking), MlflowClient()
    asked = "attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment_id], asked, max_results=1000):
        process = run.data.tags.get(f"{PREFIX}process")
        if process is not None and is_dead(process):
            fail_run(run.info.run_id, "interrupted: the process was killed", interrupted=True)
            folder = run.data.tags.get(f"{PREFIX}folder")
            if folder and run.data.tags.get(f"{PREFIX}role") == "trial":
                shutil.rmtree(Path(folder) / "model", ignore_errors=True)


def fail_run(run_id: str, reason: str, *, interrupted: bool = False) -> None:
    """Marks a run as FAILED from outside, with the reason in a tag."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    client.set_tag(run_id, f"{PREFIX}error", redact(reason)[:5000])
    if interrupted:
        client.set_tag(run_id, INTERRUPTED, "true")
    client.set_terminated(run_id, "FAILED")


def finished_metrics(root_run_id: str) -> dict[int, dict[str, float]]:
    """Metrics of a sweep's finished trials by number."""
    return {
        trial.number: trial.metrics
        for trial in read_trials(root_run_id)
        if trial.status == "FINISHED"
    }


def lose_trials(root_run_id: str, numbers: list[int], reason: str) -> None:
    """Marks the runs of trials as FAILED that a launcher lost."""
    for trial in read_trials(root_run_id):
        if trial.number in numbers and trial.status == "RUNNING":
            fail_run(trial.run_id, reason)


def environment_tags() -> dict[str, str]:
    """Library versions and the git commit."""
    names = ("torch", "transformers", "mlflow", "optuna", "hydra-core", "prune-exp")
    tags = {f"version.{name}": installed_version(name) or "unknown" for name in names}
    return tags | {"git_commit": _git_commit(), "version.python": sys.version.split()[0]}


def _git_commit() -> str:
    import subprocess

    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() if asked.returncode == 0 else "none"


def log_result(result: TrialResult, folder: Path) -> None:
    """Logs everything a trial found to the open run."""
    import mlflow

    flat = metrics(result)
    mlflow.log_metrics(flat)
    mlflow.log_dict(flat, "metrics.json")
    mlflow.log_text(json.dumps(result.plan.to_json(), separators=(",", ":")), "plan.json")
    mlflow.log_dict(result.plan.agreement, "voter_agreement.json")
    if result.speed is not None:
        mlflow.log_text(json.dumps(list(result.speed.samples), indent=1), "samples.json")
        mlflow.log_dict(result.speed.facts, "machine.json")
        mlflow.set_tags(_measurement_tags(result.speed.facts))
    mlflow.set_tags(
        {
            f"{PREFIX}weights_sha256": result.weights_sha256,
            f"{PREFIX}model_digest": result.model_digest,
            f"{PREFIX}checkpoint": str(folder / "model"),
        }
    )
    _log_curve(result)
    _log_texts(result)


def _log_curve(result: TrialResult) -> None:
    """The losses of training after pruning, by step."""
    import mlflow

    for step, loss, validation in () if result.recovery is None else result.recovery.curve:
        losses = {"recovery/train_loss": loss, "recovery/validation_loss": validation}
        mlflow.log_metrics(losses, step=step)


def _measurement_tags(facts: dict[str, Any]) -> dict[str, str]:
    """What a timing depends on, beside the versions and the commit that every run has."""
    names = ("stopped_by", "processor", "cores", "threads", "governor")
    return {f"{PREFIX}{name}": str(facts[name]) for name in names}


def _log_texts(result: TrialResult) -> None:
    """Dataset inputs; the text itself is not stored, its digest identifies it."""
    import numpy as np
    from mlflow.data.numpy_dataset import from_numpy  # pyright: ignore[reportMissingImports]

    for text in result.texts:
        facts = np.array([[text.blocks, text.tokens]])
        dataset = from_numpy(facts, name=f"{text.source} ({text.role})", digest=text.digest)
        _log_input(dataset, text.role)


def _log_input(dataset: Any, role: str) -> None:
    """Logs a dataset; when two trials store the same new one at once, MLflow refuses the second."""
    import time

    import mlflow
    from mlflow.exceptions import MlflowException

    for attempt in range(INPUT_ATTEMPTS):
        try:
            mlflow.log_input(dataset, context=role)
            return
        except MlflowException:
            if attempt == INPUT_ATTEMPTS - 1:
                raise
            time.sleep(0.2 * (attempt + 1))


def end_trial(error: BaseException | None) -> None:
    """Closes the trial's run as FINISHED, or as FAILED with the reason in a tag."""
    import mlflow

    if error is not None:
        mlflow.set_tag(f"{PREFIX}error", redact(f"{type(error).__name__}: {error}")[:5000])
        notes = getattr(error, "__notes__", [])
        if notes:
            mlflow.log_text(redact("\n".join(notes)), "traceback.txt")
    mlflow.end_run("FAILED" if error is not None else "FINISHED")


def log_file(run_id: str, path: Path, artifact_path: str) -> None:
    """Stores a file with a run."""
    from mlflow.tracking import MlflowClient

    MlflowClient().log_artifact(run_id, str(path), artifact_path)


def end_open_runs(status: str) -> None:
    """Closes every run that this process still has open, the innermost first."""
    import mlflow

    while mlflow.active_run() is not None:
        mlflow.end_run(status)
