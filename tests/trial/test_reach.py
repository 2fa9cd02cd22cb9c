"""Goals that no model of the sweep can reach are refused, those within reach are not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prune_exp.model.architectures import shape_of
from prune_exp.model.sources import ModelSource
from prune_exp.settings.errors import SettingError
from prune_exp.settings.schema import Settings
from prune_exp.trial.prepare import check_points
from prune_exp.trial.reach import check_reach
from support.models import make_tiny
from support.settings import settings_for

SHAPE = shape_of(make_tiny("llama"))
WEIGHTS = SHAPE.params_total * 4 / 2**20


def only(goal: str, value: float) -> Any:
    """One goal, by its name."""
    return {goal: value}


def check(
    folder: Path,
    *sparsities: float,
    method: str = "structured",
    ballot: str = "adaptive",
    **goals: float,
) -> None:
    """Checks the goals of a sweep over some sparsities."""
    made = Settings()
    made.pruning.ballot = ballot
    made.model.export_dtype = "float32"
    made.pruning.method = method
    made.goal = replace(made.goal, **goals)
    source = ModelSource(folder=folder, digest="d")
    check_reach([(replace(made, sparsity=one), SHAPE, source) for one in sparsities])


@pytest.mark.parametrize("goal", ["file_mib", "memory_mib"])
def test_what_the_weights_alone_exceed_is_out_of_reach(goal: str, tiny_folder: Path) -> None:
    check(tiny_folder, 0.2, 0.4, **only(goal, 0.61 * WEIGHTS))
    with pytest.raises(
        SettingError, match=rf"goal.{goal}=.* out of reach.*sparsity=0.4"
    ) as refused:
        check(tiny_folder, 0.2, 0.4, **only(goal, 0.58 * WEIGHTS))
    assert f"use goal.{goal}=1 or more" in str(refused.value)
    with pytest.raises(SettingError, match="out of reach"):
        check(tiny_folder, 0.2, **only(goal, 0.61 * WEIGHTS))


def test_a_model_is_as_many_times_as_fast_as_it_reads_fewer_weights(tiny_folder: Path) -> None:
    check(tiny_folder, 0.2, 0.4, speedup=1.6)
    with pytest.raises(SettingError, match=r"goal.speedup=3 .*at sparsity=0.4, is \d") as refused:
        check(tiny_folder, 0.2, 0.4, speedup=3)
    most = float(str(refused.value).rpartition("goal.speedup=")[2].split()[0])
    check(tiny_folder, 0.2, 0.4, speedup=most)
    with pytest.raises(SettingError, match=r"1.00 times as fast at most"):
        check(tiny_folder, 0.5, method="weight_masks", speedup=1.1)


def test_what_a_fixed_ballot_will_take_is_not_foretold(tiny_folder: Path) -> None:
    check(tiny_folder, 0.2, ballot="fixed", file_mib=1e-3)
    check(tiny_folder, 0.2, ballot="fixed", speedup=100)


def test_without_goals_of_size_nothing_is_refused(tiny_folder: Path) -> None:
    check(tiny_folder, 0.2)
    check(tiny_folder, 0.2, perplexity_ratio=1.0, latency_ms=1e-9)


def test_a_sweep_is_refused_before_anything_is_written(
    tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    point = settings_for(tiny_folder, text_file, tmp_path, calibration="documents")
    point.goal.file_mib = 0.01
    with pytest.raises(SettingError, match=r"goal.file_mib=0.01 is out of reach"):
        check_points([point])
