"""What happens when a sweep or a trial starts and ends: joins tracking, report and registry.

Hydra turns a callback's exceptions into warnings, so refusals leave as SystemExit.
"""

import logging
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from prune_exp.machine.device import choose_device, describe_device
from prune_exp.machine.staging import discard_partial
from prune_exp.registry.signing import check_signing_key
from prune_exp.reporting.folder import check_report_folder
from prune_exp.settings.checks import settings_of
from prune_exp.settings.choices import LARGEST_KEPT
from prune_exp.settings.config_tree import typed_options
from prune_exp.settings.errors import SettingError
from prune_exp.settings.explanation import explain_error
from prune_exp.settings.groups import ModelSettings, QualitySettings, TrackingSettings
from prune_exp.settings.params import flatten_settings, restore_settings
from prune_exp.settings.redaction import (
    list_secrets,
    redact_files,
    redact_logs,
    redact_override,
    redact_sweep,
)
from prune_exp.settings.schema import Settings
from prune_exp.settings.surroundings import count_as_said, list_said
from prune_exp.tracking.naming import sweep_name, trial_name
from prune_exp.tracking.tags import check_tags

if TYPE_CHECKING:
    from prune_exp.tracking.read import TrackedTrial

ORPHAN_END_S = 20
OUR_SWEEPER = "hydra_plugins.prune_exp.OptunaSweeper"
WORST_RATIO = "worst_perplexity_ratio"


