"""What a command line sweeps."""

from dataclasses import replace
from pathlib import Path

import pytest

from prune_exp.search import study as studies
from prune_exp.search.space import (
    SearchChoice,
    SearchRange,
    Space,
    read_space,
    starts_of,
    swept_by,
)
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import SearchSettings


def test_the_space_of_another_sweeper_is_read_too() -> None:
    swept = swept_by(["a=1,2", "b=3", "c=range(1,4)", "d=[1,2]"])
    assert swept == {"a": "1,2", "c": "range(1,4)"}


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("a=int(interval(0.1, 0.5))", "holds no two whole numbers: int() cuts both ends to 0"),
        ("a=interval(0.5, 0.1)", "it needs low < high"),
        ("a=tag(log, interval(0, 1))", "low > 0 for log"),
    ],
)
def test_an_interval_without_numbers_in_it_is_refused(sweep: str, said: str) -> None:
    with pytest.raises(SettingError, match="try a=interval") as refused:
        read_space([sweep], [], None)
    assert said in str(refused.value)


def test_what_is_tagged_is_searched_by_steps_and_choices(tmp_path: Path) -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    from prune_exp.search.study import distributions_of, open_study

    arguments = [
        "sparsity=tag(search,range(0.1,0.5,0.05))",
        "data.voting_blocks=tag(search,range(2,10,2))",
        "pruning=tag(search,choice(best,vocab))",
        "seed=0,1",
    ]
    space = read_space(arguments, [], None)
    study = open_study(SearchSettings(), tmp_path, "s", {"cost": "minimize"}, {})
    assert distributions_of(study, space) == {
        "seed": FloatDistribution(0.0, 1.0),
        "sparsity": FloatDistribution(0.1, 0.45, step=0.05),
        "data.voting_blocks": IntDistribution(2, 8, step=2),
        "pruning": CategoricalDistribution(("best", "vocab")),
    }
    assert space.describe()["sparsity"] == "tag(search,range(0.1,0.45,step=0.05))"
    assert space.overrides({"sparsity": 0.1 + 0.05 + 0.05 + 0.05 + 0.05}) == ["sparsity=0.3"]
    assert len(space.corners) == 2 * 2 * 2
    swept = {text for one in space.corners for text in one if text.startswith("sparsity")}
    assert swept == {"sparsity=0.1", "sparsity=0.45"}
    only = read_space(["pruning=tag(search,choice(best,vocab))"], [], None)
    assert only.corners == [["pruning=best"], ["pruning=vocab"]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("seed=tag(search,choice(1))", "has one value and nothing to search"),
        ("sparsity=tag(search,log,range(0.1,0.5,0.1))", "tag(log,interval(0.1,0.4))"),
        ("sparsity=tag(search,range(0.1,0.15,0.1))", "has one value"),
    ],
)
def test_searches_without_a_choice_are_one_line(given: str, said: str) -> None:
    with pytest.raises(SettingError) as refused:
        read_space([given], [], None)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("range(0.1,0.55,0.05)", "0.1,0.15,0.2,0.25,0.3,0.35,0.4,0.45,0.5"),
        ("range(0.1,0.4,0.1)", "0.1,0.2,0.3"),
        ("range(0.5,0.2,-0.1)", "0.5,0.4,0.3"),
        ("sort(range(0.1,0.4,0.1),reverse=true)", "0.3,0.2,0.1"),
        ("range(1,2,0.25)", "1.0,1.25,1.5,1.75"),
        ("range(2,8,3)", "2,5"),
    ],
)
def test_a_range_is_in_the_decimals_that_were_typed(given: str, values: str) -> None:
    """Hydra adds the steps up in binary, and may step over the end or end short of it."""
    assert read_space([f"a={given}"], [], None).listed == {"a": tuple(values.split(","))}


def test_a_range_without_a_step_is_one_line_and_a_shuffled_one_is_the_same_range() -> None:
    with pytest.raises(SettingError, match="its step is 0"):
        read_space(["a=range(0.1,0.5,0.0)"], [], None)
    (values,) = read_space(["a=shuffle(range(0.1,0.4,0.1))"], [], None).listed.values()
    assert sorted(values) == ["0.1", "0.2", "0.3"]


