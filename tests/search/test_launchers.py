"""The same sweep under other launchers, and with an MLflow server."""

from pathlib import Path

import pytest

from support.cli import command, runs_in
from support.servers import serve_mlflow


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