class Lifecycle(Callback):
    """Hydra's callback; its attributes travel to the launchers' workers."""

    def __init__(self) -> None:
        self.parent_run_id: str | None = None
        self.last_run_id: str | None = None
        self.driver: Any = None
        """The sweep's process, a `SweepDriver`; its trials end when it has gone."""
        self.swept: list[str] = []
        """Settings that the sweep varies."""
        self.lost = 0
        """Trials that failed, perhaps before they had a run."""
        self.start_error: Exception | None = None
        """Why the trial that was to start has no run, where the others shall go on."""
        self.said: frozenset[str] = frozenset()
        """What the sweep's process has noted about all its trials."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Opens the parent run under a sweeper that does not announce its points."""
        del kwargs
        if config.hydra.sweeper._target_ != OUR_SWEEPER:
            from prune_exp.search.space import swept_by

            space = swept_by(list(config.hydra.overrides.task))
            with _Refusals():
                check_pickled(config)
                check_tracking(settings_of(config).tracking)
                if config.optimized_metric is not None:
                    from prune_exp.search.driver import check_optimized  # heavy

                    check_optimized(settings_of(config))
                if config.plan:
                    raise SettingError(
                        "plan=true is known to hydra/sweeper=prune_exp alone; leave out the other"
                        " sweeper"
                    )
            self.on_sweep_planned(config, config, None, "none", 0, space)

    def on_sweep_checked(self, config: Any, points: list[Any]) -> tuple[dict[str, str], float]:
        """Checks points that span the sweep, before anything is written.

        Returns what tells their inputs from others behind the same settings, and the memory that
        the largest trial may take, MiB.
        """
        with _Refusals():
            check_pickled(config)
            settings = [settings_of(point, checked=True) for point in points]
            for tracking in {repr(one.tracking): one.tracking for one in settings}.values():
                check_tracking(tracking)
            from prune_exp.trial.prepare import check_points  # heavy: values are refused before

            found = check_points(settings)
            self.said = list_said()
            return found

    def on_plan_wanted(self, config: Any, points: list[Any]) -> list[Any]:
        """A forecast for each point of a sweep that is not started."""
        from prune_exp.trial.forecast import forecast_points

        del config
        with _Refusals():
            return forecast_points([settings_of(point) for point in points])

    def on_study_resumed(
        self, config: Any, first: Any, parent: str
    ) -> dict[int, dict[str, float]] | None:
        """Ends runs that a killed driver left open; returns metrics of the finished ones."""
        from prune_exp.tracking import runs
        from prune_exp.tracking.reaping import ORPHAN_S, await_trials, reap_dead_runs
        from prune_exp.tracking.store import open_store

        del config
        with _Refusals():
            tracking = settings_of(first).tracking
            open_store(tracking)
            if runs.is_active(parent):
                await_trials(parent, ORPHAN_S)
            reap_dead_runs(tracking)
            return runs.finished_metrics(parent)

    def on_sweep_planned(
        self,
        config: Any,
        first: Any,
        parent: str | None,
        study: str,
        trials: int,
        space: dict[str, str],
    ) -> str | None:
        """Opens the sweep's run, an earlier one when the study goes on; returns its id."""
        from prune_exp.tracking import heartbeat, runs
        from prune_exp.tracking.reaping import reap_dead_runs

        with _Refusals():
            check_report_folder(Path(config.hydra.sweep.dir).absolute(), "hydra.sweep.dir")
            settings = settings_of(first)
            self.swept = list(space)
            given = config.hydra.overrides
            reap_dead_runs(settings.tracking)
            self.parent_run_id = runs.start_sweep(
                settings.tracking,
                Path(config.hydra.sweep.dir).absolute(),
                model_name=settings.model.name,
                study=study,
                name=sweep_name(space, trials),
                overrides=[
                    *typed_options(config.hydra),
                    *(o for o in given.hydra if o != "hydra.mode=MULTIRUN"),
                    *given.task,
                ],
                typed_in=config.hydra.runtime.cwd,
                earlier=parent,
            )
            self.driver = heartbeat.this_driver(self.parent_run_id)
            heartbeat.start_beating(self.parent_run_id)
        return self.parent_run_id

    def on_trials_lost(self, config: Any, numbers: list[int], reason: str) -> None:
        """Ends the runs of trials that failed, or whose launcher broke down."""
        from prune_exp.tracking.reaping import lose_trials

        del config
        self.lost += len(numbers)
        if self.parent_run_id is not None:
            lose_trials(self.parent_run_id, numbers, reason)

    def on_batch_ended(self, config: Any, numbers: list[int]) -> dict[int, dict[str, float]]:
        """Metrics of those trials that the store has as finished, told now where it was not."""
        from prune_exp.tracking.reaping import settle_trials
        from prune_exp.tracking.runs import show_outcome

        assert self.parent_run_id is not None
        finished = settle_trials(self.parent_run_id, numbers)
        show_outcome(self.parent_run_id, settings_of(config).tracking.best)
        return finished

    def on_runs_wanted(
        self, config: Any, numbers: list[int], parent: str | None = None
    ) -> dict[int, str]:
        """The runs of some trials of this sweep, or of that of an earlier start."""
        from prune_exp.tracking.read import read_trials

        del config
        root = self.parent_run_id or parent
        assert root is not None
        found = read_trials(root)
        return {trial.number: trial.run_id for trial in found if trial.number in numbers}

    def on_launcher_broken(self, config: Any, numbers: list[int]) -> None:
        """Waits for trials that go on although their launcher has given them up."""
        from prune_exp.tracking.reaping import await_trials

        del config
        if self.parent_run_id is not None:
            await_trials(self.parent_run_id, numbers=numbers)

    def on_batch_broken(self, config: Any) -> dict[int, dict[str, float]]:
        """Metrics of the trials that had finished when a batch was cut off."""
        from prune_exp.tracking.runs import finished_metrics

        del config
        return {} if self.parent_run_id is None else finished_metrics(self.parent_run_id)

    def on_importances_found(self, config: Any, found: dict[str, float]) -> None:
        """Gives the sweep's run the importances of what was searched."""
        from prune_exp.tracking.runs import log_figures

        del config
        if self.parent_run_id is not None:
            log_figures(self.parent_run_id, found)

    def on_job_start(self, config: Any, **kwargs: Any) -> None:
        """Opens the trial's run; a single trial is checked first.

        What is wrong with the settings ends the command. Where only the store does not answer, this
        one trial of a sweep fails.
        """
        del kwargs
        redact_logs()  # a launcher's worker is a process of its own
        count_as_said(self.said)
        self.start_error = None
        folder = Path(config.hydra.runtime.output_dir)
        delay_empty_logs(folder)
        root = Path(config.hydra.runtime.cwd) / str(config.tracking.root)
        with _Refusals(folder, root):
            settings = settings_of(config, checked=True)
            check_tags(settings.tracking.tags)
            if self.parent_run_id is None or settings.tracking.log_models == "all":
                check_signing_key(settings.tracking)  # elsewhere only the driver has to have it
            if self.parent_run_id is None:
                check_single(settings, list(config.hydra.overrides.task))
                from prune_exp.tracking.reaping import reap_dead_runs
                from prune_exp.trial.prepare import (  # heavy: values are refused before
                    note_foreign_text,
                    prepare_trial,
                )
                from prune_exp.trial.reach import check_reach

                inputs = prepare_trial(settings)
                check_reach([(settings, inputs.dense.shape, inputs.dense.source)])
                note_foreign_text(inputs)
                if settings.plan:
                    show_trial_plan(settings)
                    remove_empty_output(folder, root)
                    raise SystemExit(0)
                reap_dead_runs(settings.tracking)
            else:
                redact_sweep(Path(config.hydra.sweep.dir))  # Hydra's own sweepers write there too
            check_output_folder(folder)
            if self.parent_run_id is None:
                check_report_folder(folder, "hydra.run.dir")
            redact_files(folder / ".hydra")
            self._open_run(config, settings, folder)

    def _open_run(self, config: Any, settings: Settings, folder: Path) -> None:
        """Opens the trial's run; in a sweep remembers why that cannot be done."""
        from prune_exp.tracking import heartbeat, runs

        overrides = list(config.hydra.overrides.task)
        params = flatten_settings(settings)
        device = describe_device(choose_device(settings.device))
        try:
            runs.start_trial(
                settings.tracking,
                folder,
                config.hydra.job.get("num") if self.parent_run_id else 0,
                self.parent_run_id,
                name=trial_name(params, self.swept, overrides),
                overrides=[*typed_options(config.hydra), *overrides],
                typed_in=config.hydra.runtime.cwd,
                device=device,
                params=params,
            )
        except Exception as error:
            if self.parent_run_id is None:
                raise
            self.start_error = error
            return
        run_id = runs.active_run_id()
        if run_id is not None:
            heartbeat.start_beating(run_id, self.driver, lambda: end_orphan(run_id, folder))

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        """Closes the trial's run."""
        from hydra.core.utils import JobStatus

        from prune_exp.tracking.heartbeat import stop_beating
        from prune_exp.tracking.runs import active_run_id, end_trial, is_in_trial, leave_trial

        del kwargs
        if self.start_error is not None:
            job_return.return_value = self.start_error
            job_return.status = JobStatus.FAILED
        value = job_return._return_value
        error = value if isinstance(value, BaseException) else None
        if error is not None and self.parent_run_id is not None:
            print(f"prune_exp: trial failed: {error}", file=sys.stderr)
        if not is_in_trial():
            return
        self.last_run_id = active_run_id()
        stop_beating(self.last_run_id)
        try:
            end_trial(error, Path(config.hydra.runtime.output_dir))
        except Exception as fault:  # once all have ended, the store is told again
            print(f"prune_exp: the store was not told of a trial's end: {fault}", file=sys.stderr)
            if is_in_trial():
                leave_trial(error)

    def on_run_end(self, config: Any, **kwargs: Any) -> None:
        """Reports on and registers a single trial."""
        from prune_exp.tracking.reaping import settle_trials

        del kwargs
        if self.last_run_id is not None:
            folder = Path(config.hydra.runtime.output_dir)
            with _Refusals():
                settle_trials(self.last_run_id)
                report_and_register(settings_of(config), self.last_run_id, folder)

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Reports on the sweep and registers its best model; exit code 1 if a trial failed."""
        from prune_exp.tracking.reaping import settle_trials

        del kwargs
        assert self.parent_run_id is not None
        folder = Path(config.hydra.sweep.dir).absolute()
        redact_sweep(folder)
        with _Refusals():
            settings = settings_of(config)
            settle_trials(self.parent_run_id)
            failed = report_and_register(settings, self.parent_run_id, folder)
        if failed or self.lost:
            raise SystemExit(1)


def check_single(settings: Settings, overrides: list[str]) -> None:
    """Raises SettingError where a trial alone is asked for what only several can find."""
    if settings.optimized_metric is not None:
        from prune_exp.search.driver import check_optimized  # heavy

        check_optimized(settings)
    given = any(one.lstrip("+").partition("=")[0] == "sparsity" for one in overrides)
    if settings.search.sampler == LARGEST_KEPT and not given:
        raise SettingError(
            "search.sampler=largest_kept looks for the sparsity by several trials; type -m before"
            " the settings, as in python -m prune_exp -m experiment=kept, or give one trial its"
            " sparsity=0.2"
        )


def show_trial_plan(settings: Settings) -> None:
    """Says what a trial alone would do."""
    from prune_exp.search.forecast import show_plan
    from prune_exp.search.space import Space
    from prune_exp.trial.forecast import forecast_points

    nothing = Space(fixed=(), listed={}, searched={})
    show_plan([{}], nothing, forecast_points([settings]))


def end_orphan(run_id: str, folder: Path) -> None:
    """Ends this worker, whose sweep has gone, with its trial and what that has written."""
    from prune_exp.tracking.reaping import fail_run

    print("prune_exp: the sweep's process has gone, so this trial ends", file=sys.stderr)
    threading.Timer(ORPHAN_END_S, os._exit, args=[1]).start()  # whatever the store takes
    try:
        fail_run(run_id, "interrupted: the sweep's process was killed", interrupted=True)
        discard_partial(folder / "model")
        shutil.rmtree(folder / "model", ignore_errors=True)
    finally:
        os._exit(1)  # the kernel ends the trial's process with it


def check_tracking(tracking: TrackingSettings) -> None:
    """Raises SettingError for a key that cannot sign, or tags that runs cannot have."""
    check_signing_key(tracking)
    check_tags(tracking.tags)


def check_pickled(config: Any) -> None:
    """Raises SettingError for a secret that a launcher would leave on disk, wherever it stands."""
    launcher = str(config.hydra.launcher._target_)
    if "submitit" not in launcher:
        return
    overrides: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    for override in overrides:
        if redact_override(override) != override:
            key = override.partition("=")[0]
            raise SettingError(
                f"{redact_override(override)} would be written by submitit into its folder, secret"
                f" and all; put the value into an environment variable and type"
                f" {key}='${{oc.env:NAME}}'"
            )
    values: Any = OmegaConf.to_container(config, resolve=False)
    for key in list_secrets({name: one for name, one in values.items() if name != "hydra"}):
        raise SettingError(
            f"{key} of the config files holds a password, which submitit would write into its"
            f" folder; put the value into an environment variable and write ${{oc.env:NAME}} there"
        )


def check_output_folder(folder: Path) -> None:
    """Raises SettingError where the trial would meet a `model` folder that it did not make."""
    target = folder / "model"
    if target.exists() or target.is_symlink():
        raise SettingError(
            f"{target} is there already, and the trial would write its own; leave out hydra.run.dir"
            " and hydra.sweep.dir, or give folders without one"
        )


def delay_empty_logs(folder: Path) -> None:
    """Has the log files in a trial's folder made once something is logged, not at its start."""
    for handler in logging.getLogger().handlers:
        path = Path(getattr(handler, "baseFilename", os.devnull))
        if not isinstance(handler, logging.FileHandler) or path.parent != folder.absolute():
            continue
        if handler.mode == "a" and path.is_file() and not path.stat().st_size:
            handler.close()  # the next record opens it again
            path.unlink()


