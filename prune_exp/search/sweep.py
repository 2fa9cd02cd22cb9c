"""A sweep from its command line to its end: lists are enumerated, intervals searched.

By Optuna's ask and tell. A failed trial does not stop the others, and a study goes on where it
stopped.
"""

import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf

from prune_exp.machine.limits import available_memory_mib, available_threads
from prune_exp.search import study as studies
from prune_exp.search.driver import Driver, fingerprint_of, objectives_of
from prune_exp.search.forecast import Forecast, average_forecasts, show_plan
from prune_exp.search.largest_kept import explain_settled, sampler_for
from prune_exp.search.ownership import Ownership, own_study
from prune_exp.search.samplers import check_sampler
from prune_exp.search.space import Space, read_space, starts_of
from prune_exp.search.summary import list_importances
from prune_exp.search.warm_start import add_known_trials, find_sources
from prune_exp.settings.checks import settings_of
from prune_exp.settings.choices import LARGEST_KEPT
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import SearchSettings
from prune_exp.settings.params import flatten_settings
from prune_exp.settings.redaction import redact_sweep
from prune_exp.settings.schema import Settings
from prune_exp.settings.surroundings import note_once


@dataclass(frozen=True, kw_only=True)
class HydraSide:
    """What Hydra gives a sweeper."""

    config: Any
    context: Any
    launcher: Any

    def call_hooks(self, hook: str, *args: Any) -> Any:
        """Calls a hook on every callback that has it; returns the last answer."""
        answer = None
        for callback in self.context.callbacks.callbacks:
            function = getattr(callback, hook, None)
            if function is not None:
                answer = function(self.config, *args)
        return answer

    @property
    def is_one_by_one(self) -> bool:
        """Whether the launcher runs one trial after the other whatever it is given."""
        return type(self.launcher).__name__ == "BasicLauncher"

    @property
    def most_side_by_side(self) -> int | None:
        """How many trials the launcher runs at once when each is given to it by a thread.

        None for a launcher that is not known to bear that, and is given batches.
        """
        if self.is_one_by_one:
            return 1
        name = type(self.launcher).__name__
        if name == "JoblibLauncher":
            from joblib import effective_n_jobs  # comes with the launcher

            return int(effective_n_jobs(int(self.launcher.joblib["n_jobs"])))
        if name in ("LocalLauncher", "SlurmLauncher"):  # of submitit
            return int(self.launcher.params.get("array_parallelism", sys.maxsize))
        return None

    def trials_at_a_time(self, trial_mib: float) -> int:
        """One under the basic launcher, else as many as the cores and the free memory allow."""
        if self.is_one_by_one:
            return 1
        fitting = int(available_memory_mib() / trial_mib)
        return max(1, min(available_threads(), fitting))


def run_sweep(hydra: HydraSide, arguments: list[str]) -> list[Any]:
    """Runs what is left of the study; returns Hydra's job returns, failed ones included.

    Raises:
        SettingError: an argument cannot be swept, an objective does not exist, or the study
            exists with other settings or is being run by another process.
        SystemExit: `plan` is set, and what would be run was said.
    """
    settings = settings_of(hydra.config)
    space, configs = list_points(hydra.config, hydra.context.config_loader, arguments)
    points = [settings_of(one, checked=True) for one in configs]  # the sweep's lack what is swept
    directions = objectives_of(points, searching=bool(space.searched))
    sampler = sampler_for(settings, space)
    check_sampler(settings.search, directions)
    if settings.optimized_metric is not None:
        raise SettingError(
            f"optimized_metric={settings.optimized_metric} is for other sweepers; for this one type"
            f" search.objectives=[{settings.optimized_metric}]"
        )
    inputs, trial_mib = hydra.call_hooks("on_sweep_checked", configs)
    root = Path(settings.tracking.root).expanduser().absolute()
    if sampler is None and settings.search.start_at_ends and not settings.search.warm_start:
        space = replace(space, starts=starts_of(space, flatten_settings(settings)))
    fingerprint = fingerprint_of(settings, space) | inputs
    sources = find_sources(settings.search, root, space, fingerprint)
    if settings.plan:
        _show_plan(hydra, settings, space, configs, fingerprint, trial_mib)
        raise SystemExit(0)
    name = settings.search.study_name or f"{datetime.now():%Y-%m-%d-%H-%M-%S-%f}"
    with studies.sole_driver(root, name):
        study = studies.open_study(settings.search, root, name, directions, fingerprint, sampler)
        directions = studies.directions_of(study) or directions
        with own_study(study) as ours:
            add_known_trials(study, sources, space, directions, settings.search.limits)
            rows = _resume_study(hydra, study, space, settings, directions, configs[0])
            folder = _make_folder(hydra.config)
            at_a_time = _choose_number(hydra, settings.search, trial_mib)
            if sampler is not None:
                at_a_time = 1  # each follows from those before it
            if not rows:
                print(
                    "prune_exp: every point has a result; nothing is left to run", file=sys.stderr
                )
            driver = _make_driver(hydra, ours, space, settings.search, directions, at_a_time)
            returns = driver.run_rows(rows)
            driver.show_findings(folder)
            if space.searched and (found := list_importances(study, list(directions))):
                hydra.call_hooks("on_importances_found", found)
    return returns


