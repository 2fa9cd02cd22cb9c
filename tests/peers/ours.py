"""Our own rows: ordinary trials, so whatever a trial can do a row can."""

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from prune_exp.machine.cache import digest_of
from prune_exp.settings.checks import read_config
from prune_exp.settings.config_tree import conf_dir
from prune_exp.settings.schema import Settings, store_schema
from prune_exp.trial.run import run_trial

from .methods import Ours
from .rows import Row, row_of
from .task import Task

NOT_PRUNING = ("load", "dense_quality", "calibrate", "export", "quality", "measure")
"""Phases of a trial whose time is no part of a row's; calibration is timed apart."""


def settings_from(overrides: list[str]) -> Settings:
    """The settings that a command line with these overrides means.

    Raises:
        SettingError: a value cannot work.
    """
    from hydra import compose, initialize_config_dir

    from prune_exp.search.sweeper import register_sweeper

    store_schema()
    register_sweeper()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return read_config(compose("config", overrides=overrides))


def row_settings(row: Ours, task: Task, base: list[str]) -> Settings:
    """The settings of a row at the task's size; `base` is what all rows share."""
    shape, sparsity = task.shape, task.settings.sparsity
    if row.whole_layers:
        sparsity = task.layers * shape.params_layer / shape.params_total
    return settings_from([*base, *row.overrides, f"sparsity={sparsity!r}"])


def digest(settings: Settings) -> str:
    """Identifies everything about a row that is not the same for all of them."""
    groups = (settings.pruning, settings.recovery, settings.data)
    return digest_of(*map(asdict, groups), settings.sparsity, settings.vote_threshold)


def measure(
    name: str, row: Ours, settings: Settings, task: Task, *, calibration_s: float, speed: bool
) -> Row:
    """Runs a row's trial."""
    settings = replace(settings, benchmark=replace(settings.benchmark, enabled=speed))
    with tempfile.TemporaryDirectory() as folder:
        result = run_trial(settings, Path(folder))
    assert result.quality is not None
    seconds = sum(s for phase, s in result.seconds.items() if phase not in NOT_PRUNING)
    return row_of(
        result.quality,
        speedup=None if result.speed is None else result.speed.speedup,
        timed=speed,
        name=name,
        kind=row.kind,
        requested=task.settings.sparsity,
        achieved=result.sparsity,
        prune_s=seconds + calibration_s,
        note=row.note,
    )
