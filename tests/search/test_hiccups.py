"""A store that fails at a trial's borders costs that trial at most."""

from pathlib import Path

import pytest

from support.cli import runs_in
from support.kills import start
from support.studies import sparsities, states

SWEEP = ("benchmark=off", "search.study_name=X", "sparsity=0.3,0.5")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "code", "outcomes"),
    [
        ("prune_exp.tracking.runs:start_trial", 1, ["FAIL", "COMPLETE"]),
        ("prune_exp.tracking.runs:end_trial", 0, ["COMPLETE", "COMPLETE"]),
        ("prune_exp.tracking.reaping:settle_trials", 0, ["RUNNING", "COMPLETE"]),
    ],
)
def test_the_sweep_goes_on_after_an_error_of_the_store(
    where: str, code: int, outcomes: list[str], tiny_args: list[str], tmp_path: Path
) -> None:
    found, errors = start(["-m", *tiny_args, *SWEEP], tmp_path, where, "raise")
    assert found == code, errors
    assert states(tmp_path, "X") == outcomes
    parent, *children = runs_in(tmp_path)
    assert parent.info.status == "FINISHED"
    assert {run.info.status for run in children} == {"FINISHED"}
    assert sparsities(children) == (["0.5"] if code else ["0.3", "0.5"])
    assert "Traceback" not in errors
