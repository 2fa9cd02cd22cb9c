"""What happens when a sweep or a trial starts and ends: joins tracking, report and registry.

Hydra turns a callback's exceptions into warnings, so refusals leave as SystemExit.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from prune_exp.errors import explain
from prune_exp.settings import Settings, from_config

OUR_SWEEPER = "hydra_plugins.prune_exp.OptunaSweeper"


class Lifecycle(Callback):
    """Hydra's callback; its attributes travel to the launchers' workers."""

    def __init__(self) -> None:
        self.parent_run_id: str | None = None
        self.last_run_id: str | None = None

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Opens the parent run under a sweeper that does not announce its points."""
        del kwargs
        if config.hydra.sweeper._target_ != OUR_SWEEPER:
            with _Refusals():
                self._open_sweep(config, trials=0)

    def on_sweep_planned(self, config: Any, points: list[Any]) -> None:
        """Checks every point before anything is written, then opens the parent run."""
        from prune_exp.inputs import prepare

        with _Refusals():
            for point in points:
                prepare(_settings(point))
            self._open_sweep(points[0], trials=len(points), folder=Path(config.hydra.sweep.dir))

    def _open_sweep(self, config: Any, trials: int, folder: Path | None = None) -> None:
        from prune_exp.tracking import start_sweep

        where = (folder or Path(config.hydra.sweep.dir)).absolute()
        self.parent_run_id = start_sweep(_settings(config), where, trials)

    def on_job_start(self, config: Any, **kwargs: Any) -> None:
        """Opens the trial's run; a single trial is checked first."""
        from prune_exp.inputs import prepare
        from prune_exp.tracking import start_trial

        del kwargs
        with _Refusals():
            settings = _settings(config)
            if self.parent_run_id is None:
                prepare(settings)
            number = config.hydra.job.get("num") if self.parent_run_id else 0
            folder = Path(config.hydra.runtime.output_dir)
            start_trial(settings, folder, number, self.parent_run_id)

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        """Closes the trial's run."""
        import mlflow

        from prune_exp.tracking import end_trial

        del config, kwargs
        value = job_return._return_value
        error = value if isinstance(value, BaseException) else None
        if error is not None and self.parent_run_id is not None:
            print(f"prune_exp: trial failed: {error}", file=sys.stderr)
        run = mlflow.active_run()
        self.last_run_id = run.info.run_id if run else None
        end_trial(error)

    def on_run_end(self, config: Any, **kwargs: Any) -> None:
        """Reports on and registers a single trial."""
        del kwargs
        if self.last_run_id is not None:
            folder = Path(config.hydra.runtime.output_dir)
            with _Refusals():
                finish(_settings(config), self.last_run_id, folder)

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Reports on the sweep and registers its best model; exit code 1 if a trial failed."""
        del kwargs
        assert self.parent_run_id is not None
        folder = Path(config.hydra.sweep.dir).absolute()
        with _Refusals():
            settings = _settings(config, check=False)
            failed = finish(settings, self.parent_run_id, folder)
        if failed:
            raise SystemExit(1)


class _Refusals:
    """Turns an exception into one line on stderr and exit code 1; closes open runs."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if not isinstance(error, Exception):
            return
        if "mlflow" in sys.modules:
            from prune_exp.tracking import end_open_runs

            end_open_runs("FAILED")
        raise SystemExit(f"prune_exp: error: {explain(error)}") from error


def _settings(config: Any, *, check: bool = True) -> Settings:
    """The settings of a full config, Hydra's own node left out."""
    import copy

    from omegaconf import OmegaConf, open_dict, read_write

    plain = copy.deepcopy(config)
    with read_write(plain), open_dict(plain):
        del plain["hydra"]
    if check:
        return from_config(plain)
    settings = OmegaConf.to_object(plain)
    assert isinstance(settings, Settings)
    return settings


def finish(settings: Settings, root_run_id: str, folder: Path) -> int:
    """Chooses the best trial, stores and registers its model, writes the report.

    Returns:
        The number of trials that failed.
    """
    from prune_exp import registry
    from prune_exp.report import print_summary, write_report
    from prune_exp.tracked import PREFIX, choose_best, read_trials
    from prune_exp.tracking import end_open_runs

    trials = read_trials(root_run_id)
    failed = sum(trial.status != "FINISHED" for trial in trials)
    best = choose_best(trials, settings.tracking.best)
    version = None
    if best is not None:
        wanted = {"all": trials, "best": [best.trial], "none": []}[settings.tracking.log_models]
        for trial in wanted:
            if trial.status != "FINISHED":
                continue
            uri = registry.log_model(trial, Path(trial.tags[f"{PREFIX}checkpoint"]))
            if settings.tracking.register and trial.run_id == best.trial.run_id:
                version = registry.register(trial, uri, registry.registered_name(settings))
        write_report(root_run_id, trials, best, folder)
    for trial in trials:
        checkpoint = trial.tags.get(f"{PREFIX}checkpoint")
        if checkpoint and settings.tracking.log_models != "none":
            shutil.rmtree(checkpoint, ignore_errors=True)
    end_open_runs("FAILED" if failed else "FINISHED")
    name = registry.registered_name(settings) if version else None
    print_summary(trials, best, folder, name, settings.tracking)
    return failed
