"""What MLflow links to a trial: the texts it read, its model, and the dense one beside it."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.data.dataset_source import DatasetSource  # pyright: ignore[reportMissingImports]
from mlflow.data.meta_dataset import MetaDataset  # pyright: ignore[reportMissingImports]
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric
from mlflow.tracking import MlflowClient

from prune_exp.text.records import TextUsed
from prune_exp.tracking import tags
from prune_exp.tracking.figures import KEY_FIGURES
from prune_exp.tracking.processes import process_tags
from prune_exp.tracking.read import TrackedTrial

JUDGED_BY = "heldout"
LONGEST_SOURCE = 450
"""Characters of a text's source in its name, of which MLflow takes 500."""
"""The role of the text that quality is measured on."""
QUALITY = re.compile(
    r"(?:dense|pruned)/(?:bits_per_byte|perplexity|bytes_per_token|nll.*)"
    r"|domain/.*|(?:worst_)?perplexity_ratio.*|kl_to_dense.*|top1_agreement.*|quality_.*"
    r"|bits_per_byte_increase|heldout_.*"
)
"""Metrics that are measured on that text."""
SAME = {figure.key: figure.nothing for figure in KEY_FIGURES} | {
    "worst_perplexity_ratio": 1.0,
    "quality_maintained": 1.0,
    "params_pruned_pct": 0.0,
    "sparsity_achieved": 0.0,
}
"""Figures of the dense model against itself."""


class TextSource(DatasetSource):
    """Files of text by name; MLflow keeps no text."""

    def __init__(self, files: str, tokens: int, blocks: int) -> None:
        self.files = files
        self.tokens = tokens
        self.blocks = blocks

    @staticmethod
    def _get_source_type() -> str:
        return "text_files"

    def load(self, **_: Any) -> Any:
        """Raises NotImplementedError: the digest identifies the text, which is not stored."""
        raise NotImplementedError(f"the text of {self.files} is not kept")

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        del raw_source
        return False

    @classmethod
    def _resolve(cls, raw_source: Any) -> "TextSource":
        raise NotImplementedError(str(raw_source))

    def to_dict(self) -> dict[Any, Any]:
        """What the store keeps."""
        return {"files": self.files, "tokens": self.tokens, "blocks": self.blocks}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> "TextSource":
        """The source again."""
        return cls(**source_dict)


def make_dataset(text: TextUsed) -> MetaDataset:
    """A text as MLflow knows data: where it is from and its digest, nothing of itself."""
    source = TextSource(text.source, text.tokens, text.blocks)
    name = f"{text.source[:LONGEST_SOURCE]} ({text.role})"
    return MetaDataset(source, name=name, digest=text.digest)


def model_of_trial(run_id: str) -> LoggedModel:
    """The logged model of a trial, made without files where there is none yet.

    One that a killed process left without its files is the same: it is filled in place.
    """
    client = MlflowClient()
    run = client.get_run(run_id)
    asked = f"source_run_id = '{run_id}'"
    experiment = run.info.experiment_id
    known = client.search_logged_models([experiment], filter_string=asked)
    model = known[0] if known else _make_model(run, "pruned", "trial")
    linked = [one.model_id for one in (run.outputs.model_outputs if run.outputs else [])]
    if model.model_id not in linked:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model


def _make_model(run: Any, start: str, role: str, **more: str) -> LoggedModel:
    client = MlflowClient()
    name = re.sub(r"[/:.%\"']", "_", f"{start}-{run.data.params.get('model.name', 'model')}")
    made = client.create_logged_model(
        run.info.experiment_id,
        name=name,
        source_run_id=run.info.run_id,
        params=dict(run.data.params),
        tags={tags.ROLE: role, tags.EXTERNAL_MODEL: "true", **more},
        model_type="text-generation",
    )
    return client.finalize_logged_model(made.model_id, "READY")


def log_linked(run_id: str, figures: Mapping[str, float], texts: Sequence[TextUsed]) -> None:
    """Logs a trial's figures for its run and its model, those of quality for their text too."""
    model = model_of_trial(run_id)
    judged = next((make_dataset(one) for one in texts if one.role == JUDGED_BY), None)
    now = int(1000 * time.time())

    def metric_of(key: str, value: float) -> Metric:
        data = judged if QUALITY.fullmatch(key) else None
        return Metric(
            key,
            value,
            now,
            0,
            model_id=model.model_id,
            dataset_name=None if data is None else data.name,
            dataset_digest=None if data is None else data.digest,
            run_id=run_id,
        )

    metrics = [metric_of(key, value) for key, value in figures.items()]
    MlflowClient().log_batch(run_id, metrics=metrics)


def log_dense(root_run_id: str, trial: TrackedTrial) -> None:
    """Gives a sweep a row and a model for the dense model, with the figures of a trial's run."""
    client = MlflowClient()
    root = client.get_run(root_run_id)
    asked = f"tags.`{tags.PARENT_RUN}` = '{root_run_id}' and tags.`{tags.ROLE}` = '{tags.DENSE}'"
    known = client.search_runs([root.info.experiment_id], asked, max_results=1)
    name = trial.params.get("model.name", "model")
    run_id = known[0].info.run_id if known else _start_dense(root, name)
    found = {key: value for key, value in trial.metrics.items() if key.startswith("dense/")}
    found |= {key: value for key, value in SAME.items() if key in trial.metrics}
    if "params_total" in trial.metrics:
        found["params_total"] = found["params_active"] = trial.metrics["params_total"]
    now = int(1000 * time.time())
    run = client.get_run(run_id)
    model = _dense_model(run, trial.tags.get(tags.MODEL_DIGEST, ""))
    outputs = [one.model_id for one in (run.outputs.model_outputs if run.outputs else [])]
    if model.model_id not in outputs:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    changed = {key: v for key, v in found.items() if run.data.metrics.get(key) != v}
    metrics = [Metric(k, v, now, 0, model_id=model.model_id) for k, v in changed.items()]
    if metrics:
        client.log_batch(run_id, metrics=metrics)
    client.set_terminated(run_id, "FINISHED")


def _start_dense(root: Any, name: str) -> str:
    client = MlflowClient()
    note = (
        f"The dense model `{name}` as it was measured beside the best trial: the row that all"
        " others are compared with."
    )
    given = {tags.PARENT_RUN: root.info.run_id, tags.ROLE: tags.DENSE, tags.NOTE: note}
    made = client.create_run(
        root.info.experiment_id, tags=given | process_tags(), run_name=f"dense {name}"
    )
    client.log_param(made.info.run_id, "model.name", name)
    return made.info.run_id


def _dense_model(run: Any, digest: str) -> LoggedModel:
    """The one logged model of a dense model in an experiment."""
    asked = f"tags.`{tags.ROLE}` = '{tags.DENSE}' and tags.`{tags.MODEL_DIGEST}` = '{digest}'"
    known = MlflowClient().search_logged_models([run.info.experiment_id], filter_string=asked)
    more = {tags.MODEL_DIGEST: digest}
    return known[0] if known else _make_model(run, "dense", tags.DENSE, **more)
