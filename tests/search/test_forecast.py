"""A plan says what would be run, in words and in minutes."""

from pathlib import Path

import pytest

from prune_exp.machine.display import show_duration
from prune_exp.search.driver import describe_left
from prune_exp.search.forecast import MOST_ROWS, Forecast, show_plan
from prune_exp.search.space import SearchRange, Space
from support.cli import command

LISTED = Space(fixed=(), listed={"seed": ("0", "1")}, searched={})


def forecast(seconds: float, runs: int = 0) -> Forecast:
    return Forecast(steps=("prune", "judge 8 blocks"), seconds=seconds, memory_mib=1000, runs=runs)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "1 s"),
        (40, "40 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5000, "83 min"),
        (12000, "3 h 20 min"),
    ],
)
def test_durations_are_as_long_as_they_are_known(seconds: float, shown: str) -> None:
    assert show_duration(seconds) == shown


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ((0, 0), "2 trials, one after the other: about 10 min and 1,000 MiB of memory, by sizes"),
        ((3, 2), "by 3 runs of this store that were alike."),
        ((3, 0), "by runs of this store, 1 of them by sizes and this machine's speed."),
    ],
)
def test_every_trial_is_shown_and_their_sum(
    runs: tuple[int, int], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_plan(LISTED.rows, LISTED, [forecast(240, runs[0]), forecast(360, runs[1])])
    found = capsys.readouterr().out
    assert said in found
    assert "seed=0" in found
    assert "4 min" in found
    assert "6 min" in found
    assert found.endswith("Nothing was started.\n")


def test_side_by_side_takes_less_time_and_more_memory(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(LISTED.rows, LISTED, [forecast(600)] * 2, at_a_time=4, may_end=["Trials end early."])
    found = capsys.readouterr().out
    assert "2 at a time: about 10 min and 2,000 MiB" in found
    assert "end early" in found


def test_of_a_search_its_intervals_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    inside = SearchRange(low=0.1, high=0.9, integer=False, log=False)
    space = Space(fixed=(), listed={}, searched={"sparsity": inside})
    show_plan([{}] * (MOST_ROWS + 5), space, [forecast(60)] * (MOST_ROWS + 5))
    found = capsys.readouterr().out.replace("\n", "")
    assert "sparsity=interval(0.1,0.9)" in found
    assert "and 5 more like these" in found
    show_plan([], space, [])
    assert "nothing is left to run" in capsys.readouterr().out


def test_what_is_left_follows_from_what_has_run() -> None:
    said = describe_left(2, 5, 240.0)
    assert said == "prune_exp: 2 of 5 trials have run; about 6 min left"


def test_a_plan_starts_nothing(tiny_args: list[str], tmp_path: Path) -> None:
    for sweep, words in ((["-m", "sparsity=0.2,0.3"], "2 trials, one"), ([], "1 trial: about")):
        done = command(*sweep, *tiny_args, "plan=true", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
        assert "prompts" in done.stdout
        assert not (tmp_path / "mlruns").exists()
    kept = ["search.sampler=largest_kept", "hydra/launcher=joblib", "search.parallel=2"]
    done = command("-m", *kept, "sparsity=interval(0.1,0.4)", *tiny_args, "plan=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "one after the other" in done.stdout, "each follows from those before it"
    done = command("-m", *tiny_args, "plan=true", "sparsity=2", cwd=tmp_path)
    assert done.returncode == 1
    assert "sparsity=2 is not between" in done.stderr
