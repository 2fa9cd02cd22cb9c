"""The Hydra plugin behind `-m`; `sweep.py` does its work.

Hydra imports it for every command, so nothing heavy is imported here.
"""

import importlib
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

PLUGIN_MODULE = "hydra_plugins.prune_exp"
"""Hydra accepts plugins by this prefix of their module's name only."""


@dataclass
class SweeperSettings:
    """Hydra's node for this sweeper."""

    _target_: str = f"{PLUGIN_MODULE}.OptunaSweeper"


def register_sweeper() -> None:
    """Makes the sweeper known to Hydra as `hydra/sweeper=prune_exp`.

    Hydra locates plugins by import below `hydra_plugins` only, so this module is also filed there.
    """
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
        self.config: Any = config
        self.context: Any = hydra_context
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Any]:
        """Runs what is left of the study; returns Hydra's job returns, failed ones included.

        Raises:
            SettingError: as `run_sweep` does.
        """
        from prune_exp.search.sweep import HydraSide, run_sweep

        hydra = HydraSide(config=self.config, context=self.context, launcher=self.launcher)
        return run_sweep(hydra, arguments)
