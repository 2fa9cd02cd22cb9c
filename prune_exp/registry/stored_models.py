"""Store the best model's weights and register them as a candidate."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlflow import transformers as flavor
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from prune_exp.machine.cache import folder_sha256, remove_below
from prune_exp.model.loading import load_model, load_tokenizer, silence_transformers
from prune_exp.registry.card import summarize_trial, write_card
from prune_exp.registry.signing import SIGNATURE, sign_folder
from prune_exp.registry.wrapper import CHECKPOINT, REQUIRED, SERVED, wrapper_sha256
from prune_exp.settings.choices import check_name
from prune_exp.tracking import tags
from prune_exp.tracking.linked import model_of_trial
from prune_exp.tracking.places import full_place
from prune_exp.tracking.read import CANDIDATE, TrackedTrial, read_plan

DESCRIPTION = (
    "Pruned language models, a version for each that was stored. Alias candidate: the latest best"
    " one; champion: the one that passed all gates. Each version's source run has the report."
)
SHARD_SIZE = "MLFLOW_HUGGINGFACE_MODEL_MAX_SHARD_SIZE"


def registered_name(wanted: str | None, model_name: str) -> str:
    """A model's name in the registry: `tracking.registered_model`, or one by `model.name`.

    Raises:
        SettingError: the registry could not look such a name up again.
    """
    name = wanted or f"pruned-{model_name}"
    check_name("tracking.registered_model", name)
    return name


def checkpoint_of(trial: TrackedTrial) -> Path:
    """Where a trial left its checkpoint until the sweep ends."""
    return full_place(trial.tags.get(tags.CHECKPOINT, "/nonexistent"))


def discard_checkpoint(trial: TrackedTrial, roots: list[Path]) -> None:
    """Removes what a trial left, unless its tag points anywhere but below one of the roots."""
    remove_below(checkpoint_of(trial), roots)


def can_store(trial: TrackedTrial) -> bool:
    """Whether the trial's weights are still there, or stored already."""
    return tags.MODEL_URI in trial.tags or checkpoint_of(trial).is_dir()


def log_model(trial: TrackedTrial, checkpoint: Path, signing_key: str | None = None) -> str:
    """Stores a checkpoint with its run and returns the logged model's URI, once for each trial.

    The artifact's `model` folder is a byte-for-byte copy: a stock Hugging Face checkpoint with its
    tokenizer, model card, licence note and plan; with a key, a signature over it and all that lies
    beside it is there too. Neither the run's status nor its time of end
    changes.

    Raises:
        SettingError: the key cannot be used.
    """
    if tags.MODEL_URI in trial.tags:
        return trial.tags[tags.MODEL_URI]
    plan = read_plan(trial.run_id)
    card = write_card(trial, plan, checkpoint)
    if plan is not None:
        (checkpoint / "plan.json").write_text(json.dumps(plan.to_json()), encoding="utf-8")
    served_as = trial.params.get("tracking.serve_as", "text")
    uri, beside = _log_checkpoint(trial.run_id, checkpoint, card, served_as, signing_key)
    client = MlflowClient()
    client.set_tag(trial.run_id, tags.FILES_SHA256, folder_sha256(checkpoint))
    client.set_tag(trial.run_id, tags.WRAPPER_SHA256, beside)
    client.set_tag(trial.run_id, tags.MODEL_URI, uri)
    return uri


