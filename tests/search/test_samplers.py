"""Samplers are made by name with Optuna's arguments, and refused in one line."""

import sys
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from prune_exp.search.samplers import check_sampler, make_sampler
from prune_exp.settings.checks import settings_of
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import SearchSettings
from prune_exp.settings.params import flatten_settings
from support.composed import compose_trial

ONE = {"cost": "minimize"}
HUB = "hub:samplers/auto_sampler@0123abc"


def test_arguments_reach_the_sampler_and_ours_give_way() -> None:
    given = {"n_startup_trials": 3, "multivariate": False}
    made: Any = make_sampler(SearchSettings(sampler_args=given), seen=0)
    assert isinstance(made, TPESampler)
    assert made._n_startup_trials == 3
    assert made._multivariate is False
    plain: Any = make_sampler(SearchSettings(), seen=0)
    assert plain._multivariate is True


@pytest.mark.parametrize(
    ("sampler", "arguments", "said"),
    [
        ("tpe", {"n_startup_trails": 3}, "did you mean n_startup_trials?"),
        ("tpe", {"seed": 3}, "search.sampler_args.seed cannot be set; search.seed seeds"),
        ("tpe", {"constraints_func": 3}, "constraints_func cannot be set"),
        ("nsgaii", {"population_size": 1}, "does not take search.sampler_args="),
        ("largest_kept", {"seed": 3}, "largest_kept has no arguments"),
    ],
)
def test_arguments_that_a_sampler_does_not_take_are_refused(
    sampler: str, arguments: dict[str, Any], said: str
) -> None:
    search = SearchSettings(sampler=sampler, sampler_args=arguments)
    with pytest.raises(SettingError) as refused:
        check_sampler(search, ONE)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["cmaes", HUB])
def test_what_is_not_installed_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prune_exp.search.samplers.find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "optunahub", None)
    with pytest.raises(SettingError, match=r"pip install 'prune-exp\[samplers\]'"):
        check_sampler(SearchSettings(sampler=name), ONE)


def test_cmaes_searches_for_one_objective() -> None:
    check_sampler(SearchSettings(sampler="cmaes"), ONE)
    with pytest.raises(SettingError, match="searches for one objective, not for cost, size"):
        check_sampler(SearchSettings(sampler="cmaes"), ONE | {"size": "minimize"})


def test_cmaes_comes_closer_and_closer() -> None:
    sampler = make_sampler(SearchSettings(sampler="cmaes"), seen=0)
    study = optuna.create_study(sampler=sampler)

    def cost(trial: optuna.Trial) -> float:
        sparsity = trial.suggest_float("sparsity", 0.1, 0.6)
        threshold = trial.suggest_float("vote_threshold", 0.2, 1.0)
        return (sparsity - 0.25) ** 2 + (threshold - 0.7) ** 2

    study.optimize(cost, n_trials=80)
    assert all(trial.system_attrs for trial in study.trials[2:]), "points were drawn at random"
    assert max(trial.values[0] for trial in study.trials[-10:]) < 0.01


class TheirSampler(RandomSampler):
    """As a package of OptunaHub holds one."""


def hub_of(**found: Any) -> SimpleNamespace:
    asked: list[tuple[str, str]] = []

    def load_module(package: str, *, ref: str) -> SimpleNamespace:
        asked.append((package, ref))
        return SimpleNamespace(BaseSampler=BaseSampler, TPESampler=TPESampler, **found)

    return SimpleNamespace(load_module=load_module, asked=asked)


def test_a_sampler_of_optunahub_is_loaded_at_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = hub_of(TheirSampler=TheirSampler)
    monkeypatch.setitem(sys.modules, "optunahub", hub)
    assert isinstance(make_sampler(SearchSettings(sampler=HUB), seen=0), TheirSampler)
    assert hub.asked == [("samplers/auto_sampler", "0123abc")]
    monkeypatch.setitem(sys.modules, "optunahub", hub_of())
    with pytest.raises(SettingError, match="holds not one sampler but none"):
        make_sampler(SearchSettings(sampler=HUB), seen=0)


@pytest.mark.parametrize("name", ["hub:samplers/auto_sampler", "hub:a@main", "hub:"])
def test_code_from_the_network_needs_a_commit(name: str) -> None:
    with pytest.raises(SettingError, match="pin it"):
        settings_of(compose_trial(f"search.sampler='{name}'"), checked=True)
    assert settings_of(compose_trial(f"search.sampler='{HUB}'"), checked=True).search.sampler == HUB


def test_arguments_come_from_the_command_line() -> None:
    config = compose_trial("search.sampler_args={n_startup_trials: 5}")
    settings = settings_of(config, checked=True)
    assert settings.search.sampler_args == {"n_startup_trials": 5}
    assert flatten_settings(settings)["search.sampler_args.n_startup_trials"] == "5"
    with pytest.raises(SettingError, match="is no names with values"):
        settings_of(compose_trial("search.sampler_args=5"), checked=True)
