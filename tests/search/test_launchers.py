"""The same sweep under other launchers, and with an MLflow server."""

import time
from pathlib import Path

import pytest

from support.cli import command, runs_in
from support.kills import pause_command
from support.servers import MlflowServer, serve_mlflow
from support.studies import sparsities, states
from support.warm import start_module


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_parallel_launchers_track_as_the_basic_one_does(
    launcher: str, tiny_args: list[str], tmp_path: Path
) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    arguments = ["-m", *tiny_args, f"hydra/launcher={launcher}", "search.study_name=X"]
    arguments += ["search.parallel=2"]  # also where there is one core
    arguments += ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    done = command(*arguments, "benchmark=off", "sparsity=0.3,0.5", cwd=tmp_path, cold=True)
    assert done.returncode == 0, done.stderr
    parent, *children = runs_in(tmp_path)
    assert [run.data.params["sparsity"] for run in children] == ["0.3", "0.5"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    processes = {run.data.tags["prune_exp.process"] for run in (parent, *children)}
    assert len(processes) > 1


@pytest.mark.slow
def test_an_mlflow_server_holds_runs_and_models(tiny_args: list[str], tmp_path: Path) -> None:
    with serve_mlflow(f"sqlite:///{tmp_path / 'server.db'}", tmp_path / "artifacts") as address:
        arguments = ["tracking=server", f"tracking.uri={address}", "benchmark=off"]
        done = command(*tiny_args, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (run,) = runs_in(tmp_path, address)
        assert run.info.status == "FINISHED"
        from mlflow.tracking import MlflowClient

        version = MlflowClient(address).get_model_version_by_alias("pruned-tiny", "candidate")
        assert version.run_id == run.info.run_id


@pytest.mark.slow
def test_a_command_beside_a_sweep_that_stores_its_winner_takes_nothing_from_it(
    tiny_args: list[str], tmp_path: Path
) -> None:
    """The winner's worker has ended by then, and its run and weights are the sweep's."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    sweep = ["-m", *tiny_args, "benchmark=off", "search.study_name=X", "sparsity=0.3,0.5"]
    sweep += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "search.parallel=2"]
    with pause_command(sweep, tmp_path, "prune_exp.registry.stored_models:_log_checkpoint"):
        _, *before = runs_in(tmp_path)
        done = command(*tiny_args, "benchmark=off", "sparsity=0.2", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = command(*sweep, cwd=tmp_path, cold=True)
    assert done.returncode == 0, done.stderr
    assert "nothing is left to run" in done.stderr
    winners = [
        run for run in runs_in(tmp_path) if run.info.run_id in {r.info.run_id for r in before}
    ]
    assert sorted(sparsities(winners)) == ["0.3", "0.5"]
    assert {run.info.status for run in winners} == {"FINISHED"}
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    best = str(client.get_model_version_by_alias("pruned-tiny", "candidate").run_id)
    larger = "nothing was timed, and both kept their quality"
    assert sparsities([client.get_run(best)]) == ["0.5"], larger


@pytest.mark.slow
def test_a_server_that_is_away_for_a_while_costs_no_trial(
    tiny_args: list[str], tmp_path: Path
) -> None:
    """It goes when the first trial has begun, and is back some seconds later."""
    server = MlflowServer(f"sqlite:///{tmp_path / 'server.db'}", tmp_path / "artifacts")
    server.start()
    try:
        arguments = ["-m", *tiny_args, "tracking=server", f"tracking.uri={server.address}"]
        arguments += ["benchmark=off", "search.study_name=X", "sparsity=0.3,0.5"]
        with start_module("prune_exp", *arguments, cwd=tmp_path) as started:
            while not has_begun(server.address):  # the test's own limit ends this
                assert started.process.is_alive()
                time.sleep(0.2)
            server.stop()
            time.sleep(5)
            server.start()
            done = started.finish(300)
        assert done.returncode == 0, done.stderr
        parent, *children = runs_in(tmp_path, server.address)
        assert sparsities(children) == ["0.3", "0.5"]
        assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
        assert states(tmp_path, "X") == ["COMPLETE", "COMPLETE"]
    finally:
        server.stop()


def has_begun(address: str) -> bool:
    """Whether a sweep's first trial has a run."""
    try:
        return len(runs_in(Path(), address)) > 1
    except AssertionError:
        return False
