"""Many machines: Ray runs the trials, PostgreSQL has the studies, an MLflow server the runs.

`make test-cluster` runs these in an environment of their own, and has them fail where they would be
skipped.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest

from prune_exp.search import study as studies
from prune_exp.search.ownership import OWNER
from prune_exp.settings.groups import SearchSettings
from support.cli import command, runs_in
from support.kills import fatal_environment
from support.servers import find_initdb, serve_mlflow, serve_postgresql

pytestmark = pytest.mark.cluster
GIVE_UP: Callable[[str], NoReturn] = (
    pytest.fail if os.environ.get("CLUSTER_TESTS_MUST_RUN") else pytest.skip
)


@pytest.fixture
def postgresql() -> Iterator[str]:
    """A server of our own; its URL."""
    initdb = find_initdb()
    if initdb is None:
        GIVE_UP("PostgreSQL is not installed")
    with serve_postgresql(initdb) as url:
        yield url


@pytest.fixture
def ray_cluster() -> Iterator[Callable[[int], str]]:
    """Starts two Ray nodes on this machine; the second says how many GPUs it has."""
    try:
        import hydra_plugins.hydra_ray_launcher  # pyright: ignore[reportMissingImports]  # noqa: F401
        from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]
    except ImportError:
        GIVE_UP("Ray is not installed")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})

    def add_node(gpus: int) -> str:
        cluster.add_node(num_cpus=2, num_gpus=gpus)
        return cluster.address

    yield add_node
    cluster.shutdown()


def test_every_trial_has_a_gpu_of_its_own(
    ray_cluster: Callable[[int], str], tiny_args: list[str], tmp_path: Path
) -> None:
    runs = f"sqlite:///{tmp_path / 'team.db'}"
    surroundings = {
        "RAY_ADDRESS": ray_cluster(2),
        "MLFLOW_TRACKING_URI": runs,
        "PRUNE_EXP_STUDIES": f"sqlite:///{tmp_path / 'studies.db'}",
    }
    arguments = [
        *("-m", "experiment=cluster", *tiny_args, "benchmark=off", "search.study_name=X"),
        *("search.parallel=3", "tracking.log_models=none", "sparsity=0.3,0.4,0.5"),
        *(f"tracking.root={tmp_path / 'mlruns'}", "+hydra.launcher.ray.remote.num_gpus=1"),
    ]
    done = command(*arguments, cwd=tmp_path, env=surroundings, timeout=500, cold=True)
    assert done.returncode == 0, done.stderr
    _, *children = runs_in(tmp_path, runs)
    assert [run.info.status for run in children] == ["FINISHED"] * 3
    *early, last = sorted(children, key=lambda run: run.info.start_time)
    assert sorted(run.data.tags["visible_gpus"] for run in early) == ["0", "1"]
    assert last.data.tags["visible_gpus"] in {"0", "1"}
    ended = {run.data.tags["visible_gpus"]: run.info.end_time for run in early}
    assert ended[last.data.tags["visible_gpus"]] <= last.info.start_time


@pytest.fixture
def deadly_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's nodes are to be started with this: the first trial to prune kills its worker, once."""
    where = "prune_exp.pruning.surgery:carry_out_plan"
    for name, value in fatal_environment(tmp_path, where, "driver").items():
        monkeypatch.setenv(name, value)


def test_a_worker_of_rays_that_is_killed_costs_its_trial_alone(
    deadly_trials: None,
    ray_cluster: Callable[[int], str],
    tiny_args: list[str],
    tmp_path: Path,
) -> None:
    """Ray does not run it again by itself; the next start does."""
    del deadly_trials
    runs = f"sqlite:///{tmp_path / 'team.db'}"
    studies_url = f"sqlite:///{tmp_path / 'studies.db'}"
    surroundings = {
        "RAY_ADDRESS": ray_cluster(0),
        "MLFLOW_TRACKING_URI": runs,
        "PRUNE_EXP_STUDIES": studies_url,
    }
    arguments = [
        *("-m", "experiment=cluster", *tiny_args, "benchmark=off", "search.study_name=X"),
        *("search.parallel=2", "tracking.log_models=none", "sparsity=0.3,0.5"),
        f"tracking.root={tmp_path / 'mlruns'}",
    ]
    done = command(*arguments, cwd=tmp_path, env=surroundings, timeout=500, cold=True)
    assert (tmp_path / "killed").exists(), done.stderr
    assert done.returncode == 1, done.stderr
    parent, *children = runs_in(tmp_path, runs)
    assert len(children) == 2
    assert sorted(run.info.status for run in children) == ["FAILED", "FINISHED"]
    assert parent.info.status == "FAILED"
    assert sorted(one.state.name for one in load_study(studies_url).trials) == ["COMPLETE", "FAIL"]
    (good,) = [run for run in children if run.info.status == "FINISHED"]
    done = command(*arguments, cwd=tmp_path, env=surroundings, timeout=500, cold=True)
    assert done.returncode == 0, done.stderr
    parent, *children = runs_in(tmp_path, runs)
    assert parent.info.status == "FINISHED"
    finished = [run for run in children if run.info.status == "FINISHED"]
    assert sorted(run.data.params["sparsity"] for run in finished) == ["0.3", "0.5"]
    assert good.info.run_id in {run.info.run_id for run in finished}
    states = [one.state.name for one in load_study(studies_url).trials]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "FAIL"]


