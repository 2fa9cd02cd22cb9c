"""A study knows what is left, keeps to its space, and refuses other settings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prune_exp.search import study as studies
from prune_exp.search.space import SearchRange, Space, starts_of
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import SearchSettings


def space(listed: dict[str, tuple[str, ...]], *searched: str) -> Space:
    one = SearchRange(low=0.1, high=0.9, integer=False, log=False)
    return Space(fixed=(), listed=listed, searched=dict.fromkeys(searched, one))


def new_study(tmp_path: Path, name: str = "s", **settings: Any) -> Any:
    search = SearchSettings(study_name=name, **settings)
    return studies.open_study(search, tmp_path, name, {"cost": "minimize"}, {"a": "1"})


def test_lists_multiply_and_each_point_is_left_until_it_has_a_result(tmp_path: Path) -> None:
    grid = space({"sparsity": ("0.3", "0.5"), "seed": ("0", "1")})
    study = new_study(tmp_path)
    rows = studies.remaining_rows(study, grid, n_trials=1)
    assert [(row["sparsity"], row["seed"]) for row in rows] == [
        ("0.3", "0"),
        ("0.3", "1"),
        ("0.5", "0"),
        ("0.5", "1"),
    ]
    for trial in studies.ask_trials(study, grid, rows[:2]):
        studies.tell_trial(study, trial.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    (lost,) = studies.ask_trials(study, grid, rows[2:3])
    studies.tell_trial(study, lost.number, {"cost": float("nan")}, {"cost": "minimize"}, {})
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert "cost is nan" in study.trials[2].user_attrs[studies.ERROR]
    assert studies.remaining_rows(study, grid, n_trials=1) == rows[2:]


def test_a_point_is_the_same_however_its_numbers_are_typed(tmp_path: Path) -> None:
    first = space({"sparsity": (".3", "0.1"), "pruning": ("best", "0.1")})
    study = new_study(tmp_path)
    rows = studies.remaining_rows(study, first, n_trials=1)
    for trial in studies.ask_trials(study, first, rows[:3]):
        studies.tell_trial(study, trial.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    again = space({"sparsity": ("0.30", "0.1", "0.4"), "pruning": ("best", "0.10")})
    left = studies.remaining_rows(study, again, n_trials=1)
    assert [(row["sparsity"], row["pruning"]) for row in left] == [
        ("0.1", "0.10"),
        ("0.4", "best"),
        ("0.4", "0.10"),
    ]


def test_points_that_only_look_alike_are_run(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    first = space({"seed": ("1234567890123",), "model.revision": ("12e4",)})
    (trial,) = studies.ask_trials(study, first, first.rows)
    studies.tell_trial(study, trial.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    assert not studies.remaining_rows(study, first, n_trials=1)
    other = space({"seed": ("1234567890123", "1234567890124"), "model.revision": ("120000",)})
    assert studies.remaining_rows(study, other, n_trials=1) == other.rows


def test_a_search_within_a_list_goes_on_however_the_list_was_typed(tmp_path: Path) -> None:
    def opened(values: str) -> Any:
        return studies.open_study(
            SearchSettings(study_name="s"),
            tmp_path,
            "s",
            {"cost": "minimize"},
            {"space of seed": "interval(0.1,0.9)", "space of sparsity": values},
        )

    study = opened("0.1,0.2,0.30000000000000004")
    mixed = space({"sparsity": ("0.30000000000000004",)}, "vote_threshold")
    (trial,) = studies.ask_trials(study, mixed, mixed.rows)
    studies.interrupt_trial(study, trial.number)
    again = space({"sparsity": (".3",)}, "vote_threshold")
    (left,) = studies.remaining_rows(opened("0.1,.20,0.3"), again, n_trials=1)
    assert left["vote_threshold"] == trial.params["vote_threshold"]
    with pytest.raises(SettingError, match="space of sparsity"):
        opened("0.1,0.2")


def test_a_study_keeps_the_objectives_that_it_was_made_with(tmp_path: Path) -> None:
    made = {"speed": "maximize", "cost": "minimize"}
    study = studies.open_study(SearchSettings(), tmp_path, "s", made, {})
    assert studies.directions_of(study) == made
    again = studies.open_study(SearchSettings(), tmp_path, "s", {"cost": "minimize"}, {})
    assert studies.directions_of(again) == made


def test_a_store_that_was_moved_is_the_same_study(tmp_path: Path) -> None:
    """Where the journal lies in it; a database of studies may serve several stores."""
    search = SearchSettings(study_name="s")
    made = {"tracking.root": "mlruns", "tracking.uri": "None", "search.storage": "None"}
    studies.open_study(search, tmp_path, "s", {"cost": "minimize"}, made)
    moved = made | {"tracking.root": "runs"}
    studies.open_study(search, tmp_path, "s", {"cost": "minimize"}, moved)
    elsewhere = {"search.storage": "sqlite:///studies.db"}
    study = studies.open_study(search, tmp_path / "b", "s", {"cost": "minimize"}, made | elsewhere)
    assert studies.list_differences(study, moved | elsewhere) == {
        "tracking.root": ("mlruns", "runs")
    }


def test_a_search_counts_all_trials_but_interrupted_ones_and_deals_lists_in_turn(
    tmp_path: Path,
) -> None:
    mixed = space({"seed": ("0", "1")}, "sparsity")
    study = new_study(tmp_path)
    rows = studies.remaining_rows(study, mixed, n_trials=5)
    assert [row["seed"] for row in rows] == ["0", "1", "0", "1", "0"]
    first, second, third = studies.ask_trials(study, mixed, rows[:3])
    assert [studies.point_of(t)["seed"] for t in (first, second, third)] == ["0", "1", "0"]
    assert all(0.1 <= t.params["sparsity"] <= 0.9 for t in (first, second, third))
    studies.tell_trial(study, first.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    studies.tell_trial(study, second.number, None, {"cost": "minimize"}, {}, "it broke")
    studies.interrupt_trial(study, third.number)
    assert [row["seed"] for row in studies.remaining_rows(study, mixed, n_trials=5)] == [
        "0",
        "1",
        "0",
    ]


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii", "nsgaiii", "gp", "qmc"])
def test_every_sampler_keeps_to_the_space_and_does_not_repeat_itself(
    sampler: str, tmp_path: Path
) -> None:
    inside = space({}, "sparsity", "vote_threshold")
    seen = set()
    for _start in range(2):
        study = new_study(tmp_path, sampler=sampler)
        for trial in studies.ask_trials(study, inside, [{}, {}, {}]):
            seen.add(trial.params["sparsity"])
            assert all(0.1 <= value <= 0.9 for value in trial.params.values())
            studies.tell_trial(study, trial.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    assert len(seen) == 6


def search_near(study: Any, wanted: float, *, trials: int) -> list[float]:
    """How far from the best value each of some trials was, told one after the other."""
    asked = []
    for _ in range(trials):
        (trial,) = studies.ask_trials(study, space({}, "sparsity"), [{}])
        value = trial.params["sparsity"]
        assert 0.1 <= value <= 0.9
        asked.append(abs(value - wanted))
        studies.tell_trial(study, trial.number, {"cost": asked[-1]}, {"cost": "minimize"}, {})
    return asked


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_samplers_that_model_go_by_what_trials_found(sampler: str, tmp_path: Path) -> None:
    """Beyond their first trials, which are random, they ask near what was good."""
    study = new_study(tmp_path, sampler=sampler, sampler_args={"n_startup_trials": 3})
    asked = search_near(study, 0.3, trials=18)
    assert sum(asked[-6:]) < sum(asked[:6])


@pytest.mark.parametrize("sampler", ["nsgaii", "nsgaiii"])
def test_samplers_that_breed_come_to_further_generations(sampler: str, tmp_path: Path) -> None:
    study = new_study(tmp_path, sampler=sampler, sampler_args={"population_size": 3})
    search_near(study, 0.3, trials=10)
    generations = [
        value
        for trial in study.trials
        for key, value in trial.system_attrs.items()
        if key.endswith(":generation")
    ]
    assert max(generations) >= 2


def test_constraints_decide_what_is_feasible(tmp_path: Path) -> None:
    from prune_exp.search.summary import describe_trial

    study = new_study(tmp_path)
    inside = space({}, "sparsity")
    for cost, ratio in ((1.0, 9.0), (2.0, 3.0)):
        (trial,) = studies.ask_trials(study, inside, [{}])
        found = {"cost": cost, "ratio": ratio}
        studies.tell_trial(study, trial.number, found, {"cost": "minimize"}, {"ratio": 5.0})
    assert [studies.is_feasible(trial) for trial in study.trials] == [False, True]
    assert study.best_trial.number == 1
    assert "infeasible" in describe_trial(study, 0, ["cost"])
    assert "best so far: trial 1" in describe_trial(study, 1, ["cost"])


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii", "nsgaiii", "gp", "qmc"])
@pytest.mark.parametrize("known", [True, False])
def test_a_trial_that_was_ended_early_is_done_and_infeasible(
    known: bool, sampler: str, tmp_path: Path
) -> None:
    from prune_exp.search.summary import describe_trial

    study = new_study(tmp_path, sampler=sampler)
    inside = space({}, "sparsity")
    found = {"stopped/after_blocks": 8.0, "stopped/at_least/ratio": 6.25, "size": 0.5}
    for number in range(3):
        (trial,) = studies.ask_trials(study, inside, [{}])
        more = {"cost": 1.0} if known else {}
        told = studies.tell_trial(
            study, trial.number, found | more, {"cost": "minimize"}, {"ratio": 5.0, "size": 1.0}
        )
        assert told == ""
        assert study.trials[number].constraints == {"ratio": 1.25, "size": -0.5}
        assert study.trials[number].state.name == ("COMPLETE" if known else "PRUNED")
    assert not studies.is_feasible(study.trials[0])
    assert len(studies.remaining_rows(study, inside, n_trials=5)) == 2
    line = describe_trial(study, 0, ["cost"])
    assert "stopped: ratio is at least 6.25 after 8 held-out blocks and may be at most 5" in line


def test_a_listed_point_that_was_ended_early_is_not_run_again(tmp_path: Path) -> None:
    grid = space({"sparsity": ("0.3", "0.5")})
    study = new_study(tmp_path)
    (trial, _) = studies.ask_trials(study, grid, grid.rows)
    found = {"stopped/after_blocks": 0.0, "stopped/at_least/size": 2.0, "size": 2.0}
    studies.tell_trial(study, trial.number, found, {"cost": "minimize"}, {"size": 1.0})
    assert study.trials[0].user_attrs[studies.STOPPED] == "size is 2 and may be at most 1"
    assert studies.remaining_rows(study, grid, 1) == [{"sparsity": "0.5"}]


def test_a_study_of_other_settings_is_refused_with_the_difference(tmp_path: Path) -> None:
    new_study(tmp_path)
    with pytest.raises(SettingError, match="a was 1 and is 2"):
        studies.open_study(SearchSettings(), tmp_path, "s", {"cost": "minimize"}, {"a": "2"})
    newer = {"a": "1", "goal.speedup": "None", "search.warm_start": "[]"}
    studies.open_study(SearchSettings(), tmp_path, "s", {"cost": "minimize"}, newer)
    more = newer | {"goal.speedup": "2"}
    with pytest.raises(SettingError, match=r"goal.speedup was None and is 2"):
        studies.open_study(SearchSettings(), tmp_path, "s", {"cost": "minimize"}, more)


@pytest.mark.parametrize("uri", ["None", "http://team"])
def test_drivers_of_one_store_may_have_folders_of_their_own(uri: str, tmp_path: Path) -> None:
    first = {"tracking.uri": uri, "tracking.root": "here"}
    reopened(tmp_path, first)
    if uri == "None":
        with pytest.raises(SettingError, match=r"tracking.root was here and is there"):
            reopened(tmp_path, first | {"tracking.root": "there"})
    else:
        reopened(tmp_path, first | {"tracking.root": "there"})
        with pytest.raises(SettingError, match=r"tracking.uri was http://team and is None"):
            reopened(tmp_path, {"tracking.uri": "None", "tracking.root": "here"})


def test_a_list_may_become_longer_and_only_what_is_new_is_left(tmp_path: Path) -> None:
    fixed = {"a": "1", "cache_dir": "here", "tracking.log_models": "all"}

    def opened(listed: dict[str, tuple[str, ...]], **changes: str) -> tuple[Any, Space]:
        grid = space(listed)
        shown = {f"space of {key}": text for key, text in grid.describe().items()}
        search = SearchSettings(study_name="s")
        fingerprint = fixed | shown | changes
        directions = {"cost": "minimize"}
        return studies.open_study(search, tmp_path, "s", directions, fingerprint), grid

    study, grid = opened({"sparsity": ("0.3",)})
    (only,) = studies.ask_trials(study, grid, studies.remaining_rows(study, grid, 1))
    studies.tell_trial(study, only.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    study, grid = opened({"sparsity": ("0.3", "0.4")}, cache_dir="there")
    rows = studies.remaining_rows(study, grid, 1)
    assert rows == [{"sparsity": "0.4"}]
    (more,) = studies.ask_trials(study, grid, rows)
    assert studies.point_of(more) == {"sparsity": "0.4"}
    studies.tell_trial(study, more.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    study, grid = opened({"sparsity": ("0.4",)}, **{"tracking.log_models": "none"})
    assert studies.remaining_rows(study, grid, 1) == []
    with pytest.raises(SettingError, match="space of seed was not set"):
        opened({"sparsity": ("0.3",), "seed": ("0", "1")})
    with pytest.raises(SettingError, match="space of sparsity was a list and is interval"):
        opened({}, **{"space of sparsity": "interval(0.1,0.9)"})
    with pytest.raises(SettingError, match="a was 1 and is 2"):
        opened({"sparsity": ("0.3",)}, a="2")


@pytest.mark.parametrize("searched", [(), ("vote_threshold",)])
def test_studies_that_hold_numbers_as_words_go_on_with_words(
    searched: tuple[str, ...], tmp_path: Path
) -> None:
    """As earlier versions wrote them: one word of a list, without what was typed beside it."""
    from optuna.distributions import CategoricalDistribution

    grid = space({"sparsity": ("0.3", "0.5")}, *searched)
    study = new_study(tmp_path)
    study.enqueue_trial({"sparsity": "0.3"})
    old = study.ask({"sparsity": CategoricalDistribution(grid.listed["sparsity"])})
    studies.tell_trial(study, old.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    study = new_study(tmp_path)
    left = studies.remaining_rows(study, grid, 2)
    assert left == [{"sparsity": "0.5"}]
    (new,) = studies.ask_trials(study, grid, left)
    assert studies.point_of(new)["sparsity"] == "0.5"
    assert new.params.get("sparsity") == ("0.5" if searched else None)
    studies.tell_trial(study, new.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    assert studies.remaining_rows(new_study(tmp_path), grid, 2) == []


@pytest.mark.parametrize("searched", [(), ("vote_threshold",)])
def test_lists_of_numbers_are_numbers_to_optuna_and_as_typed_to_hydra(
    searched: tuple[str, ...], tmp_path: Path
) -> None:
    grid = space({"sparsity": ("0.30", "5e-1"), "seed": ("0", "1"), "pruning": ("a", "b")})
    grid = replace(grid, searched=space({}, *searched).searched)
    study = new_study(tmp_path)
    for trial in studies.ask_trials(study, grid, studies.remaining_rows(study, grid, 8)):
        point = studies.point_of(trial)
        assert {f"sparsity={point['sparsity']}", f"seed={point['seed']}"} <= set(
            grid.overrides(point)
        )
        assert point["sparsity"] in grid.listed["sparsity"]
        assert point["seed"] in grid.listed["seed"]
        cost = {"cost": trial.params["sparsity"]}
        studies.tell_trial(study, trial.number, cost, {"cost": "minimize"}, {})
    found = new_study(tmp_path).trials
    assert {trial.params["sparsity"] for trial in found} == {0.3, 0.5}
    assert {trial.params["seed"] for trial in found} == {0, 1}
    kinds = {type(trial.distributions["sparsity"]).__name__ for trial in found}
    assert kinds == {"FloatDistribution"}
    assert {trial.params.get("pruning") for trial in found} == ({"a", "b"} if searched else {None})
    assert studies.remaining_rows(study, grid, 8) == []


def test_a_list_of_numbers_may_get_a_longer_range_or_a_word(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    listed: list[tuple[str, ...]] = [("1",), ("1", "2.5"), ("1", "2.5", "null"), ("7",)]
    for values in listed:
        grid = space({"k": values})
        rows = studies.remaining_rows(study, grid, 1)
        assert rows == [{"k": values[-1]}]
        (trial,) = studies.ask_trials(study, grid, rows)
        studies.tell_trial(study, trial.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    assert [trial.params.get("k") for trial in study.trials] == [1.0, 2.5, None, 7.0]


def test_what_is_no_finite_number_is_a_word() -> None:
    assert studies.read_numbers(["1", "0.5", "1e-3"]) == [1, 0.5, 0.001]
    for other in ("true", "null", "wanda", "nan", "inf", "1e999", "'1'", ""):
        assert studies.read_numbers(["1", other]) is None


@pytest.mark.parametrize("several", [True, False])
def test_importances_name_what_decides(several: bool, tmp_path: Path) -> None:
    from prune_exp.search.summary import list_importances

    directions = {"cost": "minimize"} | ({"size": "maximize"} if several else {})
    study = studies.open_study(SearchSettings(), tmp_path, "s", directions, {})
    inside = space({}, "sparsity", "vote_threshold")
    assert list_importances(study, list(directions)) == {}
    for trial in studies.ask_trials(study, inside, [{}] * 30):
        found = {"cost": trial.params["sparsity"], "size": trial.params["vote_threshold"]}
        studies.tell_trial(study, trial.number, found, directions, {})
    found = list_importances(study, list(directions))
    assert len(found) == 2 * len(directions)
    assert found["importance/cost/sparsity"] > 0.7
    if several:
        assert found["importance/size/vote_threshold"] > 0.7


def test_one_driver_at_a_time(tmp_path: Path) -> None:
    with (
        studies.sole_driver(tmp_path, "s"),
        pytest.raises(SettingError, match="another process"),
        studies.sole_driver(tmp_path, "s"),
    ):
        pass
    assert list(tmp_path.iterdir()) == [], "no lock is left behind"


def test_a_lock_that_its_holder_has_just_removed_is_none(tmp_path: Path) -> None:
    """Opened while another driver had it, locked once that one had ended and taken it away."""
    path = tmp_path / ".study-s.lock"
    with path.open("ab") as late:
        path.unlink()
        assert not studies._is_ours(late, path)
    with path.open("ab") as late:
        path.unlink()
        path.touch()
        assert not studies._is_ours(late, path), "that is another driver's"


def test_tags_and_other_things_that_change_no_result_may_change(tmp_path: Path) -> None:
    reopened(tmp_path, {"a": "1", "tracking.tags.team": "red"})
    reopened(tmp_path, {"a": "1", "tracking.tags.ticket": "12"})
    with pytest.raises(SettingError, match="a was 1 and is 2"):
        reopened(tmp_path, {"a": "2", "tracking.tags.team": "red"})


def test_intervals_are_searched_within_each_listed_value(tmp_path: Path) -> None:
    """What is good for one listed value is bad for the other."""
    mixed = space({"seed": ("low", "high")}, "sparsity")
    study = new_study(tmp_path)
    best = {"low": 0.2, "high": 0.8}
    found: dict[str, list[float]] = {"low": [], "high": []}
    for row in studies.remaining_rows(study, mixed, n_trials=60):
        (trial,) = studies.ask_trials(study, mixed, [row])
        assert trial.params["seed"] == row["seed"]
        value = trial.params["sparsity"]
        found[row["seed"]].append(value)
        cost = {"cost": abs(value - best[row["seed"]])}
        studies.tell_trial(study, trial.number, cost, {"cost": "minimize"}, {})
    for seed, values in found.items():
        late = values[-12:]
        near = [value for value in late if abs(value - best[seed]) < 0.3]
        assert len(near) >= 10, (seed, late)


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii", "nsgaiii", "gp", "qmc"])
def test_every_sampler_takes_lists_with_intervals(sampler: str, tmp_path: Path) -> None:
    mixed = space({"seed": ("0", "1")}, "sparsity", "vote_threshold")
    seen: dict[str, set[float]] = {"0": set(), "1": set()}
    for _start in range(2):
        study = new_study(tmp_path, sampler=sampler)
        rows = [{"seed": "0"}, {"seed": "1"}] * 3
        for row, trial in zip(rows, studies.ask_trials(study, mixed, rows), strict=True):
            assert studies.point_of(trial)["seed"] == row["seed"]
            seen[row["seed"]].add(trial.params["sparsity"])
            studies.tell_trial(study, trial.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    assert {seed: len(values) for seed, values in seen.items()} == {"0": 6, "1": 6}


@pytest.mark.parametrize("searched", [(), ("sparsity",)])
def test_a_trial_left_waiting_does_not_shift_the_rows(
    searched: tuple[str, ...], tmp_path: Path
) -> None:
    grid = space({"seed": ("0", "1")}, *searched)
    study = new_study(tmp_path)
    study.enqueue_trial({"seed": "0"})
    rows = [{"seed": "1"}, {"seed": "0"}]
    asked = studies.ask_trials(study, grid, rows)
    assert [studies.point_of(trial)["seed"] for trial in asked] == ["1", "0"]
    assert [trial.number for trial in asked] == studies.running_trials(study)
    assert len(studies.running_trials(new_study(tmp_path))) == 2


INPUTS = {"a": "1", "digest of the text": "t", "version of torch": "2"}


def reopened(tmp_path: Path, fingerprint: dict[str, str]) -> Any:
    search = SearchSettings(study_name="s")
    return studies.open_study(search, tmp_path, "s", {"cost": "minimize"}, fingerprint)


@pytest.mark.parametrize("key", ["digest of the text", "version of torch"])
def test_a_study_of_other_inputs_is_refused(key: str, tmp_path: Path) -> None:
    reopened(tmp_path, INPUTS)
    reopened(tmp_path, INPUTS)
    with pytest.raises(SettingError, match=f"{key} was {INPUTS[key]} and is other"):
        reopened(tmp_path, INPUTS | {key: "other"})


def test_a_study_that_noted_no_inputs_goes_on_and_notes_them(tmp_path: Path) -> None:
    new_study(tmp_path)
    reopened(tmp_path, INPUTS)
    with pytest.raises(SettingError, match="digest of the text was t and is u"):
        reopened(tmp_path, INPUTS | {"digest of the text": "u"})


@pytest.mark.parametrize("left", [1, 20, 200])
def test_a_line_that_was_cut_off_spoils_none_after_it(left: int, tmp_path: Path) -> None:
    """As a kill or a full disk leaves it: the journal's last line has no end."""
    study = new_study(tmp_path)
    study.ask().set_user_attr("kept", "yes")
    journal = tmp_path / "optuna.journal"
    whole = journal.read_bytes()
    study.ask().set_user_attr("torn", "x" * 300)
    journal.write_bytes(journal.read_bytes()[: len(whole) + left])
    again = new_study(tmp_path)
    asked = again.ask()
    asked.set_user_attr("after", "yes")
    assert journal.read_bytes().startswith(whole)
    trials = new_study(tmp_path).trials
    assert trials[0].user_attrs == {"kept": "yes"}
    assert trials[asked.number].user_attrs == {"after": "yes"}


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (lambda lines: [lines[0], lines[1][:9] + lines[2], *lines[3:]], " in line 2;"),
        (lambda lines: [b"\0\xff\n", *lines], " in line 1;"),
        (lambda lines: [*lines[:2], b"\n", *lines[2:]], " in line 3;"),
        (lambda lines: [*lines[:2], b"[]\n", *lines[2:]], "is damaged;"),
    ],
)
def test_a_damaged_journal_is_refused_by_line(damage: Any, where: str, tmp_path: Path) -> None:
    new_study(tmp_path).ask().set_user_attr("kept", "yes")
    journal = tmp_path / "optuna.journal"
    spoiled = b"".join(damage(journal.read_bytes().splitlines(keepends=True)))
    journal.write_bytes(spoiled)
    with pytest.raises(SettingError) as caught:
        new_study(tmp_path)
    said = str(caught.value)
    assert where in said
    assert f"mv {journal} {journal}.damaged" in said
    assert journal.read_bytes() == spoiled
    journal.rename(f"{journal}.damaged")
    assert not new_study(tmp_path).trials


