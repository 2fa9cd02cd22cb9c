"""The command line as a user meets it: real processes, a real store."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import command

BAD = [
    ("sparsity=0", "sparsity=0 is not between 0 and 1"),
    ("sparsity=1", "sparsity=1 is not between"),
    ("sparsity=1.2", "sparsity=1.2 is not between"),
    ("sparsity=-0.1", "sparsity=-0.1 is not between"),
    ("sparsity=abc", "could not be converted to Float"),
    ("vote_threshold=0", "vote_threshold=0 is not in (0, 1]"),
    ("vote_threshold=1.5", "vote_threshold=1.5 is not in (0, 1]"),
    ("pruning.voters=[wnda]", "did you mean wanda?"),
    ("sparsty=0.5", "did you mean sparsity?"),
    ("prunin=width", "did you mean pruning?"),
    ("pruning=widht", "did you mean pruning=width?"),
    ("model.path=/nowhere", "/nowhere is not a folder"),
    ("tracking.uri=http://127.0.0.1:9", "does not answer"),
    ("tracking.root=/proc/nowhere", "cannot be written"),
]


@pytest.mark.parametrize(("override", "words"), BAD)
def test_bad_input_is_one_line(
    override: str, words: str, tiny_args: list[str], tmp_path: Path
) -> None:
    where = [] if "tracking.root" in override else ["hydra.run.dir=out"]
    done = command(*tiny_args, *where, override, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 1
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("prune_exp: error: ")
    assert words in lines[0]
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


def test_bad_checkpoints_are_named(tiny_args: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = command(*tiny_args, f"model.path={tmp_path / 'empty'}", cwd=tmp_path)
    assert "has no config.json" in done.stderr
    (tmp_path / "empty" / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    done = command(*tiny_args, f"model.path={tmp_path / 'empty'}", cwd=tmp_path)
    assert "'mamba' is not supported; supported are llama, mistral" in done.stderr
    assert done.returncode == 1


def test_config_is_shown_without_heavy_imports(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['prune_exp', '--cfg', 'job']\n"
        "from prune_exp.app import main\n"
        "main()\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'optuna', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "vote_threshold: 0.5" in done.stdout


def test_a_sweep_tracks_reports_and_registers(tiny_args: list[str], tmp_path: Path) -> None:
    done = command("-m", *tiny_args, "sparsity=0.3,0.5,0.3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    import mlflow
    from mlflow.tracking import MlflowClient

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("prune_exp")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    children.sort(key=lambda run: int(run.data.tags["hydra.job_num"]))
    assert len(runs) == 3
    assert [run.data.params["sparsity"] for run in children] == ["0.3", "0.5"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in children:
        data = run.data
        assert abs(data.metrics["sparsity_achieved"] - float(data.params["sparsity"])) <= 0.005
        assert {"speedup", "speedup_ci95_low", "memory_reduction_pct"} <= data.metrics.keys()
        assert {"dense/bits_per_byte", "pruned/peak_memory_mib"} <= data.metrics.keys()
        assert {i.dataset.name.split("(")[1] for i in _inputs(run)} == {
            "calibration)",
            "heldout)",
        }
    version = client.get_model_version_by_alias("pruned-tiny", "candidate")
    names = {item.path for item in client.list_artifacts(str(version.run_id))}
    wanted = {"report.md", "dashboard_overview.png", "detailed_comparison.png", "plan.json"}
    assert wanted | {"samples.json", "voter_agreement.json"} <= names
    assert len(version.tags["weights_sha256"]) == 64
    script = (
        "import sys, mlflow\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "m = mlflow.pyfunc.load_model('models:/pruned-tiny@candidate')\n"
        "print(len(m.predict(['the river'])))\n"
    )
    fresh = subprocess.run(
        [sys.executable, "-c", script, mlflow.get_tracking_uri()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert fresh.returncode == 0, fresh.stderr
    assert fresh.stdout.strip() == "1"


def test_a_failing_trial_does_not_stop_the_others(tiny_args: list[str], tmp_path: Path) -> None:
    arguments = ["-m", *tiny_args, "benchmark.timeout_s=1,600"]
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("prune_exp")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    trials = {r.data.tags["hydra.job_num"]: r for r in runs if "hydra.job_num" in r.data.tags}
    assert trials["0"].info.status == "FAILED"
    assert "MeasurementError" in trials["0"].data.tags["prune_exp.error"]
    assert trials["1"].info.status == "FINISHED"


def test_interrupt_kills_the_run_and_leaves_130(tiny_args: list[str], tmp_path: Path) -> None:
    arguments = [*tiny_args, "benchmark.prompts=20", "benchmark.new_tokens=200"]
    process = subprocess.Popen(
        [sys.executable, "-m", "prune_exp", *arguments],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    checkpoint = tmp_path / "mlruns" / "outputs"
    for _ in range(600):
        if list(checkpoint.glob("*/*/model")):
            break
        time.sleep(0.1)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("prune_exp")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"


def _inputs(run: Any) -> list[Any]:
    return run.inputs.dataset_inputs