def remove_empty_output(folder: Path, root: Path) -> None:
    """Removes what Hydra wrote for a trial that was refused, in a folder of our own making."""
    ours = root.resolve()
    inside = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    logs = [folder / name for name in inside - {".hydra"}]
    if not folder.resolve().is_relative_to(ours / "outputs") or ".hydra" not in inside:
        return
    if any(path.suffix != ".log" or path.stat().st_size for path in logs):
        return
    shutil.rmtree(folder, ignore_errors=True)
    for parent in folder.resolve().parents:
        if not parent.is_relative_to(ours) or any(parent.iterdir()):
            break
        parent.rmdir()


class _Refusals:
    """Turns an exception into one line on stderr and exit code 1; closes open runs.

    Of a single trial that does not start nothing is left in `folder`, if it lies below `root`.
    """

    def __init__(self, folder: Path | None = None, root: Path | None = None) -> None:
        self.folder = folder
        self.root = root

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if not isinstance(error, Exception):
            return
        if "mlflow" in sys.modules:
            from prune_exp.tracking.runs import leave_open_runs

            leave_open_runs("FAILED")
        if self.folder is not None and self.root is not None:
            remove_empty_output(self.folder, self.root)
        raise SystemExit(f"prune_exp: error: {explain_error(error)}") from error