def test_a_journal_on_a_full_disk_has_whole_lines_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    study = new_study(tmp_path)
    before = (tmp_path / "optuna.journal").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            study.ask()
    assert (tmp_path / "optuna.journal").read_bytes() == before
    assert len(new_study(tmp_path).trials) == 0


def test_a_point_that_was_cut_off_in_a_search_is_asked_for_again(tmp_path: Path) -> None:
    mixed = space({"seed": ("0", "1")}, "sparsity")
    study = new_study(tmp_path)
    first, second = studies.ask_trials(study, mixed, studies.remaining_rows(study, mixed, 2))
    studies.tell_trial(study, first.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    studies.interrupt_trial(study, second.number)
    rows = studies.remaining_rows(study, mixed, n_trials=4)
    point = studies.point_of(second)
    assert rows == [point, {"seed": "0"}, {"seed": "1"}]
    again, fresh, _ = studies.ask_trials(study, mixed, rows)
    assert studies.point_of(again) == point
    assert again.params == second.params
    assert fresh.params != first.params
    studies.interrupt_trial(study, again.number)
    assert studies.remaining_rows(study, mixed, n_trials=4)[0] == point
    (third,) = studies.ask_trials(study, mixed, [point])
    studies.tell_trial(study, third.number, None, {"cost": "minimize"}, {}, "it broke")
    rows = studies.remaining_rows(study, mixed, n_trials=5)
    assert point not in rows, "it had its turn"
    assert studies.remaining_rows(study, mixed, n_trials=1) == []


def test_a_point_that_was_cut_off_before_it_was_noted_is_not_asked_for_again(
    tmp_path: Path,
) -> None:
    """Killed between asking and noting what was typed: 1.0 might be no seed."""
    mixed = space({"seed": ("0", "1")}, "sparsity")
    study = new_study(tmp_path)
    asked = study.ask(studies.distributions_of(study, mixed))
    studies.interrupt_trial(study, asked.number)
    rows = studies.remaining_rows(study, mixed, n_trials=2)
    assert rows == [{"seed": "0"}, {"seed": "1"}]


def test_what_has_its_digest_may_lie_elsewhere(tmp_path: Path) -> None:
    places = {"model.path": "dense", "data.path": "t.txt", "benchmark.prompts_path": "p.txt"}
    moved = {key: f"/somewhere/{value}" for key, value in places.items()}
    digests = {f"digest of the {name}": "d" for name in ("dense model", "text", "prompts")}
    reopened(tmp_path, places)
    with pytest.raises(SettingError, match=r"model\.path was dense"):
        reopened(tmp_path, moved | digests)
    reopened(tmp_path, places | digests)
    reopened(tmp_path, moved | digests)
    with pytest.raises(SettingError, match="digest of the text was d and is e"):
        reopened(tmp_path, moved | digests | {"digest of the text": "e"})


def test_a_storage_whose_package_is_missing_is_said_to_be(tmp_path: Path) -> None:
    url = "mssql+pymssql://u:hunter2@host/db"
    with pytest.raises(SettingError, match="needs a package that is not installed") as refused:
        studies.open_study(SearchSettings(storage=url), tmp_path, "s", {"cost": "minimize"}, {})
    assert "hunter2" not in str(refused.value)


def test_a_search_begins_at_both_ends_of_each_listed_point(tmp_path: Path) -> None:
    mixed = space({"seed": ("0", "1")}, "sparsity", "vote_threshold")
    mixed = replace(mixed, starts=starts_of(mixed, {"vote_threshold": "0.5"}))
    study = new_study(tmp_path)
    asked = studies.ask_trials(study, mixed, studies.remaining_rows(study, mixed, 6))
    points = [studies.point_of(trial) for trial in asked]
    assert points[:4] == [
        {"seed": "0", "sparsity": 0.1, "vote_threshold": 0.5},
        {"seed": "1", "sparsity": 0.1, "vote_threshold": 0.5},
        {"seed": "0", "sparsity": 0.9, "vote_threshold": 0.5},
        {"seed": "1", "sparsity": 0.9, "vote_threshold": 0.5},
    ]
    assert len({point["sparsity"] for point in points}) == 4
    for trial in asked[:3]:
        studies.tell_trial(study, trial.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    studies.interrupt_trial(study, asked[3].number)
    (again, *_) = studies.remaining_rows(study, mixed, 6)
    assert again == points[3]
