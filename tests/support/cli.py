"""Commands as a user types them, and what they leave in the store."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.warm import run_module


def small_trial(model: Path, text: Path, cache: Path) -> list[str]:
    """Overrides for a trial of a tiny model on a short text."""
    return [
        "model=folder",
        f"model.path={model}",
        "model.name=tiny",
        "data=file",
        f"data.path={text}",
        "data.context_tokens=32",
        "data.calibration_blocks=6",
        "data.gradient_blocks=2",
        "data.heldout_blocks=16",
        "quality.domains=[]",
        "benchmark=quick",
        "benchmark.prompts=3",
        "benchmark.new_tokens=4",
        "benchmark.bootstrap_resamples=200",
        f"cache_dir={cache}",
    ]


def command(
    *args: str,
    cwd: Path,
    module: str = "prune_exp",
    timeout: float = 300,
    env: dict[str, str] | None = None,
    cold: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m prune_exp`, or another module of ours, as a user does.

    With `cold` by a Python that starts afresh, else by one with the large packages in it.
    """
    if not cold:
        return run_module(module, *args, cwd=cwd, timeout=timeout, env=env)
    return subprocess.run(
        [sys.executable, "-m", module, *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | (env or {}),
        check=False,
    )


def slow_measured_processes(folder: Path) -> dict[str, str]:
    """Variables with which every measured process begins too late for a limit of one second."""
    (folder / "slow").mkdir()
    late = "import os, time\nif os.environ.get('TQDM_DISABLE'):\n    time.sleep(1.5)\n"
    (folder / "slow" / "sitecustomize.py").write_text(late, encoding="utf-8")
    path = os.pathsep.join([str(folder / "slow"), os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path, "TQDM_DISABLE": ""}


def is_dense(run: Any) -> bool:
    """Whether a run is the row for the dense model."""
    return run.data.tags.get("prune_exp.role") == "dense"


def runs_in(folder: Path, uri: str | None = None) -> list[Any]:
    """A store's runs but the dense models', the sweep's own first, then by trial number."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri or f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("prune_exp")
    assert experiment is not None
    runs = [run for run in client.search_runs([experiment.experiment_id]) if not is_dense(run)]
    return sorted(runs, key=lambda run: int(run.data.tags.get("hydra.job.num", -1)))