def report_and_register(settings: Settings, root_run_id: str, folder: Path) -> int:
    """Chooses the best trial, stores and registers its model, writes the report.

    A trial that breaks the constraints is reported on and stored, but not registered.

    Returns:
        The number of points that failed on their own account and have no result.
    """
    from prune_exp.registry import stored_models
    from prune_exp.reporting.terminal import print_summary
    from prune_exp.reporting.write import write_note, write_report
    from prune_exp.tracking import runs
    from prune_exp.tracking.heartbeat import stop_beating
    from prune_exp.tracking.linked import log_dense
    from prune_exp.tracking.read import choose_best, count_failed_points, read_trials

    trials = read_trials(root_run_id)
    failed = count_failed_points(trials)
    best = choose_best(trials, settings.tracking.best)
    name = None
    if best is not None:
        name = _store_models(settings, trials, best)
        write_report(root_run_id, trials, best, folder)
        log_dense(root_run_id, best.trial)
    if root_run_id not in [trial.run_id for trial in trials]:
        runs.log_outcome(root_run_id, trials, best)
        runs.keep_files(root_run_id, folder)
    write_note(root_run_id, trials, best)
    for plot in sorted((folder / "optuna").glob("*.png")):
        runs.log_file(root_run_id, plot, "optuna")
    if settings.tracking.log_models != "none":
        root = Path(settings.tracking.root).expanduser().absolute()
        for trial in trials:
            stored_models.discard_checkpoint(trial, [folder.absolute(), root])
    runs.end_open_runs("FAILED" if failed else "FINISHED")
    stop_beating(root_run_id)
    print_summary(trials, best, folder, name, settings.tracking)
    if settings.tracking.promote and best is not None:
        promote_best(settings, best.trial, name)
    elif settings.tracking.promote and not failed:
        _refuse_promotion("no trial has a result, so no model is promoted")
    return failed


