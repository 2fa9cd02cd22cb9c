"""Finished trials of other studies, known to a new study's sampler from its start."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from prune_exp.search import study as studies
from prune_exp.search.space import Space
from prune_exp.settings.choices import describe_unknown
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import SearchSettings

ASIDE = ("search.", "tracking.", "goal.")
"""How settings begin that change no trial's figures."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A study whose trials are taken over."""

    study: optuna.Study
    differences: tuple[str, ...]
    """What was otherwise when it ran."""


def find_sources(
    search: SearchSettings, root: Path, space: Space, fingerprint: Mapping[str, str]
) -> list[Source]:
    """The studies that `search.warm_start` names; nothing is made.

    Raises:
        SettingError: one of them does not exist, or searched another space.
    """
    if not search.warm_start:
        return []
    if not space.searched:
        raise SettingError(
            "search.warm_start is for searches; sweep an interval, or leave it out: the points of a"
            " list are run in any case"
        )
    known: list[str] = []
    storage: Any = None
    if search.storage is not None or (root / studies.JOURNAL).is_file():
        storage = studies.storage_of(search, root)
        known = optuna.get_all_study_names(storage)
    for name in search.warm_start:
        if name not in known or name == search.study_name:
            others = [one for one in known if one != search.study_name]
            if not others:
                raise SettingError(
                    f"search.warm_start={name}: there is no other study in this storage; leave it"
                    " out"
                )
            raise SettingError(describe_unknown("search.warm_start", name, others))
    return [
        _find_source(optuna.load_study(study_name=name, storage=storage), fingerprint)
        for name in search.warm_start
    ]


def _find_source(study: optuna.Study, fingerprint: Mapping[str, str]) -> Source:
    differ = studies.list_differences(study, fingerprint)
    for key, (before, now) in differ.items():
        if key.startswith(studies.SPACE):
            setting = key.removeprefix(studies.SPACE)
            raise SettingError(
                f"search.warm_start={study.study_name} searched another space: {setting} was"
                f" {before} and is {now}; search the same, or leave it out"
            )
    said = [
        f"{key} was {before} and is {now}"
        for key, (before, now) in differ.items()
        if not key.startswith(ASIDE)
    ]
    return Source(study=study, differences=tuple(said))


def add_known_trials(
    study: optuna.Study,
    sources: Sequence[Source],
    space: Space,
    directions: Mapping[str, str],
    limits: Mapping[str, float],
) -> None:
    """Adds what the sources' trials found, the best first, and notes what was otherwise."""
    have = {trial.user_attrs.get(studies.WARM) for trial in study.trials}
    kinds = studies.distributions_of(study, space)
    for source in sources:
        name = source.study.study_name
        usable = [
            trial
            for trial in source.study.get_trials(states=(TrialState.COMPLETE,))
            if {*directions, *limits} <= trial.user_attrs.keys()
            and studies.WARM not in trial.user_attrs
            and f"{name}/{trial.number}" not in have
        ]
        inside = {trial.number: _params_among(trial, kinds) for trial in usable}
        new = [trial for trial in usable if inside[trial.number] is not None]
        for trial in _best_first(new, directions, limits):
            known = f"{name}/{trial.number}"
            study.add_trial(
                _copy_trial(trial, known, inside[trial.number], kinds, directions, limits)
            )
        if new:
            _note_source(study, source, len(new))


def _note_source(study: optuna.Study, source: Source, count: int) -> None:
    name = source.study.study_name
    noted: dict[str, Any] = study.user_attrs.get(studies.WARM, {})
    study.set_user_attr(studies.WARM, noted | {name: list(source.differences)})
    differ = f"; there {'; '.join(source.differences[:5])}" if source.differences else ""
    print(f"note: {count} trials of the study {name} are known here{differ}", file=sys.stderr)


def _copy_trial(
    trial: FrozenTrial,
    known: str,
    params: dict[str, Any] | None,
    kinds: Mapping[str, BaseDistribution],
    directions: Mapping[str, str],
    limits: Mapping[str, float],
) -> FrozenTrial:
    found = trial.user_attrs
    return create_trial(
        params=params,
        distributions=dict(kinds),
        values=[found[metric] for metric in directions],
        user_attrs=found | {studies.WARM: known},
        constraints={metric: found[metric] - most for metric, most in limits.items()},
    )


def _params_among(
    trial: FrozenTrial, kinds: Mapping[str, BaseDistribution]
) -> dict[str, Any] | None:
    """A trial's values as this study holds them; None where one lies outside of its space.

    Studies of earlier versions hold numbers of a list as words.
    """
    point = studies.point_of(trial)
    params: dict[str, Any] = {}
    for key, kind in kinds.items():
        try:
            value = point[key] if isinstance(kind, CategoricalDistribution) else float(point[key])
            inside = kind._contains(kind.to_internal_repr(value))
        except (KeyError, ValueError):
            return None
        if not inside:
            return None
        params[key] = kind.to_external_repr(kind.to_internal_repr(value))
    return params


def _best_first(
    trials: Sequence[FrozenTrial], directions: Mapping[str, str], limits: Mapping[str, float]
) -> list[FrozenTrial]:
    """Feasible ones first, then by how many others beat them in every objective."""
    signs = {metric: -1 if way == "maximize" else 1 for metric, way in directions.items()}
    costs = {
        trial.number: [sign * trial.user_attrs[metric] for metric, sign in signs.items()]
        for trial in trials
    }

    def beaten(one: list[float]) -> int:
        return sum(
            all(a <= b for a, b in zip(other, one, strict=True)) and other != one
            for other in costs.values()
        )

    def rank(trial: FrozenTrial) -> tuple[bool, int, int]:
        broken = any(trial.user_attrs[metric] > most for metric, most in limits.items())
        return broken, beaten(costs[trial.number]), trial.number

    return sorted(trials, key=rank)
