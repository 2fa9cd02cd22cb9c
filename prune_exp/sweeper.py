"""The sweeper behind `-m`: Optuna ask and tell, each listed point once and in order.

A failed trial does not stop the others. The only file that imports Optuna.
"""

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.plugins.sweeper import Sweeper

from prune_exp.settings import SettingError

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
    """Enumerates the product of all listed values."""

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
        """Runs every point; returns Hydra's job returns, failed ones included.

        Raises:
            SettingError: an argument cannot be enumerated.
        """
        from omegaconf import OmegaConf

        fixed, listed = self._split(arguments)
        rows = [
            dict(zip(listed, values, strict=True)) for values in itertools.product(*listed.values())
        ]
        points = [fixed + _overrides(row) for row in rows]
        loader = self.context.config_loader
        configs = [loader.load_sweep_config(self.config, point) for point in points]
        for callback in self.context.callbacks.callbacks:
            planned = getattr(callback, "on_sweep_planned", None)
            if planned is not None:
                planned(self.config, configs)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        return self._run(fixed, listed, rows)

    def _split(self, arguments: list[str]) -> tuple[list[str], dict[str, list[str]]]:
        """Separates single values from lists of them; the last mention of a key counts."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        parser = OverridesParser.create(config_loader=self.context.config_loader)
        fixed: dict[str, str] = {}
        listed: dict[str, list[str]] = {}
        for override in parser.parse_overrides(arguments):
            key = override.get_key_element()
            fixed.pop(key, None)
            listed.pop(key, None)
            if not override.is_sweep_override():
                fixed[key] = str(override.input_line)
            elif override.is_discrete_sweep():
                listed[key] = list(dict.fromkeys(override.sweep_string_iterator()))
            else:
                raise SettingError(
                    f"{override.input_line} is an interval; list values, such as {key}=0.3,0.5"
                )
        return list(fixed.values()), listed

    def _run(
        self, fixed: list[str], listed: dict[str, list[str]], rows: list[dict[str, str]]
    ) -> list[Any]:
        """Asks Optuna for each point, launches it, tells how it went."""
        import optuna
        from hydra.core.utils import JobStatus
        from optuna.distributions import BaseDistribution, CategoricalDistribution
        from optuna.trial import TrialState

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(study_name=str(self.config.hydra.sweep.dir))
        space: dict[str, BaseDistribution] = {
            key: CategoricalDistribution(values) for key, values in listed.items()
        }
        for row in rows:
            study.enqueue_trial(row, skip_if_exists=True)
        returns: list[Any] = []
        for number in range(len(rows)):
            asked = study.ask(space)
            point = fixed + _overrides(asked.params)
            result = self.launcher.launch([point], initial_job_idx=number)[0]
            returns.append(result)
            value = _objective(result) if result.status == JobStatus.COMPLETED else None
            state = TrialState.COMPLETE if value is not None else TrialState.FAIL
            study.tell(asked, value, state=state)
        return returns


def _overrides(values: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _objective(result: Any) -> float | None:
    """What Optuna's record of an enumerated point holds: its latency ratio, if it was measured."""
    values: dict[str, float] = result.return_value
    for key in ("latency_ratio", "bits_per_byte_increase", "sparsity_achieved"):
        if key in values:
            return values[key]
    return None