@pytest.mark.parametrize(
    ("given", "low", "high"),
    [
        ("range(0.05,0.3,0.15)", 0.05, 0.2),
        ("range(0.15,0.6,0.15)", 0.15, 0.45),
        ("range(0.3,0.4,0.01)", 0.3, 0.39),
    ],
)
def test_a_searched_range_ends_with_its_last_value(
    given: str, low: float, high: float, tmp_path: Path
) -> None:
    space = read_space([f"a=tag(search,{given})"], [], None)
    study = studies.open_study(SearchSettings(), tmp_path, "s", {"cost": "minimize"}, {})
    one = studies.distributions_of(study, space)["a"]
    assert (one.low, one.high) == (low, high)  # pyright: ignore[reportAttributeAccessIssue]


def test_starts_keep_a_choice_that_is_configured() -> None:
    arguments = ["sparsity=interval(0.1,0.5)", "pruning.ballot=tag(search,choice(fixed,adaptive))"]
    space = read_space(arguments, [], None)
    for configured, first in (("adaptive", "adaptive"), ("fixed", "fixed"), (None, "fixed")):
        given = {} if configured is None else {"pruning.ballot": configured}
        starts = starts_of(space, given)
        assert [one["pruning.ballot"] for one in starts] == [first, first]


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii", "nsgaiii", "gp", "qmc"])
def test_samplers_keep_to_steps_and_choices(sampler: str, tmp_path: Path) -> None:
    arguments = ["a=tag(search,range(0.1,0.5,0.1))", "b=tag(search,choice(x,y))", "c=1,2"]
    space = read_space(arguments, [], None)
    search = SearchSettings(sampler=sampler)
    study = studies.open_study(search, tmp_path, "s", {"cost": "minimize"}, {})
    rows = studies.remaining_rows(study, space, 6)
    for trial in studies.ask_trials(study, space, rows):
        given = dict(one.split("=") for one in space.overrides(studies.point_of(trial)))
        assert given["a"] in ("0.1", "0.2", "0.3", "0.4")
        assert given["b"] in ("x", "y")
        studies.tell_trial(study, trial.number, {"cost": 1.0}, {"cost": "minimize"}, {})


def test_the_largest_cut_is_searched_without_steps() -> None:
    from prune_exp.search.largest_kept import sampler_for
    from prune_exp.settings.schema import Settings

    settings = Settings()
    settings.search.sampler = "largest_kept"
    stepped = read_space(["sparsity=tag(search,range(0.1,0.5,0.1))"], [], None)
    with pytest.raises(SettingError, match="searches sparsity alone"):
        sampler_for(settings, stepped)
    assert sampler_for(settings, read_space(["sparsity=interval(0.1,0.5)"], [], None))


@pytest.mark.parametrize(
    ("one", "setting", "expected"),
    [
        (SearchRange(low=0.2, high=1.0, integer=False, log=False), "0.5", 0.5),
        (SearchRange(low=0.2, high=1.0, integer=False, log=False), "0.1", 0.2),
        (SearchRange(low=0.2, high=1.0, integer=False, log=False), "None", 0.6),
        (SearchRange(low=1e-4, high=1e-2, integer=False, log=True), None, 1e-3),
        (SearchRange(low=1, high=8, integer=True, log=False), "3", 3),
        (SearchRange(low=1, high=8, integer=True, log=False), None, 5),
        (SearchRange(low=0.1, high=0.5, integer=False, log=False, step=0.1), "0.28", 0.3),
    ],
)
def test_a_start_is_as_configured_or_as_near_as_the_range_allows(
    one: SearchRange, setting: str | None, expected: float
) -> None:
    assert one.nearest(setting) == pytest.approx(expected)
    assert isinstance(one.nearest(setting), int) == one.integer


def test_starts_are_the_ends_of_the_sparsities_alone() -> None:
    wide = SearchRange(low=0.1, high=0.6, integer=False, log=False)
    words = SearchChoice(values=("best", "vocab"))
    some = Space(fixed=(), listed={}, searched={"pruning": words, "sparsity": wide})
    assert starts_of(some, {}) == (
        {"pruning": "best", "sparsity": 0.1},
        {"pruning": "best", "sparsity": 0.6},
    )
    assert starts_of(replace(some, searched={"vote_threshold": wide}), {}) == ()
