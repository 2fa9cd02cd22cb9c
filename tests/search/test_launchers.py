"""The same sweep under other launchers; the heavy ones where they are installed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.cli import command, runs_in


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def postgresql() -> Iterator[str]:
    """A server of our own on a free port; its URL. Skips where Debian's packages are not there."""
    found = shutil.which("initdb") or next(
        iter(sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))), None
    )
    if found is None:
        pytest.skip("PostgreSQL is not installed")
    programs = Path(found).resolve().parent
    folder = Path("/tmp") / f"prune_exp-pg-{os.getpid()}"
    folder.mkdir()
    port, as_user = free_port(), []
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = folder / "data"
    try:
        subprocess.run(
            [*as_user, programs / "initdb", "-D", data, "-U", "me", "-A", "trust"],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        server = subprocess.Popen(
            [*as_user, programs / "postgres", "-D", data, "-p", str(port), "-k", folder],
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        create = [*as_user, programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "me"]
        for name in ("runs", "studies"):
            for _ in range(50):
                if (
                    subprocess.run([*create, name], capture_output=True, check=False).returncode
                    == 0
                ):
                    break
                time.sleep(0.2)
        yield f"postgresql://me@127.0.0.1:{port}"
        server.send_signal(signal.SIGINT)  # its fast shutdown: clients are cut off
        server.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serving(store: str, artifacts: Path) -> Iterator[str]:
    """An MLflow server on a store; its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", store, "--artifacts-destination", str(artifacts)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    import requests

    try:
        for _ in range(240):
            try:
                if requests.get(f"{address}/health", timeout=2).ok:
                    break
            except requests.RequestException:
                time.sleep(0.5)
        else:
            raise AssertionError("the server did not start")
        yield address
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.slow
def test_an_mlflow_server_holds_runs_and_models(tiny_args: list[str], tmp_path: Path) -> None:
    with serving(f"sqlite:///{tmp_path / 'server.db'}", tmp_path / "artifacts") as address:
        arguments = ["tracking=server", f"tracking.uri={address}", "benchmark=off"]
        done = command(*tiny_args, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (run,) = runs_in(tmp_path, address)
        assert run.info.status == "FINISHED"
        from mlflow.tracking import MlflowClient

        version = MlflowClient(address).get_model_version_by_alias("pruned-tiny", "candidate")
        assert version.run_id == run.info.run_id


@pytest.fixture
def ray_cluster() -> Iterator[Any]:
    """Two Ray nodes on this machine."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.mark.cluster
def test_two_ray_nodes_an_mlflow_server_and_postgresql(
    ray_cluster: Any, postgresql: str, tiny_args: list[str], tmp_path: Path
) -> None:
    with serving(f"{postgresql}/runs", tmp_path / "artifacts") as mlflow_server:
        surroundings = {
            "RAY_ADDRESS": ray_cluster.address,
            "MLFLOW_TRACKING_URI": mlflow_server,
            "PRUNE_EXP_STUDIES": f"{postgresql}/studies",
        }
        arguments = [
            *("-m", "experiment=cluster", *tiny_args, "benchmark=off", "search.study_name=X"),
            *("search.parallel=2", f"tracking.root={tmp_path / 'mlruns'}", "sparsity=0.3,0.5"),
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
