"""Which stored model a promotion is about, and its files."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from prune_exp.machine.display import last_words
from prune_exp.registry.signing import SIGNATURE
from prune_exp.registry.stored_models import known_version, registered_name
from prune_exp.registry.wrapper import CHECKPOINT
from prune_exp.settings.command_schemas import PromoteSettings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import ModelSettings, TrackingSettings
from prune_exp.settings.params import restore_settings
from prune_exp.tracking import tags
from prune_exp.tracking.read import (
    ABSENT,
    CANDIDATE,
    LATEST,
    TrackedTrial,
    choose_as_then,
    find_latest,
    read_run,
    read_trials,
)

CHAMPION = "champion"
"""Alias of the version that passed the gates last."""
PREVIOUS = "previous"
"""Alias of the champion before it."""
MOST_NAMES = 5
"""Of models that a message lists."""
ADDED_BY_MLFLOW = "registered_model_meta"
"""What MLflow writes into a fetched copy of a registered model."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A stored model."""

    name: str
    """Its name in the registry."""
    version: str | None
    """None while it is stored but not registered."""
    trial: TrackedTrial
    folder: Path
    """Its stored checkpoint, fetched."""

    @property
    def root(self) -> Path:
        """The whole stored model: the checkpoint, and what MLflow keeps beside it."""
        return self.folder.parent

    @property
    def signature(self) -> Path:
        """The signature over the whole stored model, if there is one; fetched with it."""
        return _signature_of(self.root)


def choose_candidate(settings: PromoteSettings, scratch: Path) -> Candidate:
    """The model that the settings name, fetched into `scratch`.

    Without a run or a version it is the one that the latest sweep or trial made the candidate.

    Raises:
        SettingError: there is no such run, version or stored model.
    """
    if settings.version is not None and settings.run_id is not None:
        raise SettingError("run_id and version are both given; give one")
    if settings.version is not None:
        name = settings.tracking.registered_model or only_model()
        return at_version(name, str(settings.version), scratch)
    if settings.run_id is None:
        present = _latest_candidate(settings.tracking)
        if present is not None:
            return at_version(*present, scratch)
        return _best_of_latest(settings.tracking, scratch)
    latest = settings.run_id == LATEST
    run_id = find_latest(settings.tracking) if latest else settings.run_id
    return _best_of(run_id, settings.tracking.registered_model, scratch)


def _best_of_latest(tracking: TrackingSettings, scratch: Path) -> Candidate:
    """The best model of the latest sweep, under its own name.

    Raises:
        SettingError: another model was asked for.
    """
    run_id = _latest_sweep(tracking)
    found = _best_of(run_id, None, scratch)
    wanted = tracking.registered_model
    if wanted not in (None, found.name):
        raise SettingError(
            f"tracking.registered_model={wanted} has no candidate, and the latest sweep ({run_id})"
            f" is about {found.name}; say which model with version=NUMBER or run_id=RUN"
        )
    return found


def _best_of(run_id: str, wanted_name: str | None, scratch: Path) -> Candidate:
    """The model of the run that the sweep's own rule chose."""
    trials = read_trials(run_id)
    best = choose_as_then(trials)
    if best is None:
        raise SettingError(f"run_id={run_id} has no finished trial; give another run_id")
    if not best.feasible and best.trial.run_id != run_id:
        raise SettingError(
            f"no trial of run_id={run_id} met its search.constraints, so none is its best; name the"
            " trial that is meant with run_id=TRIAL"
        )
    trial = _require_stored(best.trial)
    name = registered_name(
        wanted_name
        or restore_settings(TrackingSettings, trial.params, "tracking").registered_model,
        restore_settings(ModelSettings, trial.params, "model").name,
    )
    version = known_version(trial, name)
    if version is not None:
        return at_version(name, version, scratch)
    folder = _fetch_checkpoint(trial.tags[tags.MODEL_URI], scratch)
    return Candidate(name=name, version=None, trial=trial, folder=folder)


def at_version(name: str, version: str, scratch: Path) -> Candidate:
    """A registered version, fetched into `scratch`.

    Raises:
        SettingError: it does not exist, or was not registered by a trial.
    """
    try:
        found = MlflowClient().get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        raise SettingError(
            f"version={version} of {name} is not in the registry; see the versions in the MLflow UI"
        ) from None
    if not found.run_id:
        raise SettingError(f"version={version} of {name} belongs to no run, so nothing vouches")
    (trial,) = read_trials(found.run_id)
    folder = _fetch_checkpoint(f"models:/{name}/{version}", scratch)
    return Candidate(name=name, version=version, trial=_require_stored(trial), folder=folder)


def only_model() -> str:
    """The name of the one registered model.

    Raises:
        SettingError: there is none, or there are several.
    """
    names = list_models()
    if not names:
        raise SettingError("no model is registered; run a sweep with tracking.register=true first")
    if len(names) > 1:
        shown = ", ".join(names[:MOST_NAMES])
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        raise SettingError(
            f"{len(names)} models are registered ({shown}{more}); say which with"
            " tracking.registered_model=NAME"
        )
    return names[0]