def promote_best(settings: Settings, best: "TrackedTrial", name: str | None) -> None:
    """Puts the best model, registered as `name`, before the gates.

    They judge by their default limits, but by the limit of quality that the trial had where that
    allows more: whoever typed it wants a model that keeps so much.

    Raises:
        SystemExit: there is no such model, or a gate refused it or surely would, which was said.
    """
    from prune_exp.registry.promotion import promote_model
    from prune_exp.settings.command_schemas import LimitSettings, PromoteSettings

    if name is None:
        _refuse_promotion("no model was registered, so none is promoted")
    if surely_lost(best.metrics):
        _refuse_promotion(
            "not promoted: even the lower end of the interval of its perplexity is beyond"
            f" {best.metrics['max_perplexity_ratio']:g} times dense, so the gates have nothing to"
            " measure"
        )
    limit = best.metrics["max_perplexity_ratio"]
    wider = limit > QualitySettings().max_perplexity_ratio
    asked = PromoteSettings(
        run_id=best.run_id,
        cache_dir=settings.cache_dir,
        tracking=settings.tracking,
        limits=LimitSettings(max_perplexity_ratio=limit if wider else None),
    )
    if promote_model(asked, unattended=True):
        raise SystemExit(1)


def say_not_kept(trial: "TrackedTrial") -> None:
    """Says that a model which is wanted now was thrown away when an earlier start ended."""
    again = f"python -m prune_exp.rebuild run_id={trial.run_id} output=DIR makes them again"
    if trial.params.get("recovery.name", "none") != "none":
        again = "trained as they were, only the same trial under a new study makes such again"
    print(f"note: the weights of trial {trial.number} were not kept; {again}", file=sys.stderr)


def _refuse_promotion(why: str) -> NoReturn:
    print(f"prune_exp: {why}", file=sys.stderr)
    raise SystemExit(1)


def surely_lost(metrics: Mapping[str, float]) -> bool:
    """Whether even the lower end of a trial's ratio of perplexities is beyond its limit."""
    from prune_exp.measurement.records import Interval

    if not Interval.is_among(metrics, WORST_RATIO):
        return False
    return Interval.read(metrics, WORST_RATIO).low > metrics["max_perplexity_ratio"]


def _store_models(settings: Settings, trials: list[Any], best: Any) -> str | None:
    """Stores the wanted models; returns the registered name when the best one is registered."""
    from prune_exp.registry import stored_models

    wanted = {"all": trials, "best": [best.trial], "none": []}[settings.tracking.log_models]
    model = restore_settings(ModelSettings, best.trial.params, "model")  # the sweep may vary it
    tracking = restore_settings(TrackingSettings, best.trial.params, "tracking")
    given = settings.tracking.registered_model or tracking.registered_model
    name = stored_models.registered_name(given, model.name)
    registered = False
    for trial in wanted:
        if not trial.has_result:
            continue
        if not stored_models.can_store(trial):
            say_not_kept(trial)
            continue
        uri = stored_models.log_model(
            trial, stored_models.checkpoint_of(trial), settings.tracking.signing_key
        )
        wanted_one = best.feasible and trial.run_id == best.trial.run_id
        if settings.tracking.register and wanted_one:
            stored_models.register_candidate(trial, uri, name)
            registered = True
    return name if registered else None
