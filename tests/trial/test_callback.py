"""Any Hydra project gets MLflow runs around its jobs by two lines of config."""

import os
import subprocess
import sys
from pathlib import Path

from mlflow.tracking import MlflowClient

APP = """
import hydra

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    if config.a == 3:
        raise ValueError("three is too many")
    return {"square": config.a ** 2, "name": "no number"} if config.a > 1 else 0.5

main()
"""
CONFIG = """
a: 1
db: {password: hunter2, host: here}
hydra:
  callbacks:
    runs: {_target_: prune_exp.trial.callback.MlflowRuns, experiment: mine}
"""


def test_a_sweep_of_another_project_is_tracked(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    uri = f"sqlite:///{tmp_path}/store.db"
    done = subprocess.run(
        [sys.executable, "app.py", "-m", "a=1,2,3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"MLFLOW_TRACKING_URI": uri},
        check=False,
    )
    assert done.returncode == 1
    assert "three is too many" in done.stderr
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    parent, *jobs = runs
    assert [run.data.params["a"] for run in jobs] == ["1", "2", "3"]
    assert {run.data.tags["mlflow.parentRunId"] for run in jobs} == {parent.info.run_id}
    assert [run.info.status for run in jobs] == ["FINISHED", "FINISHED", "FAILED"]
    assert [run.data.metrics for run in jobs] == [{"return_value": 0.5}, {"square": 4.0}, {}]
    assert jobs[2].data.tags["prune_exp.error"] == "ValueError: three is too many"
    assert jobs[0].data.params["db.host"] == "here"
    assert "hunter2" not in str([run.data for run in runs])