def list_models() -> list[str]:
    """Names of all registered models."""
    client = MlflowClient()
    found: list[str] = []
    page = None
    while True:
        models = client.search_registered_models(page_token=page)
        found += [model.name for model in models]
        page = models.token
        if not page:
            return found


def version_at(name: str, alias: str) -> str | None:
    """The version that an alias points at, if it points at one."""
    try:
        return str(MlflowClient().get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


def _latest_candidate(tracking: TrackingSettings) -> tuple[str, str] | None:
    """Name and version of the newest candidate that a run of the experiment has made, if any."""
    client = MlflowClient()
    known = client.get_experiment_by_name(tracking.experiment)
    if known is None:
        return None
    found: list[Any] = []
    wanted = tracking.registered_model
    for name in list_models() if wanted is None else [wanted]:
        version = version_at(name, CANDIDATE)
        if version is not None:
            found.append(client.get_model_version(name, version))
    ours = [
        one
        for one in found
        if one.run_id and _experiment_of(client, one.run_id) == known.experiment_id
    ]
    newest = max(ours, key=lambda one: one.creation_timestamp, default=None)
    return None if newest is None else (newest.name, str(newest.version))


def _experiment_of(client: MlflowClient, run_id: str) -> str | None:
    """The experiment of a run; None where the run is gone, or is not ours to read."""
    try:
        return client.get_run(run_id).info.experiment_id
    except MlflowException as error:
        if error.error_code not in (*ABSENT, "PERMISSION_DENIED"):
            raise
        return None


def _latest_sweep(tracking: TrackingSettings) -> str:
    client = MlflowClient()
    known = client.get_experiment_by_name(tracking.experiment)
    runs: list[Any] = []
    if known is not None:
        asked = f"tags.`{tags.ROLE}` = 'sweep'"
        runs = client.search_runs([known.experiment_id], asked, max_results=1)
    if not runs:
        raise SettingError(
            f"tracking.experiment={tracking.experiment} has no sweep; give run_id=... or run a"
            " sweep first"
        )
    return runs[0].info.run_id


def check_is_ours(name: str, version: str) -> None:
    """Raises SettingError for a version that no gate has judged and no trial has registered."""
    found = MlflowClient().get_model_version(name, version)
    is_ours = tags.PROMOTION in found.tags  # also where its run is gone
    if not is_ours and found.run_id:
        with suppress(SettingError):
            is_ours = read_run(found.run_id).tags.get(tags.ROLE) == "trial"
    if not is_ours:
        raise SettingError(
            f"version {version} of {name} was not registered by a trial, so its aliases are not"
            " touched; give the name of one that was with tracking.registered_model=NAME"
        )


def _require_stored(trial: TrackedTrial) -> TrackedTrial:
    if tags.WEIGHTS_SHA256 not in trial.tags or tags.MODEL_URI not in trial.tags:
        raise SettingError(
            f"run_id={trial.run_id} has no stored model; store them with tracking.log_models=best"
            " or all"
        )
    return trial


def _fetch_checkpoint(uri: str, scratch: Path) -> Path:
    target = scratch / uri.replace("/", "_")
    target.mkdir()
    try:
        root = Path(download_artifacts(artifact_uri=uri, dst_path=str(target)))
    except (MlflowException, OSError) as error:
        reason = _ask_for_place(uri) or f": {last_words(error)}"
        raise SettingError(f"{uri} cannot be fetched{reason}") from None
    if not (root / CHECKPOINT).is_dir():
        reason = _ask_for_place(uri) or ", so prune_exp did not store it"
        raise SettingError(f"{uri} holds no model folder{reason}")
    (root / ADDED_BY_MLFLOW).unlink(missing_ok=True)
    if (root / SIGNATURE).is_file():  # it is about all files, and none of them
        (root / SIGNATURE).rename(_signature_of(root))
    return root / CHECKPOINT


def _ask_for_place(uri: str) -> str:
    """Where a model's files should be, when that is a folder which is not there; else nothing."""
    try:
        place = _place_of(uri)
    except (MlflowException, OSError):
        place = ""
    if is_local_uri(place) and not Path(local_file_uri_to_path(place)).is_dir():
        return (
            f": its files are not at {local_file_uri_to_path(place)}; was the store moved? Put it"
            " back there, or link that folder to where it is now"
        )
    return ""


def _place_of(uri: str) -> str:
    """Where the store believes a model's files to be."""
    name, _, version = uri.removeprefix("models:/").partition("/")
    if version:
        uri = MlflowClient().get_model_version_download_uri(name, version)
        name = uri.removeprefix("models:/")
    if not uri.startswith("models:/"):
        return uri
    return str(MlflowClient().get_logged_model(name).artifact_location)


def _signature_of(root: Path) -> Path:
    return root.with_name(f"{root.name}.sig")
