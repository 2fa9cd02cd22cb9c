"""MLflow runs: one parent a sweep, one nested run a trial, everything a trial found logged."""

import json
import sys
from pathlib import Path
from typing import Any

from prune_exp.device import device_of, name_of
from prune_exp.metrics import metrics
from prune_exp.naming import remembered
from prune_exp.packaged import installed_version
from prune_exp.params import flatten
from prune_exp.reaping import process_tags
from prune_exp.records import TrialResult
from prune_exp.redaction import redact
from prune_exp.settings import Settings
from prune_exp.store import open_store
from prune_exp.tracked import OVERRIDES, PREFIX, read_trials

INPUT_ATTEMPTS = 5


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


def finished_metrics(root_run_id: str) -> dict[int, dict[str, float]]:
    """Metrics of a sweep's finished trials by number."""
    return {
        trial.number: trial.metrics
        for trial in read_trials(root_run_id)
        if trial.status == "FINISHED"
    }


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
