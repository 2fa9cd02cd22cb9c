"""Trials and drivers that are killed lose nothing that had finished."""

import signal
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from support.cli import command, runs_in
from support.kills import start
from support.studies import sparsities, states


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        "prune_exp.pruning.calibration:compute_statistics",
        "prune_exp.pruning.surgery:carry_out_plan",
        "prune_exp.model.loading:save_model",
        "prune_exp.measurement.benchmark:measure_pair",
    ],
)
def test_a_killed_trial_fails_in_both_stores_and_the_others_go_on(
    where: str, tiny_args: list[str], tmp_path: Path
) -> None:
    arguments = ["-m", *tiny_args, "search.study_name=X", "sparsity=0.3,0.5"]
    if where != "prune_exp.measurement.benchmark:measure_pair":
        arguments.append("benchmark=off")
    code, errors = start(arguments, tmp_path, where, "self")
    assert code == 1, errors
    parent, first, second = runs_in(tmp_path)
    assert (first.info.status, second.info.status) == ("FAILED", "FINISHED")
    assert "SIGKILL" in first.data.tags["prune_exp.error"]
    assert parent.info.status == "FAILED"
    assert states(tmp_path, "X") == ["FAIL", "COMPLETE"]
    assert not list((tmp_path / "mlruns").rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "whom", "finished"),
    [
        ("prune_exp.pruning.surgery:carry_out_plan", "driver", 0),
        ("prune_exp.tracking.runs:end_trial", "self after", 1),
        ("prune_exp.search.study:tell_trial", "self after", 1),
        ("prune_exp.registry.stored_models:_log_checkpoint", "self", 2),
        ("prune_exp.registry.stored_models:_log_checkpoint", "self after", 2),
        ("prune_exp.reporting.write:write_report", "self", 2),
    ],
)
def test_a_killed_driver_loses_nothing_that_had_finished(
    where: str, whom: str, finished: int, tiny_args: list[str], tmp_path: Path
) -> None:
    arguments = ["-m", *tiny_args, "benchmark=off", "search.study_name=X", "sparsity=0.3,0.5"]
    code, _ = start(arguments, tmp_path, where, whom)
    assert code == -signal.SIGKILL
    time.sleep(1)
    before = {run.info.run_id: run for run in runs_in(tmp_path)}
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("nothing is left to run" in done.stderr) is (finished == 2)
    parent, *children = runs_in(tmp_path)
    assert parent.info.run_id in before
    assert "RUNNING" not in {run.info.status for run in (parent, *children)}
    assert parent.info.status == "FINISHED"
    good = [run for run in children if run.info.status == "FINISHED"]
    assert sparsities(good) == ["0.3", "0.5"]
    kept = [run for run in good if run.info.run_id in before]
    assert len(kept) == finished
    assert "RUNNING" not in states(tmp_path, "X")
    assert states(tmp_path, "X").count("COMPLETE") == 2
    assert list((tmp_path / "mlruns" / "sweeps").glob("*/*/report.md"))
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    best = str(client.get_model_version_by_alias("pruned-tiny", "candidate").run_id)
    larger = "both kept quality and nothing was timed, so the larger cut is registered"
    assert sparsities([client.get_run(best)]) == ["0.5"], larger
