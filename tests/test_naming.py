"""Names of runs, and command lines that mean the same when they are read back."""

import re
import shlex

import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from made_up import settings

from prune_exp.search.space import swept_by
from prune_exp.settings.params import flatten_settings, restore_settings
from prune_exp.settings.schema import Settings
from prune_exp.tracking.naming import (
    overrides_of,
    recall_overrides,
    remember_overrides,
    shell_command,
    sweep_name,
    trial_name,
)


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


def test_the_space_of_another_sweeper_is_read_too() -> None:
    swept = swept_by(["a=1,2", "b=3", "c=range(1,4)", "d=[1,2]"])
    assert swept == {"a": "1,2", "c": "range(1,4)"}


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


plain = st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="$")


def no_number(text: str) -> bool:
    """Whether it is a path: one like 1e5 would come back as the number that it names."""
    return text == text.strip() and not re.match(r"-?\d+(\.\d+)?(e|$)|\[", text)


@bounds(deadline=None, max_examples=60)
@given(st.text(plain, min_size=1, max_size=30).filter(no_number))
def test_every_setting_reads_back_as_it_was(text: str) -> None:
    """Hydra's own parser is the judge: what a tracked path was, it is again."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    one = settings()
    one.model.path = text
    one.pruning.voters = ["wanda", "obs"]
    parser = OverridesParser.create()
    found = {}
    for override in parser.parse_overrides(overrides_of(flatten_settings(one))):
        value = override.value()
        found[override.key_or_group] = getattr(value, "text", value)
    if "://" not in text:
        assert str(found["model.path"]) == text
    assert found["model.hub_id"] is None
    assert [getattr(v, "text", v) for v in found["pruning.voters"]] == ["wanda", "obs"]
    assert float(found["sparsity"]) == one.sparsity
    assert restore_settings(Settings, flatten_settings(one)).sparsity == one.sparsity
