"""Names of runs, and command lines that mean the same when they are read back."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_exp.settings.params import flatten_settings
from prune_exp.tracking.naming import (
    recall_overrides,
    remember_overrides,
    shell_command,
    sweep_name,
    trial_name,
)
from support.made_up_runs import settings


def test_a_sweep_is_called_by_its_space() -> None:
    assert sweep_name({"sparsity": "0.3,0.5,0.7"}, 3) == "sparsity=0.3,0.5,0.7"
    space = {"sparsity": "0.3,0.5", "pruning.depth_share": "interval(0,0.8)"}
    assert sweep_name(space, 20) == "sparsity=0.3,0.5 pruning.depth_share=interval(0,0.8)"
    assert sweep_name({}, 2) == "sweep of 2"
    assert sweep_name({}, 0) == "sweep"
    long = sweep_name({"sparsity": ",".join(f"0.{i:03d}" for i in range(500))}, 500)
    assert long.startswith("sparsity=0.000,")
    assert len(long) <= 160
    assert "hunter2" not in sweep_name({"model.password": "hunter2,hunter3"}, 2)


def test_a_trial_is_called_by_what_varies() -> None:
    one = settings(sparsity=0.5, vote_threshold=0.6)
    one.pruning.depth_share = 0.123456
    assert trial_name(flatten_settings(one), [], []) == "s=0.50 t=0.60"
    assert trial_name(flatten_settings(one), ["sparsity"], ["sparsity=0.5"]) == "s=0.50 t=0.60"
    swept = ["sparsity", "pruning.depth_share", "pruning", "pruning.voters"]
    named = trial_name(flatten_settings(one), swept, ["sparsity=0.5", "pruning=width"])
    assert named == 's=0.50 t=0.60 depth_share=0.1235 pruning=width voters=["wanda", "gradient"]'
    assert len(trial_name(flatten_settings(one), ["model.path"], [f"model.path={'x' * 500}"])) < 100
    assert "hunter2" not in trial_name(
        flatten_settings(one), ["model.password"], ["model.password=hunter2"]
    )


@given(st.lists(st.text(min_size=1, max_size=30).map(lambda text: f"key={text}"), max_size=4))
def test_a_command_line_comes_back_whole_from_the_tag_and_the_shell(given: list[str]) -> None:
    kept = recall_overrides(remember_overrides(given))
    assert kept is not None
    assert shlex.split(shell_command(kept, sweep=True)) == [
        "python",
        "-m",
        "prune_exp",
        "-m",
        *kept,
    ]


@pytest.mark.parametrize("tag", [None, "", "{}", '["cut off', "nonsense"])
def test_a_tag_that_was_cut_off_gives_no_command(tag: str | None) -> None:
    assert recall_overrides(tag) is None
