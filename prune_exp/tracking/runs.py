"""MLflow runs: one parent a sweep, one nested run a trial, everything a trial found logged."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from prune_exp.machine.packages import installed_version
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.settings.redaction import redact
from prune_exp.tracking import tags
from prune_exp.tracking.answers import FLIPPED, TABLE, tabulate_answers, tabulate_flipped
from prune_exp.tracking.attempts import try_again
from prune_exp.tracking.document_losses import DOCUMENTS, tabulate_documents
from prune_exp.tracking.linked import log_linked, make_dataset
from prune_exp.tracking.metrics import describe_stop, flatten_result, flatten_stopped
from prune_exp.tracking.naming import remember_overrides
from prune_exp.tracking.notes import describe_start, end_note, plain_words
from prune_exp.tracking.outcome import OF_THE_BEST, sweep_outcome
from prune_exp.tracking.places import shorten_place
from prune_exp.tracking.processes import process_tags
from prune_exp.tracking.read import ABSENT, Choice, TrackedTrial, choose_best, read_trials
from prune_exp.tracking.result import StoppedTrial, TrialResult
from prune_exp.tracking.store import open_store
from prune_exp.tracking.views import page_of_report

INPUT_ATTEMPTS = 5
VALIDATION_LOSS = "recovery/validation_loss"
SOURCE_NAME = "python -m prune_exp"
"""In place of the file that MLflow takes for what was started."""


def start_sweep(
    tracking: TrackingSettings,
    folder: Path,
    *,
    model_name: str,
    study: str,
    name: str,
    overrides: list[str],
    earlier: str | None,
    typed_in: str = "",
) -> str:
    """Opens the parent run, or an earlier one again, and returns its id.

    Where the earlier one was deleted, a new one takes over the trials that are left of it.
    """
    experiment = open_store(tracking)
    given = {
        **tags.tags_of_user(tracking.tags),
        tags.ROLE: "sweep",
        tags.FOLDER: shorten_place(folder),
        tags.STUDY: study,
        tags.OVERRIDES: remember_overrides(overrides),
        tags.TYPED_IN: typed_in,
        tags.NOTE: f"A sweep over {plain_words(name)}. It runs.",
        tags.SOURCE_NAME: SOURCE_NAME,
        **process_tags(),
        **environment_tags(),
    }
    if earlier is not None and is_active(earlier):
        mlflow.start_run(run_id=earlier)
        mlflow.set_tags(given)
        _forget_end(earlier)
        return earlier
    run = mlflow.start_run(experiment_id=experiment, run_name=name, tags=given)
    mlflow.log_params({"model.name": model_name, "study": study})
    if earlier is not None:
        _take_over(earlier, run.info.run_id)
    return run.info.run_id


def _forget_end(run_id: str) -> None:
    """Removes what a run says of how it ended before."""
    client = MlflowClient()
    for key in {tags.ERROR, tags.INTERRUPTED} & client.get_run(run_id).data.tags.keys():
        client.delete_tag(run_id, key)


def is_active(run_id: str) -> bool:
    """Whether a run is in the store, and not deleted."""
    try:
        return MlflowClient().get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code not in ABSENT:  # whether it is there is not known
            raise
        return False


def _take_over(earlier: str, run_id: str) -> None:
    """Moves the trials of a sweep's deleted run below another, as far as they are still there."""
    trials = _trials_left(earlier)
    for trial in trials:
        MlflowClient().set_tag(trial.run_id, tags.PARENT_RUN, run_id)
    print(
        f"note: the study's run {earlier} is gone; a new one takes over the {len(trials)} trials"
        " that are left of it",
        file=sys.stderr,
    )


def _trials_left(root_run_id: str) -> list[TrackedTrial]:
    """Trials of a sweep, none where the store has never heard of it."""
    try:
        return read_trials(root_run_id)
    except SettingError:
        return []


