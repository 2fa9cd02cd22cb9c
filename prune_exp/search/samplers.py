"""Optuna's samplers, by name and with arguments by Optuna's names."""

import importlib
import inspect
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from optuna import samplers
from optuna.samplers import BaseSampler

from prune_exp.machine.display import first_line
from prune_exp.settings.choices import FROM_HUB, LARGEST_KEPT, describe_unknown
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import SearchSettings

CLASSES = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "nsgaii": "NSGAIISampler",
    "nsgaiii": "NSGAIIISampler",
    "gp": "GPSampler",
    "qmc": "QMCSampler",
    "cmaes": "CmaEsSampler",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "tpe": {"multivariate": True},
    "qmc": {"scramble": True},
    "cmaes": {"warn_independent_sampling": False},
}
"""Arguments that we set unless the user does."""
OURS = ("self", "seed", "constraints_func")
"""Arguments that are not the user's."""


def check_sampler(search: SearchSettings, directions: Mapping[str, str]) -> None:
    """Raises SettingError where the sampler cannot be made, or cannot do with the objectives."""
    if search.sampler == LARGEST_KEPT:
        if search.sampler_args:
            raise SettingError(
                "search.sampler=largest_kept has no arguments; leave out search.sampler_args"
            )
        return
    make_sampler(search, seen=0)
    if search.sampler == "cmaes" and len(directions) > 1:
        several = ", ".join(directions)
        raise SettingError(
            f"search.sampler=cmaes searches for one objective, not for {several}; name"
            f" one, as in search.objectives=[{next(iter(directions))}], or use search.sampler=tpe"
        )


def make_sampler(search: SearchSettings, *, seen: int) -> BaseSampler:
    """The configured sampler. A study that goes on must not draw its first points again.

    Raises:
        SettingError: its package is missing, or it does not take the arguments.
    """
    kind = _load_class(search.sampler)
    taken = inspect.signature(kind.__init__).parameters
    free = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
    for name in search.sampler_args or {}:
        if name in OURS:
            raise SettingError(f"search.sampler_args.{name} cannot be set; search.seed seeds")
        if name not in taken and not free:
            allowed = [one for one in taken if one not in OURS]
            raise SettingError(describe_unknown("search.sampler_args", name, allowed))
    seed = search.seed if search.sampler == "qmc" else search.seed + seen
    given = DEFAULTS.get(search.sampler, {}) | (search.sampler_args or {})
    try:
        return kind(**({"seed": seed} if "seed" in taken else {}), **given)
    except Exception as error:  # each sampler has its own words and kinds
        asked = f"search.seed={search.seed}"
        if search.sampler_args:
            asked = f"search.sampler_args={search.sampler_args} with {asked}"
        raise SettingError(
            f"search.sampler={search.sampler} does not take {asked} ({first_line(error)})"
        ) from None


def _load_class(name: str) -> Any:
    """The class of a sampler.

    Raises:
        SettingError: a package that it needs is not installed, or OptunaHub has none of the name.
    """
    if name.startswith(FROM_HUB):
        return _load_from_hub(name)
    if name == "cmaes" and find_spec("cmaes") is None:
        raise SettingError(
            "search.sampler=cmaes needs a package that is not installed; type pip install"
            " 'prune-exp[samplers]', or use search.sampler=tpe"
        )
    return getattr(samplers, CLASSES[name])


def _load_from_hub(name: str) -> Any:
    package, _, commit = name.removeprefix(FROM_HUB).partition("@")
    try:
        hub = importlib.import_module("optunahub")
    except ImportError:
        raise SettingError(
            f"search.sampler={name} needs a package that is not installed; type pip install"
            " 'prune-exp[samplers]', or use search.sampler=tpe"
        ) from None
    try:
        module = hub.load_module(package, ref=commit)
    except Exception as error:  # the network, the registry, or what the package itself needs
        raise SettingError(f"search.sampler={name} cannot be loaded: {first_line(error)}") from None
    found = [
        one
        for one in vars(module).values()
        if inspect.isclass(one) and issubclass(one, BaseSampler) and not inspect.isabstract(one)
    ]
    own = [one for one in found if not one.__module__.startswith("optuna.")]
    if len(own) != 1:
        names = ", ".join(one.__name__ for one in own) or "none"
        raise SettingError(f"search.sampler={name} holds not one sampler but {names}")
    return own[0]