def _log_checkpoint(
    run_id: str, checkpoint: Path, card: Any, served_as: str, signing_key: str | None
) -> tuple[str, str]:
    """Stores a checkpoint as the trial's logged model, loadable by transformers and pyfunc.

    Returns the model's URI and the digest of all files beside the checkpoint. The run is not opened
    for it, and a model that was cut off is filled again in place. MLflow writes the weights anew,
    into files of the same names; the checkpoint's own replace them before anything is stored.
    """
    client = MlflowClient()
    model = model_of_trial(run_id)
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as scratch:
        stage = Path(scratch) / "stage"
        _save_wrapped(model, run_id, checkpoint, card, served_as, stage)
        shutil.rmtree(stage / CHECKPOINT)
        link_or_copy(checkpoint / "LICENSE.txt", stage / "LICENSE.txt")
        beside = wrapper_sha256(stage)
        shutil.copytree(checkpoint, stage / CHECKPOINT, copy_function=link_or_copy)
        if signing_key is not None:
            sign_folder(stage, signing_key, Path(scratch) / SIGNATURE)
            shutil.move(Path(scratch) / SIGNATURE, stage / SIGNATURE)
        client.log_model_artifacts(model.model_id, str(stage))
    if tags.EXTERNAL_MODEL in model.tags:
        client.delete_logged_model_tag(model.model_id, tags.EXTERNAL_MODEL)
    client.finalize_logged_model(model.model_id, "READY")
    return f"models:/{model.model_id}", beside


def _save_wrapped(
    model: LoggedModel, run_id: str, checkpoint: Path, card: Any, served_as: str, stage: Path
) -> None:
    """Writes what MLflow keeps of a model, its own copy of the weights included."""
    logging.getLogger("mlflow.transformers").setLevel(logging.ERROR)
    with silence_transformers(), _unsharded():
        flavor.save_model(
            {"model": load_model(checkpoint), "tokenizer": load_tokenizer(checkpoint)},
            str(stage),
            model_card=card,
            **_describe_serving(served_as),
            pip_requirements=[f"{one}=={version(one).partition('+')[0]}" for one in REQUIRED],
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                run_id=run_id,
                model_uuid=model.model_id,
                model_id=model.model_id,
            ),
        )


def _describe_serving(served_as: str) -> dict[str, Any]:
    """What MLflow is told of a stored model's input and output; texts are the same every time."""
    if served_as != "text":
        return {"task": f"llm/v1/{served_as}", "model_config": dict(SERVED)}
    text = Schema([ColSpec(DataType.string)])
    params = ParamSchema(
        [
            ParamSpec("max_new_tokens", DataType.integer, SERVED["max_new_tokens"]),
            ParamSpec("do_sample", DataType.boolean, SERVED["do_sample"]),
        ]
    )
    return {
        "task": "text-generation",
        "signature": ModelSignature(inputs=text, outputs=text, params=params),
        "input_example": ["The river"],
    }


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A second name for a file, or a copy where the file system has only one for each."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def _unsharded() -> Iterator[None]:
    """Has MLflow cut weights into files where `save_pretrained` does."""
    before = os.environ.get(SHARD_SIZE)
    os.environ[SHARD_SIZE] = "50GB"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SHARD_SIZE]
        else:
            os.environ[SHARD_SIZE] = before


def register_candidate(trial: TrackedTrial, model_uri: str, name: str) -> str:
    """Registers a logged model as a version with the alias `candidate`; returns the version."""
    version = ensure_version(trial, model_uri, name)
    MlflowClient().set_registered_model_alias(name, CANDIDATE, version)
    return version


def ensure_version(trial: TrackedTrial, model_uri: str, name: str) -> str:
    """The version that a trial's model has, made when it has none."""
    client = MlflowClient()
    known = known_version(trial, name)
    if known is not None:
        return known
    try:
        client.create_registered_model(name, description=DESCRIPTION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(
        name,
        source=model_uri,
        run_id=trial.run_id,
        tags=_version_tags(trial),
        description=summarize_trial(trial),
        model_id=model_uri.removeprefix("models:/"),
    )
    return str(created.version)


def known_version(trial: TrackedTrial, name: str) -> str | None:
    """The version under which a trial's model is registered, if it is."""
    known = MlflowClient().search_model_versions(f"name = '{name}' and run_id = '{trial.run_id}'")
    return str(known[0].version) if known else None


def _version_tags(trial: TrackedTrial) -> dict[str, str]:
    facts = {
        "run_id": trial.run_id,
        "weights_sha256": trial.tags[tags.WEIGHTS_SHA256],
        "sparsity": f"{trial.metrics['sparsity_achieved']:.4f}",
    }
    for key in ("speedup", "perplexity_ratio"):
        if key in trial.metrics:
            facts[key] = f"{trial.metrics[key]:.3f}"
    return facts
