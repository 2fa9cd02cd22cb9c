"""The sweeper behind `-m`: lists are enumerated, intervals searched, by Optuna's ask and tell.

A failed trial does not stop the others, and a study goes on where it stopped.
"""

import os
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

from prune_exp import study as studies
from prune_exp.checks import settings_of
from prune_exp.driver import Driver, fingerprint, objectives
from prune_exp.redaction import redact_files
from prune_exp.settings import Settings
from prune_exp.space import Space, read_space

if TYPE_CHECKING:
    import optuna

PLUGIN_MODULE = "hydra_plugins.prune_exp"
"""Hydra accepts plugins by this prefix of their module's name only."""


@dataclass
class SweeperSettings:
    """Hydra's node for this sweeper."""

    _target_: str = f"{PLUGIN_MODULE}.OptunaSweeper"


def register() -> None:
    """Makes the sweeper known to Hydra as `hydra/sweeper=prune_exp`.

    Hydra locates plugins by import below `hydra_plugins` only, so this module is also filed there.
    """
    import importlib

    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    package, _, name = PLUGIN_MODULE.partition(".")
    try:
        parent = importlib.import_module(package)
    except ModuleNotFoundError:
        parent = sys.modules[package] = ModuleType(package)
        parent.__path__ = []
    sys.modules[PLUGIN_MODULE] = sys.modules[__name__]
    setattr(parent, name, sys.modules[__name__])
    ConfigStore.instance().store(group="hydra/sweeper", name="prune_exp", node=SweeperSettings)
    Plugins.instance().register(OptunaSweeper)


class OptunaSweeper(Sweeper):
    """Runs a space of trials as an Optuna study."""

    __module__ = PLUGIN_MODULE

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Called by Hydra before `sweep`."""
        from hydra.core.plugins import Plugins

        self.config: Any = config
        self.context: Any = hydra_context
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Any]:
        """Runs what is left of the study; returns Hydra's job returns, failed ones included.

        Raises:
            SettingError: an argument cannot be swept, an objective does not exist, or the study
                exists with other settings.
        """
        from omegaconf import OmegaConf

        settings = settings_of(self.config)
        loader = self.context.config_loader
        space = read_space(arguments, settings.search.space, loader)
        directions = objectives(settings, searching=bool(space.searched))
        configs = [loader.load_sweep_config(self.config, point) for point in space.corners]
        self._call("on_sweep_checked", configs)
        root = Path(settings.tracking.root).expanduser().absolute()
        folder = Path(self.config.hydra.sweep.dir)
        name = settings.search.study_name or f"{datetime.now():%Y-%m-%d-%H-%M-%S-%f}"
        with studies.sole_driver(root, name):
            study = studies.open_study(
                settings.search, root, name, directions, fingerprint(settings, space)
            )
            rows = self._resume(study, space, settings, directions, configs[0])
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.config, folder / "multirun.yaml")
            redact_files(folder)
            driver = Driver(
                study,
                space,
                settings.search,
                directions,
                launch=lambda points, first: self.launcher.launch(points, initial_job_idx=first),
                on_lost=lambda numbers, why: self._call("on_trials_lost", numbers, why),
                at_a_time=settings.search.parallel or self._at_a_time(),
            )
            returns = driver.all(rows)
            driver.finish(folder)
        return returns

    def _at_a_time(self) -> int:
        basic = type(self.launcher).__name__ == "BasicLauncher"
        return 1 if basic else os.cpu_count() or 1

    def _call(self, hook: str, *args: Any) -> Any:
        """Calls a hook on every callback that has it; returns the last answer."""
        answer = None
        for callback in self.context.callbacks.callbacks:
            function = getattr(callback, hook, None)
            if function is not None:
                answer = function(self.config, *args)
        return answer

    def _resume(
        self,
        study: "optuna.Study",
        space: Space,
        settings: Settings,
        directions: dict[str, str],
        first: Any,
    ) -> list[dict[str, str]]:
        """Opens the parent run, repairs what a killed driver left, returns what is left to run."""
        parent = study.user_attrs.get(studies.PARENT)
        cut_off = studies.running(study)
        found = self._call("on_study_resumed", first, parent) if parent else None
        for number in cut_off:
            metrics = (found or {}).get(number)
            if metrics is None:
                studies.interrupt(study, number)
            else:
                studies.tell(study, number, metrics, directions, settings.search.limits)
        rows = studies.remaining(study, space, settings.search.n_trials)
        opened = self._call(
            "on_sweep_planned", first, parent, study.study_name, len(rows), space.describe()
        )
        if opened is not None:
            study.set_user_attr(studies.PARENT, opened)
        return rows