def start_trial(
    tracking: TrackingSettings,
    folder: Path,
    number: int | None,
    parent: str | None,
    *,
    name: str,
    overrides: list[str],
    device: str,
    params: Mapping[str, str],
    typed_in: str = "",
) -> None:
    """Opens a trial's run, nested under its sweep's when there is one.

    `device` is what `machine.device.describe_device` calls it, `params` are the settings by dotted
    name, `typed_in` is the folder of the command.

    Raises:
        ConnectionError: the store does not answer, for longer than a hiccup lasts.
    """
    experiment = _reopen_store(tracking)
    given = {
        **tags.tags_of_user(tracking.tags),
        tags.ROLE: "trial",
        tags.FOLDER: shorten_place(folder),
        tags.OVERRIDES: remember_overrides(overrides),
        tags.TYPED_IN: typed_in,
        tags.JOB_NUMBER: str(number),
        tags.DEVICE: device,
        tags.NOTE: describe_start(params),
        tags.SOURCE_NAME: SOURCE_NAME,
        **process_tags(),
        **environment_tags(),
    }
    try_again(
        lambda: mlflow.start_run(
            experiment_id=experiment,
            run_name=name,
            nested=parent is not None,
            parent_run_id=parent,
            tags=given,
        )
    )
    try_again(lambda: mlflow.log_params(dict(params)))


def _reopen_store(tracking: TrackingSettings) -> str:
    """The experiment's id in a store that was there when the command began."""
    try:
        return try_again(lambda: open_store(tracking), also=(SettingError,))
    except SettingError as error:
        raise ConnectionError(str(error)) from None


def is_in_trial() -> bool:
    """Whether this process has a trial's run open."""
    run = mlflow.active_run()
    return run is not None and run.data.tags.get(tags.ROLE) == "trial"


def finished_metrics(root_run_id: str) -> dict[int, dict[str, float]]:
    """Metrics of a sweep's finished trials by number."""
    return {
        trial.number: trial.metrics
        for trial in _trials_left(root_run_id)
        if trial.status == "FINISHED"
    }


def environment_tags() -> dict[str, str]:
    """Library versions, the git commit, and the GPUs that this process is shown."""
    names = ("torch", "transformers", "mlflow", "optuna", "hydra-core", "prune-exp")
    versions = {name: installed_version(name) or "unknown" for name in names}
    versions["python"] = sys.version.split()[0]
    found = {f"{tags.VERSION_PREFIX}{name}": version for name, version in versions.items()}
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    shown = {tags.VISIBLE_GPUS: gpus} if gpus else {}
    return found | {tags.GIT_COMMIT: _git_commit()} | shown


def _git_commit() -> str:
    """The commit of this package's checkout, `-dirty` after it where files differ from it.

    `none` where the package is not in a checkout of its own, or where there is no git.
    """
    module = Path(__file__)
    try:
        tracked = _ask_git("ls-files", "--error-unmatch", module.name, folder=module.parent)
        commit = _ask_git("rev-parse", "HEAD", folder=module.parent)
        changed = _ask_git("status", "--porcelain", "--untracked-files=no", folder=module.parent)
    except OSError:
        return "none"
    if tracked is None or commit is None:
        return "none"
    return f"{commit}-dirty" if changed else commit


def _ask_git(*arguments: str, folder: Path) -> str | None:
    """What git says in a folder; None where it refuses.

    Raises:
        OSError: git is not installed.
    """
    asked = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() if asked.returncode == 0 else None


def log_result(result: TrialResult, folder: Path) -> None:
    """Logs everything a trial found to the open run, again from the start after a hiccup."""
    try_again(lambda: _log_result(result, folder))


def _log_result(result: TrialResult, folder: Path) -> None:
    flat = flatten_result(result)
    _log_texts(result)
    log_linked(_active_run_id(), flat, result.texts)
    mlflow.log_dict(flat, "metrics.json")
    mlflow.log_text(json.dumps(result.plan.to_json(), separators=(",", ":")), "plan.json")
    mlflow.log_dict(result.plan.agreement, "voter_agreement.json")
    mlflow.log_dict(result.machine if result.speed is None else result.speed.facts, "machine.json")
    if result.speed is not None:
        mlflow.log_text(json.dumps(list(result.speed.samples), indent=1), "samples.json")
        mlflow.set_tags(_measurement_tags(result.speed.facts))
    _log_tables(result)
    _log_curve(result)
    keep_files(_active_run_id(), folder)
    mlflow.set_tags(  # last: whoever finds them knows that the result is whole
        {
            tags.MODEL_DIGEST: result.model_digest,
            tags.RESERVED_DIGEST: result.reserved_digest,
            tags.CHECKPOINT: shorten_place(folder / "model"),
            tags.WEIGHTS_SHA256: result.weights_sha256,
            tags.NOTE: end_note(_active_run_id(), flat),
            tags.PHASE: "finished",
        }
    )


