"""The Hydra entry: compose, check, run a trial; errors of the user's become one line."""

import shutil
import signal
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_exp.machine.staging import discard_partial
from prune_exp.settings.checks import read_config
from prune_exp.settings.command import end_in_one_line
from prune_exp.settings.config_tree import conf_dir
from prune_exp.settings.schema import Settings, store_schema

if TYPE_CHECKING:
    from prune_exp.tracking.result import StoppedTrial, TrialResult


NO_LIMITS: Mapping[str, float] = {}


def run_job(config: Any) -> dict[str, float] | float:
    """Runs one trial inside the MLflow run that the callback opened; returns its metrics.

    With `optimized_metric` that one alone, which other sweepers than ours want.

    Raises:
        ValueError: an objective of the sweep came out as no number.
        RuntimeError: the callback could not open a run; it knows why.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from prune_exp.tracking import runs
    from prune_exp.tracking.metrics import flatten_result
    from prune_exp.tracking.result import StoppedTrial
    from prune_exp.trial.run import describe_redundant_voters, describe_width

    if not runs.is_in_trial():
        raise RuntimeError("the trial has no run in the store")
    hydra = HydraConfig.get()
    settings = read_config(config, hydra)
    folder = Path(hydra.runtime.output_dir)
    sweeps = hydra.mode == RunMode.MULTIRUN
    wanted = settings.optimized_metric
    limits = settings.search.stopping_limits if sweeps and wanted is None else {}
    try:
        result = run_and_log(settings, folder, limits)
        if isinstance(result, StoppedTrial):
            return runs.log_stopped(result, settings.search.limits)
        if settings.tracking.log_models == "all":
            store_weights(settings.tracking.signing_key)
    except KeyboardInterrupt:
        runs.leave_open_runs("KILLED")
        raise
    if not sweeps or hydra.job.num == 0:
        for sentence in describe_redundant_voters(result.plan, settings):
            print(f"note: {sentence}", file=sys.stderr)
    if odd := describe_width(result, settings):
        print(f"note: {odd}", file=sys.stderr)
    metrics = flatten_result(result)
    if sweeps:
        relied = [*settings.search.directions, *settings.search.limits]
        check_numbers(metrics, [*relied, *([wanted] if wanted else [])])
    return metrics if wanted is None else metrics[wanted]


def run_and_log(
    settings: Settings, folder: Path, limits: Mapping[str, float] = NO_LIMITS
) -> "TrialResult | StoppedTrial":
    """Runs a trial in a process of its own and logs what it found; leaves nothing if that fails.

    One that was ended by one of the `limits` leaves no checkpoint and is not logged yet.
    """
    from prune_exp.recovery.checkpoints import discard_state
    from prune_exp.tracking.live import follow_trial
    from prune_exp.tracking.result import StoppedTrial
    from prune_exp.tracking.runs import active_run_id, log_result
    from prune_exp.trial.isolated import run_isolated
    from prune_exp.trial.run import run_within

    target = folder / "model"
    taken = target.exists() or target.is_symlink()
    try:
        watched = settings.tracking.system_metrics
        follow = partial(follow_trial, active_run_id(), system_metrics=watched)
        trial = partial(run_within, limits=limits)
        result = run_isolated(trial, settings, folder, follow=follow)
        if isinstance(result, StoppedTrial):
            _discard(target, taken)
        else:
            log_result(result, folder)
    except BaseException:
        _discard(target, taken)
        raise
    if not isinstance(result, StoppedTrial) and result.training_kept is not None:
        discard_state(result.training_kept)
    return result


def _discard(target: Path, taken: bool) -> None:
    """Removes what a trial has written, but nothing that was there before it."""
    discard_partial(target)
    if not taken:
        shutil.rmtree(target, ignore_errors=True)


def store_weights(signing_key: str | None) -> None:
    """Stores the weights with the open run, from the machine that has them."""
    from prune_exp.registry.stored_models import checkpoint_of, log_model
    from prune_exp.tracking.read import read_trials
    from prune_exp.tracking.runs import active_run_id

    run_id = active_run_id()
    assert run_id is not None
    (tracked,) = read_trials(run_id)
    log_model(tracked, checkpoint_of(tracked), signing_key)


def check_numbers(metrics: dict[str, float], wanted: list[str]) -> None:
    """Raises ValueError when a metric that a search relies on is there and no finite number."""
    from prune_exp.search.study import describe_unusable

    reason = describe_unusable(metrics, [key for key in wanted if key in metrics])
    if reason:
        raise ValueError(reason)


def main() -> None:
    """Runs Hydra; exit code 0 done, 1 an error or a failed trial, 130 interrupted."""
    import hydra

    from prune_exp.search.sweeper import register_sweeper

    with end_in_one_line("prune_exp", kept="; finished trials are kept"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        store_schema()
        register_sweeper()
        decorate = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
        try:
            decorate(run_job)()
        except BaseException as error:
            _close_runs("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise


def _close_runs(status: str) -> None:
    """Closes what an error left open, which MLflow would call finished."""
    if "mlflow" in sys.modules:
        from prune_exp.tracking.runs import leave_open_runs

        leave_open_runs(status)
