"""Goals in the user's units are constraints, and their opposite is searched for."""

from typing import Any

import pytest

from prune_exp.settings.checks import settings_of
from prune_exp.settings.errors import SettingError
from prune_exp.settings.goals import FORESEEN
from prune_exp.settings.schema import Settings
from prune_exp.tracking.metrics import metric_keys
from support.composed import compose_trial

BOTH = ["latency_ratio", "bits_per_byte_increase"]


@pytest.mark.parametrize(
    ("given", "constraints", "objectives", "best"),
    [
        ([], [], BOTH, "speedup_if_maintained"),
        (["goal.file_mib=100"], ["file_mib:100.0"], BOTH[1:], "quality"),
        (["goal.speedup=2"], ["latency_ratio:0.5"], BOTH[1:], "quality"),
        (["goal.latency_ms=40"], ["pruned/latency_ms_p50:40.0"], BOTH[1:], "quality"),
        (["goal.memory_mib=300"], ["pruned/peak_memory_mib:300.0"], BOTH[1:], "quality"),
        (
            ["goal.perplexity_ratio=1.2"],
            ["perplexity_ratio:1.2"],
            BOTH[:1],
            "speedup_if_maintained",
        ),
        (
            ["goal.perplexity_ratio=1.2", "benchmark=off"],
            ["perplexity_ratio:1.2"],
            ["weights_read_ratio"],
            "speedup_if_maintained",
        ),
        (
            ["goal.perplexity_ratio=1.2", "goal.speedup=1.5"],
            ["perplexity_ratio:1.2", f"latency_ratio:{1 / 1.5!r}"],
            BOTH,
            "speedup_if_maintained",
        ),
        (
            ["goal.file_mib=1", "search.objectives=[kl_to_dense]", "tracking.best=speedup"],
            ["file_mib:1.0"],
            ["kl_to_dense"],
            "speedup",
        ),
        (
            ["goal.file_mib=1", "search.objectives=[latency_ratio,bits_per_byte_increase]"],
            ["file_mib:1.0"],
            BOTH,
            "quality",
        ),
        (
            ["goal.file_mib=1", "search.constraints=[file_mib:1.0]"],
            ["file_mib:1.0"],
            BOTH[1:],
            "quality",
        ),
        (
            ["goal.file_mib=1", "search.constraints=[kl_to_dense:2]"],
            ["kl_to_dense:2", "file_mib:1.0"],
            BOTH[1:],
            "quality",
        ),
    ],
)
def test_a_goal_is_a_constraint_and_its_opposite_the_objective(
    given: list[str], constraints: list[str], objectives: list[str], best: str
) -> None:
    config = compose_trial(*given)
    config.hydra.overrides.task = given
    settings = settings_of(config, checked=True)
    assert settings.search.constraints == constraints
    assert settings.search.objectives == objectives
    assert settings.tracking.best == best
    wanted = settings.goal.perplexity_ratio or 1.1
    assert settings.quality.max_perplexity_ratio == wanted


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("goal.file_mib=0", "goal.file_mib=0 is no goal; use more than 0"),
        ("goal.latency_ms=-1", "goal.latency_ms=-1 is no goal"),
        ("goal.speedup=0.5", "goal.speedup=0.5 is no goal; use 1 or more"),
        ("goal.perplexity_ratio=0.9", "goal.perplexity_ratio=0.9 is no goal; use 1 or more"),
        ("goal.speedup=nan", "goal.speedup=nan is no goal"),
        ("goal.speedup=2 benchmark=off", "benchmark=off does not measure goal.speedup=2"),
        ("goal.memory_mib=2 benchmark=off", "benchmark=off does not measure goal.memory_mib=2"),
        ("goal.perplexity_ratio=2 quality=off", "quality=off does not measure goal.perplexity_rat"),
        (
            "goal.perplexity_ratio=2 quality.max_perplexity_ratio=1.5",
            "goal.perplexity_ratio=2 and quality.max_perplexity_ratio=1.5 are two limits",
        ),
        ("goal.file_mib=9 search.constraints=[file_mib:8]", "file_mib has two limits"),
        ("search.constraints=[file_mib:8,file_mib:9]", "file_mib has two limits"),
    ],
)
def test_goals_that_cannot_be_are_one_line(given: str, said: str) -> None:
    config: Any = compose_trial(*given.split())
    config.hydra.overrides.task = given.split()
    with pytest.raises(SettingError) as refused:
        settings_of(config, checked=True)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_a_search_for_the_largest_kept_cut_calls_the_others_infeasible() -> None:
    def completed(*given: str) -> Settings:
        config = compose_trial(*given)
        config.hydra.overrides.task = [*given]
        return settings_of(config, checked=True)

    for given in (["experiment=kept"], ["search.sampler=largest_kept"]):
        found = completed(*given, "quality.max_perplexity_ratio=1.3")
        assert found.search.limits == {FORESEEN: 1.3}
        assert found.search.objectives == ["params_pruned_pct:maximize"]
        assert found.tracking.best == "size_if_maintained"
    own = ["tracking.best=quality", "search.objectives=[file_mib]"]
    found = completed("experiment=kept", f"search.constraints=[{FORESEEN}:1.2]", *own)
    assert found.search.limits == {FORESEEN: 1.2}
    assert found.search.objectives == ["file_mib"]
    assert found.tracking.best == "quality"
    assert FORESEEN in metric_keys(speed=False, quality=True)
    assert not completed().search.limits