def log_stopped(stopped: StoppedTrial, limits: Mapping[str, float]) -> dict[str, float]:
    """Logs what is known of a trial that was ended early, to the open run; returns its metrics."""
    flat = flatten_stopped(stopped)

    def log() -> None:
        mlflow.log_metrics(flat)
        mlflow.log_dict(flat, "metrics.json")
        why = describe_stop(flat, limits)
        note = end_note(_active_run_id(), flat, stopped=why)
        known = {tags.MODEL_DIGEST: stopped.model_digest, tags.NOTE: note}
        mlflow.set_tags(known | {tags.PHASE: "stopped"})
        mlflow.set_tag(tags.STOPPED, why[: tags.LONGEST])  # last

    try_again(log)
    return flat


def _log_tables(result: TrialResult) -> None:
    """Answers and documents as tables; MLflow's own call would append to an earlier try's."""
    samples = () if result.speed is None else result.speed.samples
    judged = () if result.quality is None else result.quality.by_document
    tables = {
        TABLE: tabulate_answers(samples),
        FLIPPED: tabulate_flipped(result.tasks),
        DOCUMENTS: tabulate_documents(judged),
    }
    known = {name: table for name, table in tables.items() if table is not None}
    for name, table in known.items():
        rows = list(zip(*table.values(), strict=True))
        mlflow.log_dict({"columns": list(table), "data": rows}, name)
    if known:
        listed = [{"path": name, "type": "table"} for name in known]
        mlflow.set_tag(tags.TABLES, json.dumps(listed))


def keep_files(run_id: str, folder: Path) -> None:
    """Stores what Hydra wrote of a run: its config and its log."""
    client = MlflowClient()
    for path in sorted((folder / ".hydra").glob("*.yaml")) + sorted(folder.glob("multirun.yaml")):
        client.log_artifact(run_id, str(path), "hydra")
    for path in sorted(folder.glob("*.log")):
        client.log_artifact(run_id, str(path))


def _log_curve(result: TrialResult) -> None:
    """The losses of training after pruning, by step, that were not sent while it went on."""
    curve = () if result.recovery is None else result.recovery.curve
    known = MlflowClient().get_metric_history(_active_run_id(), VALIDATION_LOSS) if curve else []
    sent = {one.step for one in known}
    for step, loss, validation in curve:
        if step not in sent:
            losses = {"recovery/train_loss": loss, VALIDATION_LOSS: validation}
            mlflow.log_metrics(losses, step=step)


def _measurement_tags(facts: dict[str, Any]) -> dict[str, str]:
    """What a timing depends on, beside the versions and the commit that every run has."""
    return {f"{tags.PREFIX}{name}": str(facts[name]) for name in tags.MEASUREMENT_FACTS}


def _log_texts(result: TrialResult) -> None:
    """Dataset inputs; the text itself is not stored, its digest identifies it."""
    for text in result.texts:
        _log_input(make_dataset(text), text.role)


def _log_input(dataset: Any, role: str) -> None:
    """Logs a dataset; when two trials store the same new one at once, MLflow refuses the second."""

    for attempt in range(INPUT_ATTEMPTS):
        try:
            mlflow.log_input(dataset, context=role)
            return
        except MlflowException:
            if attempt == INPUT_ATTEMPTS - 1:
                raise
            time.sleep(0.2 * (attempt + 1))


def end_trial(error: BaseException | None, folder: Path | None = None) -> None:
    """Closes the trial's run as FINISHED, or as FAILED with the reason in a tag.

    Of a failed one the config and the log in `folder` are kept.

    Raises:
        Exception: the store could not be told; for this process the run is closed all the same.
    """
    run_id = _active_run_id()
    try:
        if error is not None:
            try_again(lambda: _log_error(error))
            with suppress(Exception):
                keep_files(run_id, folder or Path("/nonexistent"))
        try_again(lambda: MlflowClient().set_terminated(run_id, _status_of(error)))
    finally:
        leave_trial(error)