def _show_plan(
    hydra: HydraSide,
    settings: Settings,
    space: Space,
    configs: list[Any],
    fingerprint: dict[str, str],
    trial_mib: float,
) -> None:
    """Says what is left to run of this sweep, which is not started."""
    search = settings.search
    one_by_one = search.sampler == LARGEST_KEPT  # each follows from those before it
    root = Path(settings.tracking.root).expanduser().absolute()
    study = studies.find_study(search, root, fingerprint)
    rows = studies.remaining_rows(study, space, search.n_trials)
    corners: list[Forecast] = hydra.call_hooks("on_plan_wanted", configs)
    step = len(configs) // len(space.rows)
    points = {
        str(row): average_forecasts(corners[place * step : (place + 1) * step])
        for place, row in enumerate(space.rows)
    }
    listed = [{key: row[key] for key in space.listed} for row in rows]
    show_plan(
        rows,
        space,
        [points.get(str(row), corners[0]) for row in listed],
        at_a_time=1 if one_by_one else _choose_number(hydra, search, trial_mib),
        may_end=_reasons_to_end(search),
        done=0 if study is None else len(study.trials),
    )


def _reasons_to_end(search: SearchSettings) -> list[str]:
    """Sentences on why a sweep may end before its last trial."""
    found = []
    if search.stopping_limits:
        found.append("Trials that surely break a constraint end early, so it may be less.")
    if search.sampler == LARGEST_KEPT:
        found.append("The search ends once another trial would gain little.")
    if search.minutes is not None:
        found.append(f"After search.minutes={search.minutes:g} no trial is begun.")
    return found


def _choose_number(hydra: HydraSide, search: SearchSettings, trial_mib: float) -> int:
    """How many trials run at a time."""
    wanted = search.parallel or hydra.trials_at_a_time(trial_mib)
    if hydra.is_one_by_one and wanted > 1:
        note_once(
            f"search.parallel={search.parallel} has no effect: hydra/launcher=basic runs one trial"
            " after the other; type hydra/launcher=joblib to run them side by side"
        )
    return min(wanted, hydra.most_side_by_side or wanted)


def list_points(config: Any, loader: Any, arguments: list[str]) -> tuple[Space, list[Any]]:
    """A sweep's space, and the configs of the points that span it."""
    space = read_space(arguments, settings_of(config).search.space, loader)
    return space, [loader.load_sweep_config(config, point) for point in space.corners]


def _make_driver(
    hydra: HydraSide,
    ours: Ownership,
    space: Space,
    search: SearchSettings,
    directions: dict[str, str],
    at_a_time: int,
) -> Driver:
    in_batches = hydra.most_side_by_side is None
    return Driver(
        ours.study,
        space,
        search,
        directions,
        launch=lambda points, first: hydra.launcher.launch(points, initial_job_idx=first),
        on_lost=lambda numbers, why: hydra.call_hooks("on_trials_lost", numbers, why),
        confirm=lambda numbers: hydra.call_hooks("on_batch_ended", numbers),
        look_up_runs=lambda numbers: hydra.call_hooks("on_runs_wanted", numbers),
        look_up_finished=lambda: hydra.call_hooks("on_batch_broken"),
        check_ours=ours.check,
        slots=1 if in_batches else at_a_time,
        batch_size=at_a_time if in_batches else 1,
        await_running=lambda numbers: hydra.call_hooks("on_launcher_broken", numbers),
        why_settled=lambda: explain_settled(ours.study, space),
    )


def _make_folder(config: Any) -> Path:
    """The sweep's folder, with the config that it was started with."""
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "multirun.yaml")
    redact_sweep(folder)
    return folder


def _describe_cut_off(cut_off: list[int], lost: list[int]) -> str:
    """What became of trials that an earlier start never told of."""
    kept = [number for number in cut_off if number not in lost]
    parts = [
        (kept, "had a result when an earlier start ended, which is kept"),
        (lost, "had none when an earlier start ended, and does not count"),
    ]
    return "; ".join(
        f"trial {', '.join(map(str, numbers))} {what}" for numbers, what in parts if numbers
    )


def _tell_cut_off(
    hydra: HydraSide,
    study: optuna.Study,
    finished: dict[int, dict[str, float]],
    settings: Settings,
    directions: dict[str, str],
) -> None:
    """Tells the study of trials that a killed driver had asked for; `finished` has the results."""
    cut_off = studies.running_trials(study)
    if not cut_off:
        return
    with suppress(Exception):  # nothing depends on it
        parent = study.user_attrs[studies.PARENT]
        studies.note_runs(study, hydra.call_hooks("on_runs_wanted", cut_off, parent) or {})
    lost = [number for number in cut_off if number not in finished]
    for number in cut_off:
        if number in lost:
            studies.interrupt_trial(study, number)
        else:
            metrics = finished[number]
            studies.tell_trial(study, number, metrics, directions, settings.search.limits)
    print(f"note: {_describe_cut_off(cut_off, lost)}", file=sys.stderr)


def _resume_study(
    hydra: HydraSide,
    study: optuna.Study,
    space: Space,
    settings: Settings,
    directions: dict[str, str],
    first: Any,
) -> list[dict[str, str]]:
    """Opens the parent run, repairs what a killed driver left, returns what is left to run.

    `first` is the config of the sweep's first point.
    """
    parent = study.user_attrs.get(studies.PARENT)
    found = hydra.call_hooks("on_study_resumed", first, parent) if parent else None
    _tell_cut_off(hydra, study, found or {}, settings, directions)
    rows = studies.remaining_rows(study, space, settings.search.n_trials)
    opened = hydra.call_hooks(
        "on_sweep_planned", first, parent, study.study_name, len(rows), space.describe()
    )
    if opened is not None:
        study.set_user_attr(studies.PARENT, opened)
    return rows
