"""Trials in a launcher's workers end when the process that drives their sweep is killed."""

import time
from pathlib import Path

import psutil
import pytest

from support.cli import command, runs_in
from support.kills import pause_command
from support.studies import sparsities, states


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_trials_end_when_their_driver_is_killed(
    launcher: str, tiny_args: list[str], tmp_path: Path
) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    arguments = ["-m", *tiny_args, f"hydra/launcher={launcher}", "search.study_name=X"]
    arguments += ["search.parallel=2", "benchmark=off", "sparsity=0.3,0.5"]
    arguments += ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    with pause_command(arguments, tmp_path, "prune_exp.pruning.surgery:carry_out_plan") as trial:
        pass
    while psutil.pid_exists(trial):  # the test's own limit ends this
        time.sleep(0.2)
    done = command(*arguments, cwd=tmp_path, cold=True)
    assert done.returncode == 0, done.stderr
    parent, *children = runs_in(tmp_path)
    assert {run.info.status for run in (parent, *children)} <= {"FINISHED", "FAILED"}
    good = [run for run in children if run.info.status == "FINISHED"]
    assert sorted(sparsities(good)) == ["0.3", "0.5"]
    assert "RUNNING" not in states(tmp_path, "X")
    assert states(tmp_path, "X").count("COMPLETE") == 2
