"""A Hydra callback for other projects: MLflow runs around their jobs, nothing to write for it."""

from typing import Any

from hydra.experimental.callback import Callback


class MlflowRuns(Callback):
    """Gives every job an MLflow run, below one for the sweep; attributes travel to workers."""

    def __init__(self, experiment: str | None = None) -> None:
        self.experiment = experiment
        self.parent: str | None = None
        self.run: str | None = None

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Opens the sweep's run."""
        from prune_exp.tracking.foreign_runs import open_run

        del kwargs
        self.parent = open_run(self.experiment, str(config.hydra.job.name), {})

    def on_job_start(self, config: Any, **kwargs: Any) -> None:
        """Opens the job's run, with the job's config as params."""
        from omegaconf import OmegaConf, open_dict

        from prune_exp.settings.params import flatten_values
        from prune_exp.tracking.foreign_runs import open_run

        del kwargs
        plain = config.copy()
        OmegaConf.set_readonly(plain, False)
        with open_dict(plain):
            del plain["hydra"]
        values: Any = OmegaConf.to_container(plain, resolve=True)
        hydra = config.hydra
        number = "" if self.parent is None else f" {hydra.job.num}"
        name = f"{hydra.job.name}{number}"
        self.run = open_run(self.experiment, name, flatten_values(values), parent=self.parent)

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        """Closes the job's run with what it returned, or why it failed."""
        from prune_exp.tracking.foreign_runs import close_run

        del config, kwargs
        value = job_return._return_value
        error = value if isinstance(value, BaseException) else None
        if self.run is not None:
            close_run(self.run, value, error)
        self.run = None

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Closes the sweep's run."""
        from prune_exp.tracking.foreign_runs import close_run

        del config, kwargs
        if self.parent is not None:
            close_run(self.parent, None, None)