def leave_trial(error: BaseException | None) -> None:
    """Closes the trial's run for this process, whether the store answers or not."""
    with suppress(Exception):  # MLflow forgets the run first and tells the store then
        mlflow.end_run(_status_of(error))


def _status_of(error: BaseException | None) -> str:
    return "FAILED" if error is not None else "FINISHED"


def _log_error(error: BaseException) -> None:
    reason = redact(f"{type(error).__name__}: {error}")
    note = end_note(_active_run_id(), {}, reason)
    mlflow.set_tags({tags.ERROR: reason[: tags.LONGEST], tags.NOTE: note})
    notes = getattr(error, "__notes__", [])
    if notes:
        mlflow.log_text(redact("\n".join(notes)), "traceback.txt")


def log_outcome(root_run_id: str, trials: Sequence[TrackedTrial], best: Choice | None) -> None:
    """Gives a sweep's own run what it has come to, so that sweeps can be compared.

    The step is the number of trials that have ended, so that its charts show how the sweep went.
    What is the same as before is not written again. What an earlier best trial had and this one
    has not is no number from then on: MLflow keeps every metric.
    """
    client = MlflowClient()
    known = client.get_run(root_run_id).data.metrics
    found = sweep_outcome(trials, best)
    changed = {key: value for key, value in found.items() if known.get(key) != value}
    for key in OF_THE_BEST:
        if key not in found and math.isfinite(known.get(key, math.nan)):
            changed[key] = math.nan
    ended = sum(trial.status != "RUNNING" for trial in trials)
    now = int(1000 * time.time())
    if changed:
        metrics = [Metric(key, value, now, ended) for key, value in changed.items()]
        client.log_batch(root_run_id, metrics=metrics)
    if best is not None:
        client.set_tag(root_run_id, tags.BEST_RUN, best.trial.run_id)


def show_outcome(root_run_id: str, rule: str) -> None:
    """The same while the sweep goes on; a store that does not answer hears of it at the end."""
    with suppress(Exception):
        trials = read_trials(root_run_id)
        log_outcome(root_run_id, trials, choose_best(trials, rule))


def log_figures(run_id: str, figures: Mapping[str, float]) -> None:
    """Gives a run figures, or says that the store did not take them: no trial depends on them."""
    client = MlflowClient()
    try:
        for key, value in figures.items():
            client.log_metric(run_id, key, value)
    except Exception as error:
        print(f"prune_exp: {', '.join(figures)} not stored: {error}", file=sys.stderr)


def log_file(run_id: str, path: Path, artifact_path: str | None = None) -> None:
    """Stores a file with a run."""
    MlflowClient().log_artifact(run_id, str(path), artifact_path)


def log_text(run_id: str, text: str, name: str) -> None:
    """Stores a text with a run as a file."""
    MlflowClient().log_text(run_id, text, name)


def end_open_runs(status: str) -> None:
    """Closes every run that this process still has open, the innermost first."""
    while mlflow.active_run() is not None:
        mlflow.end_run(status)


def leave_open_runs(status: str) -> None:
    """The same, whether the store can be told or not; the next start ends what it was not told."""
    while mlflow.active_run() is not None:
        with suppress(Exception):  # MLflow forgets the run first and tells the store then
            mlflow.end_run(status)


def active_run_id() -> str | None:
    """The run that this process has open, the innermost one."""
    run = mlflow.active_run()
    return run.info.run_id if run else None


def _active_run_id() -> str:
    run_id = active_run_id()
    assert run_id is not None
    return run_id


def set_note(run_id: str, text: str) -> None:
    """Writes the description that a run has on its page in the MLflow UI."""
    MlflowClient().set_tag(run_id, tags.NOTE, text)


def address_of_report(run_id: str) -> str:
    """Where MLflow's pages show a run's report, after the address of its server."""
    return page_of_report(MlflowClient().get_run(run_id).info.experiment_id, run_id)
