"""What the environment holds for other programs does not lead a run astray."""

from pathlib import Path

import pytest

from support.cli import command, runs_in


@pytest.mark.slow
def test_a_run_of_somebody_elses_is_not_written_into(tiny_args: list[str], tmp_path: Path) -> None:
    env = {"MLFLOW_RUN_ID": "0" * 32}
    done = command("-m", *tiny_args, "benchmark=off", "sparsity=0.3", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "note: MLFLOW_RUN_ID is set, and not used" in done.stderr
    assert [run.info.status for run in runs_in(tmp_path)] == ["FINISHED", "FINISHED"]
    assert list((tmp_path / "mlruns" / "sweeps").rglob("report.html"))
