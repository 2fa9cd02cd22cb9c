"""Tags every MLflow run that a Hydra job starts, in any project where this package is installed.

MLflow finds it by the entry-point group `mlflow.run_context_provider` and asks it whenever a run
starts, so it imports nothing that is not loaded yet and never raises.
"""

import sys
from typing import Any

from prune_exp.settings.redaction import redact, redact_override
from prune_exp.tracking import tags as keys

MOST_CHARACTERS = 4000
OUR_CALLBACK = "prune_exp.trial.lifecycle.Lifecycle"


class HydraContext:
    """MLflow's run context provider; it need not derive from MLflow's class."""

    def in_context(self) -> bool:
        """Whether a Hydra job is running in this process."""
        try:
            return _hydra_config() is not None
        except Exception:
            return False

    def tags(self) -> dict[str, str]:
        """The job's name, number, overrides and folder, without anything secret."""
        try:
            hydra = _hydra_config()
            return _tags_of(hydra) if hydra is not None else {}
        except Exception:
            return {}


def _hydra_config() -> Any:
    """Hydra's own config of the running job, or None."""
    module = sys.modules.get("hydra.core.hydra_config")
    if module is None or not module.HydraConfig.initialized():
        return None
    return module.HydraConfig.get()


def _tags_of(hydra: Any) -> dict[str, str]:
    from omegaconf import OmegaConf

    sweeps = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    overrides = [redact_override(str(one)) for one in hydra.overrides.task]
    tags = {
        keys.JOB_NAME: str(hydra.job.name),
        keys.HYDRA_OVERRIDES: " ".join(overrides),
        keys.RUN_DIR: str(hydra.runtime.output_dir),
    }
    if sweeps:
        tags[keys.SWEEP_DIR] = str(hydra.sweep.dir)
    if _is_ours(hydra):
        tags = {}
    if sweeps and not OmegaConf.is_missing(hydra.job, "num"):
        tags[keys.JOB_NUMBER] = str(hydra.job.num)
    return {key: redact(value)[:MOST_CHARACTERS] for key, value in tags.items()}


def _is_ours(hydra: Any) -> bool:
    """Whether a job is a trial of ours, whose run says all this in tags of its own."""
    callbacks = hydra.get("callbacks") or {}
    return any(str(one.get("_target_")) == OUR_CALLBACK for one in callbacks.values())
