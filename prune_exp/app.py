"""The Hydra entry: compose, check, run a trial; errors of the user's become one line."""

import signal
import sys
from pathlib import Path
from typing import Any

from prune_exp.checks import from_config
from prune_exp.errors import conf_dir
from prune_exp.settings import store_schema
from prune_exp.start import command_line


def trial(config: Any) -> dict[str, float]:
    """Runs one trial inside the MLflow run that the callback opened; returns its metrics.

    Raises:
        ValueError: an objective of the sweep came out as no number.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from prune_exp import tracking
    from prune_exp.isolated import run_isolated
    from prune_exp.metrics import metrics
    from prune_exp.trial import run_trial, warnings_about

    settings, hydra = from_config(config), HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    try:
        result = run_isolated(run_trial, settings, folder)
        tracking.log_result(result, folder)
        if settings.tracking.log_models == "all":
            store_here(settings.tracking.signing_key)
    except KeyboardInterrupt:
        tracking.end_open_runs("KILLED")
        raise
    if hydra.mode != RunMode.MULTIRUN or hydra.job.num == 0:
        for warning in warnings_about(result.plan, settings):
            print(f"note: {warning}", file=sys.stderr)
    found = metrics(result)
    if hydra.mode == RunMode.MULTIRUN:
        check_numbers(found, [*settings.search.directions, *settings.search.limits])
    return found


def store_here(signing_key: str | None) -> None:
    """Stores the weights with the open run, from the machine that has them."""
    import mlflow

    from prune_exp.registry import checkpoint_of, log_model
    from prune_exp.tracked import read_trials

    run = mlflow.active_run()
    assert run is not None
    (trial,) = read_trials(run.info.run_id)
    log_model(trial, checkpoint_of(trial), signing_key)


def check_numbers(found: dict[str, float], wanted: list[str]) -> None:
    """Raises ValueError when a metric that a search relies on is there and no finite number."""
    from prune_exp.study import unusable

    reason = unusable(found, [key for key in wanted if key in found])
    if reason:
        raise ValueError(reason)


def main() -> None:
    """Runs Hydra; exit code 0 done, 1 an error or a failed trial, 130 interrupted."""
    import hydra

    from prune_exp.sweeper import register

    with command_line("prune_exp", kept="; finished trials are kept"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        store_schema()
        register()
        main = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
        try:
            main(trial)()
        except KeyboardInterrupt:
            _close_runs()
            raise


def _close_runs() -> None:
    if "mlflow" in sys.modules:
        from prune_exp.tracking import end_open_runs

        end_open_runs("KILLED")
