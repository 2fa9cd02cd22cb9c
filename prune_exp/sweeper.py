"""The sweeper behind `-m`: lists are enumerated, intervals searched, by Optuna's ask and tell.

A failed trial does not stop the others, and a study goes on where it stopped.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

from prune_exp import study as studies
from prune_exp.records import metric_keys
from prune_exp.settings import SettingError, Settings, flatten, settings_of, unknown
from prune_exp.space import Space, read_space

if TYPE_CHECKING:
    import optuna

PLUGIN_MODULE = "hydra_plugins.prune_exp"
"""Hydra accepts plugins by this prefix of their module's name only."""
FALLBACK = {"weights_read_ratio": "minimize"}
UNCOMPARED = (
    "search.study_name",
    "search.n_trials",
    "search.parallel",
    "search.max_failures",
    "search.space",
)


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
        name = settings.search.study_name or "/".join(folder.parts[-2:])
        with studies.sole_driver(root, name):
            study = studies.open_study(
                settings.search, root, name, directions, _fingerprint(settings, space)
            )
            rows = self._resume(study, space, settings, directions, configs[0])
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.config, folder / "multirun.yaml")
            run = _Run(self, study, space, settings, directions)
            returns = run.all(rows)
            run.finish(folder)
        return returns

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
        opened = self._call("on_sweep_planned", first, parent, study.study_name, len(rows))
        if opened is not None:
            study.set_user_attr(studies.PARENT, opened)
        return rows


class _Run:
    """One start of a study: batches of trials, told as they end."""

    def __init__(
        self,
        sweeper: OptunaSweeper,
        study: "optuna.Study",
        space: Space,
        settings: Settings,
        directions: dict[str, str],
    ) -> None:
        self.sweeper, self.study, self.space = sweeper, study, space
        self.search, self.directions = settings.search, directions
        self.failures = 0

    def all(self, rows: Sequence[dict[str, str]]) -> list[Any]:
        """Runs every row, `search.parallel` at a time."""
        returns: list[Any] = []
        size = self.search.parallel or self._at_a_time()
        for start in range(0, len(rows), size):
            returns += self._batch(rows[start : start + size])
            most = self.search.max_failures
            if most is not None and self.failures >= most:
                left = len(rows) - start - size
                print(
                    f"prune_exp: stopped after {self.failures} failed trials"
                    f" (search.max_failures={most}), {max(left, 0)} not run",
                    file=sys.stderr,
                )
                break
        return returns

    def _at_a_time(self) -> int:
        basic = type(self.sweeper.launcher).__name__ == "BasicLauncher"
        return 1 if basic else os.cpu_count() or 1

    def _batch(self, rows: Sequence[dict[str, str]]) -> list[Any]:
        asked = studies.ask(self.study, self.space, rows)
        numbers = [trial.number for trial in asked]
        points = [self.space.overrides(trial.params) for trial in asked]
        try:
            returns = self._launch(points, numbers)
        except BaseException as error:
            for number in numbers:
                if isinstance(error, Exception):
                    self._tell(number, None, f"{type(error).__name__}: {error}")
                else:
                    studies.interrupt(self.study, number)
            if not isinstance(error, Exception):
                raise
            self.sweeper._call("on_trials_lost", numbers, str(error))
            return []
        for number, result in zip(numbers, returns, strict=True):
            self._tell(number, *_outcome(result))
        return returns

    def _launch(self, points: list[list[str]], numbers: list[int]) -> list[Any]:
        """Launches a batch; job numbers are trial numbers, which another driver may interleave."""
        returns: list[Any] = []
        start = 0
        for place in range(1, len(numbers) + 1):
            if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
                batch = points[start:place]
                returns += self.sweeper.launcher.launch(batch, initial_job_idx=numbers[start])
                start = place
        return returns

    def _tell(self, number: int, metrics: dict[str, float] | None, error: str) -> None:
        reason = studies.tell(
            self.study, number, metrics, self.directions, self.search.limits, error
        )
        self.failures += bool(reason)
        if self.space.searched:
            from prune_exp.front import line

            print(line(self.study, number, list(self.directions)), file=sys.stderr)

    def finish(self, folder: Path) -> None:
        """Shows the front and draws Optuna's plots, where something was searched."""
        if not self.space.searched:
            return
        from prune_exp.front import print_front, write_plots

        print_front(self.study, list(self.directions))
        write_plots(self.study, list(self.directions), folder / "optuna")


def _outcome(result: Any) -> tuple[dict[str, float] | None, str]:
    """A job's metrics, or why it has none."""
    from hydra.core.utils import JobStatus

    if result.status == JobStatus.COMPLETED:
        return result.return_value, ""
    error = result._return_value
    return None, f"{type(error).__name__}: {error}"


def objectives(settings: Settings, *, searching: bool) -> dict[str, str]:
    """The objectives' directions, checked against the keys that trials will have.

    An enumeration runs the same points whatever its objectives are, so those that it does not
    measure are left out of its record.

    Raises:
        SettingError: a search would optimize or constrain something that is not measured.
    """
    keys = metric_keys(speed=settings.benchmark.enabled, quality=settings.quality.enabled)
    directions = settings.search.directions
    if not searching:
        measured = {key: way for key, way in directions.items() if key in keys}
        return measured or FALLBACK
    for name, wanted in (("objectives", directions), ("constraints", settings.search.limits)):
        for key in wanted:
            if key not in keys:
                raise SettingError(unknown(f"search.{name}", key, keys))
    return directions or FALLBACK


def _fingerprint(settings: Settings, space: Space) -> dict[str, str]:
    """What must stay the same for a study to go on."""
    swept = {f"space of {key}": text for key, text in space.describe().items()}
    ignored = {*UNCOMPARED, *space.describe()}
    config = {key: value for key, value in flatten(settings).items() if key not in ignored}
    return config | swept
