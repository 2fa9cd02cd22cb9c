"""What other studies found in the same space is known from the start, and not run again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prune_exp.search import study as studies
from prune_exp.search.space import SearchRange, Space
from prune_exp.search.summary import print_front
from prune_exp.search.warm_start import add_known_trials, find_sources
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import SearchSettings

INSIDE = SearchRange(low=0.1, high=0.9, integer=False, log=False)
SPACE = Space(fixed=(), listed={}, searched={"sparsity": INSIDE})
COST = {"cost": "minimize"}
PRINT = {"space of sparsity": "interval(0.1,0.9)", "seed": "0"}
LIMITS = {"size": 10.0}


def opened(folder: Path, name: str, directions: dict[str, str] = COST) -> Any:
    return studies.open_study(SearchSettings(), folder, name, directions, PRINT)


def run(study: Any, *found: dict[str, float]) -> None:
    for metrics in found:
        (trial,) = studies.ask_trials(study, SPACE, [{}])
        studies.tell_trial(study, trial.number, metrics, COST, {})


def sources_of(folder: Path, *names: str, fingerprint: dict[str, str] = PRINT, **more: Any) -> Any:
    search = SearchSettings(warm_start=list(names), **more)
    return find_sources(search, folder, SPACE, fingerprint)


def test_the_best_are_added_first_and_nothing_is_run_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = opened(tmp_path, "first")
    run(
        first,
        *({"cost": cost, "size": size} for cost, size in ((3.0, 1.0), (1.0, 99.0), (2.0, 1.0))),
    )
    run(first, {"cost": 9.0})
    new = opened(tmp_path, "new")
    sources = sources_of(tmp_path, "first")
    for _ in range(2):
        add_known_trials(new, sources, SPACE, COST, LIMITS)
    assert [trial.values for trial in new.trials] == [[2.0], [3.0], [1.0]]
    assert [studies.is_feasible(trial) for trial in new.trials] == [True, True, False]
    assert [trial.user_attrs[studies.WARM] for trial in new.trials] == [
        "first/2",
        "first/0",
        "first/1",
    ]
    assert new.trials[0].params == first.trials[2].params
    assert len(studies.remaining_rows(new, SPACE, n_trials=4)) == 4
    assert "3 trials of the study first are known here\n" in capsys.readouterr().err
    print_front(new, ["cost"])
    assert "0 (first/2)" in capsys.readouterr().out.replace("\n", "")


def test_objectives_are_read_again(tmp_path: Path) -> None:
    run(opened(tmp_path, "first"), {"cost": 1.0, "gain": 5.0}, {"cost": 2.0, "gain": 7.0})
    both = {"gain": "maximize", "cost": "minimize"}
    new = opened(tmp_path, "new", both)
    add_known_trials(new, sources_of(tmp_path, "first"), SPACE, both, {})
    assert [trial.values for trial in new.trials] == [[5.0, 1.0], [7.0, 2.0]]
    assert len(new.best_trials) == 2
    (asked,) = studies.ask_trials(new, SPACE, [{}])
    assert asked.number == 2


def test_what_was_otherwise_is_said_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(opened(tmp_path, "first"), {"cost": 1.0})
    new = opened(tmp_path, "new")
    sources = sources_of(tmp_path, "first", fingerprint=PRINT | {"seed": "1", "search.seed": "4"})
    add_known_trials(new, sources, SPACE, COST, {})
    assert new.user_attrs[studies.WARM] == {"first": ["seed was 0 and is 1"]}
    assert "known here; there seed was 0 and is 1" in capsys.readouterr().err
    again = opened(tmp_path, "again")
    add_known_trials(again, sources_of(tmp_path, "first", "new"), SPACE, COST, {})
    assert len(again.trials) == 1, "what one study lent another is not lent twice"


def test_studies_that_cannot_be_known_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="there is no other study in this storage"):
        sources_of(tmp_path, "first")
    assert not (tmp_path / "optuna.journal").exists()
    run(opened(tmp_path, "first"), {"cost": 1.0})
    with pytest.raises(SettingError, match="did you mean first"):
        sources_of(tmp_path, "frist")
    with pytest.raises(SettingError, match="there is no other study"):
        sources_of(tmp_path, "first", study_name="first")
    other = PRINT | {"space of sparsity": "interval(0.1,0.5)"}
    with pytest.raises(SettingError, match="another space: sparsity was interval"):
        sources_of(tmp_path, "first", fingerprint=other)
    listed = Space(fixed=(), listed={"sparsity": ("0.3",)}, searched={})
    with pytest.raises(SettingError, match="sweep an interval"):
        find_sources(SearchSettings(warm_start=["first"]), tmp_path, listed, PRINT)
    assert find_sources(SearchSettings(), tmp_path, listed, PRINT) == []


def test_words_become_numbers_and_what_lies_outside_is_left_out(tmp_path: Path) -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.trial import create_trial

    narrow = Space(
        fixed=(), listed={"t": ("0.1", "0.5")}, searched={"sparsity": replace(INSIDE, high=0.5)}
    )
    old = opened(tmp_path, "old")
    words = CategoricalDistribution(("0.1", "0.5", "0.9"))
    number = FloatDistribution(0.1, 0.9)
    for word, sparsity in (("0.1", 0.2), ("0.5", 0.3), ("0.9", 0.4), ("0.1", 0.9)):
        old.add_trial(
            create_trial(
                params={"t": word, "sparsity": sparsity},
                distributions={"t": words, "sparsity": number},
                values=[1.0],
                user_attrs={"cost": 1.0},
            )
        )
    new = opened(tmp_path, "new")
    sources = find_sources(SearchSettings(warm_start=["old"]), tmp_path, narrow, PRINT)
    add_known_trials(new, sources, narrow, COST, {})
    found = [trial.params for trial in new.trials]
    assert found == [{"t": 0.1, "sparsity": 0.2}, {"t": 0.5, "sparsity": 0.3}]
