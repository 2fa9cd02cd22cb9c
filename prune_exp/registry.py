"""Store the best model's weights and register them as a candidate."""

import logging
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

from prune_exp.settings import Settings
from prune_exp.tracked import CANDIDATE, MODEL_URI, PREFIX, TrackedTrial


def registered_name(settings: Settings) -> str:
    """The model's name in the registry."""
    return settings.tracking.registered_model or f"pruned-{settings.model.name}"


def checkpoint_of(trial: TrackedTrial) -> Path:
    """Where a trial left its checkpoint until the sweep ends."""
    return Path(trial.tags.get(f"{PREFIX}checkpoint", "/nonexistent"))


def can_store(trial: TrackedTrial) -> bool:
    """Whether the trial's weights are still there, or stored already."""
    return MODEL_URI in trial.tags or checkpoint_of(trial).is_dir()


def log_model(trial: TrackedTrial, checkpoint: Path) -> str:
    """Stores a checkpoint with its run and returns the logged model's URI, once for each trial.

    A run that had ended keeps its time of end.

    The artifact's `model` folder stays a stock Hugging Face checkpoint.
    """
    import mlflow
    from mlflow import transformers as flavor  # pyright: ignore[reportPrivateImportUsage]
    from mlflow.tracking import MlflowClient

    from prune_exp.models import load, load_tokenizer, quiet

    if MODEL_URI in trial.tags:
        return trial.tags[MODEL_URI]
    logging.getLogger("mlflow.transformers").setLevel(logging.ERROR)
    parts = {"model": load(checkpoint), "tokenizer": load_tokenizer(checkpoint)}
    requirements = [f"{name}=={version(name)}" for name in ("torch", "transformers", "accelerate")]
    active = mlflow.active_run()
    inside = active is not None and active.info.run_id == trial.run_id
    client = MlflowClient()
    ended = client.get_run(trial.run_id).info.end_time
    run = nullcontext() if inside else mlflow.start_run(run_id=trial.run_id, nested=True)
    with quiet(), run:
        info = flavor.log_model(
            transformers_model=parts,
            name="model",
            task="text-generation",
            pip_requirements=requirements,
            input_example=None,
        )
    client.set_tag(trial.run_id, MODEL_URI, info.model_uri)
    if not inside:
        client.set_terminated(trial.run_id, "FINISHED", ended)
    return info.model_uri


def register(trial: TrackedTrial, model_uri: str, name: str) -> str:
    """Registers a logged model as a version with the alias `candidate`; returns the version.

    A trial that was registered before keeps its version; only the alias moves.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    known = client.search_model_versions(f"name = '{name}' and run_id = '{trial.run_id}'")
    if known:
        client.set_registered_model_alias(name, CANDIDATE, known[0].version)
        return str(known[0].version)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    facts = {
        "run_id": trial.run_id,
        "weights_sha256": trial.tags[f"{PREFIX}weights_sha256"],
        "sparsity": f"{trial.metrics['sparsity_achieved']:.4f}",
    }
    for key in ("speedup", "perplexity_ratio"):
        if key in trial.metrics:
            facts[key] = f"{trial.metrics[key]:.3f}"
    created = client.create_model_version(
        name,
        source=model_uri,
        run_id=trial.run_id,
        tags=facts,
        model_id=model_uri.removeprefix("models:/"),
    )
    client.set_registered_model_alias(name, CANDIDATE, created.version)
    return str(created.version)