def test_ray_nodes_an_mlflow_server_and_postgresql(
    ray_cluster: Callable[[int], str], postgresql: str, tiny_args: list[str], tmp_path: Path
) -> None:
    with serve_mlflow(f"{postgresql}/runs", tmp_path / "artifacts") as mlflow_server:
        surroundings = {
            "RAY_ADDRESS": ray_cluster(1),
            "MLFLOW_TRACKING_URI": mlflow_server,
            "PRUNE_EXP_STUDIES": f"{postgresql}/studies",
        }
        arguments = [
            *("-m", "experiment=cluster", *tiny_args, "benchmark=off", "search.study_name=X"),
            *("search.parallel=2", f"tracking.root={tmp_path / 'mlruns'}", "sparsity=0.3,0.5"),
            "+hydra.launcher.ray.remote.num_gpus=1",
        ]
        done = command(*arguments, cwd=tmp_path, env=surroundings, timeout=500, cold=True)
        assert done.returncode == 0, done.stderr
        parent, *children = runs_in(tmp_path, mlflow_server)
        assert children, done.stdout + done.stderr
        assert [run.data.params["sparsity"] for run in children] == ["0.3", "0.5"]
        assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
        assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
        import optuna
        from mlflow.tracking import MlflowClient

        study = optuna.load_study(study_name="X", storage=f"{postgresql}/studies")
        assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
        assert MlflowClient(mlflow_server).get_model_version_by_alias("pruned-tiny", "candidate")
        first, second = sorted(children, key=lambda run: run.info.start_time)
        assert first.info.end_time <= second.info.start_time, "there is one GPU, though two nodes"


def test_a_database_that_has_cut_its_connections_is_asked_again(
    postgresql: str, tmp_path: Path
) -> None:
    """As a restart does between two trials."""
    if find_spec("psycopg") is None:
        GIVE_UP("psycopg is not installed")
    import psycopg  # pyright: ignore[reportMissingImports]

    url = postgresql.replace("postgresql:", "postgresql+psycopg:")
    search = SearchSettings(storage=f"{url}/studies")
    study = studies.open_study(search, tmp_path, "s", {"cost": "minimize"}, {})
    assert study.ask().number == 0
    with psycopg.connect(f"{postgresql}/studies", autocommit=True) as server:
        others = "from pg_stat_activity where pid <> pg_backend_pid() and datname = 'studies'"
        assert server.execute(f"select pg_terminate_backend(pid) {others}").fetchall()
    assert study.ask().number == 1


def load_study(storage: str) -> Any:
    import optuna

    return optuna.load_study(study_name="X", storage=storage)


def wait_for_owner(storage: str, process: "subprocess.Popen[str]") -> None:
    for _ in range(1200):
        try:
            if load_study(storage).user_attrs.get(OWNER):
                return
        except KeyError:  # the study is not there yet
            pass
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    raise AssertionError("the first driver did not come to its study")


def test_drivers_with_folders_of_their_own_share_one_study(
    postgresql: str, tiny_args: list[str], tmp_path: Path
) -> None:
    if find_spec("psycopg") is None:
        GIVE_UP("psycopg is not installed")
    storage, runs = f"{postgresql}/studies", f"sqlite:///{tmp_path / 'team.db'}"
    arguments = ["-m", *tiny_args, "benchmark=off", "quality=off", f"search.storage={storage}"]
    arguments += ["search.study_name=X", "sparsity=0.3,0.5", f"tracking.uri={runs}"]
    first = subprocess.Popen(
        [sys.executable, "-m", "prune_exp", *arguments, f"tracking.root={tmp_path / 'first'}"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_owner(storage, first)
        first.send_signal(signal.SIGSTOP)
        second = [*arguments, f"tracking.root={tmp_path / 'second'}"]
        done = command(*second, cwd=tmp_path, cold=True)
        assert done.returncode == 1
        assert f"is being run by process {first.pid} on " in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    finally:
        first.kill()
        first.communicate()
    done = command(*second, cwd=tmp_path, cold=True)
    assert done.returncode == 0, done.stderr
    study = load_study(storage)
    good = [one for one in study.trials if one.state.name == "COMPLETE"]
    assert len(good) == 2
    assert "RUNNING" not in {one.state.name for one in study.trials}
    assert study.user_attrs[OWNER] is None
    parent, *children = runs_in(tmp_path, runs)
    assert parent.info.status == "FINISHED"
    assert "RUNNING" not in {run.info.status for run in children}
    assert (tmp_path / "second" / "sweeps").is_dir()
