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


@pytest.mark.slow
def test_without_git_without_a_home_and_without_a_terminal(
    tiny_args: list[str], tmp_path: Path
) -> None:
    bare = {"HOME": "/proc/nowhere", "PATH": "", "TERM": "dumb", "XDG_CACHE_HOME": ""}
    done = command(*tiny_args, "benchmark=off", "sparsity=0.3", cwd=tmp_path, env=bare)
    assert done.returncode == 0, done.stderr
    assert [run.data.tags["git_commit"] for run in runs_in(tmp_path)] == ["none"]
    homeless = [one for one in tiny_args if not one.startswith("cache_dir=")]
    done = command(*homeless, "benchmark=off", cwd=tmp_path, env=bare)
    assert done.returncode == 1
    (said,) = done.stderr.strip().splitlines()
    assert "cache_dir=DIR or PRUNE_EXP_CACHE=DIR" in said
