"""The command line as a user meets it: real processes, a real store."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.cli import command, is_dense, runs_in, slow_measured_processes
from support.models import make_tiny
from support.store import look_at
from support.tokenizers import make_tokenizer
from support.warm import start_module

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
    ("pruning=widht", "did you mean width?"),
    ("model.path=/nowhere", "/nowhere is not a folder"),
    ("tracking.uri=http://127.0.0.1:9", "does not answer"),
    ("tracking.root=/proc/nowhere", "cannot be written"),
]


@pytest.mark.parametrize(("override", "words"), BAD)
def test_bad_input_is_one_line(
    override: str, words: str, tiny_args: list[str], tmp_path: Path
) -> None:
    where = [] if "tracking.root" in override else ["hydra.run.dir=out"]
    done = command(*tiny_args, *where, override, cwd=tmp_path, cold=override == "sparsity=1")
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
        "from prune_exp.trial.app import main\n"
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

    look_at(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("prune_exp")
    assert experiment is not None
    everything = client.search_runs([experiment.experiment_id])
    (dense,) = [run for run in everything if is_dense(run)]
    assert dense.data.metrics["speedup"] == 1.0
    assert dense.info.status == "FINISHED"
    runs = [run for run in everything if not is_dense(run)]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    children.sort(key=lambda run: int(run.data.tags["hydra.job.num"]))
    assert len(runs) == 3
    assert [run.data.params["sparsity"] for run in children] == ["0.3", "0.5"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["phase"] for run in children} == {"finished"}
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
    wanted = {"report.md", "report.html", "report.json", "figures", "hydra"}
    kept = {"samples.json", "voter_agreement.json", "plan.json", "answers.json", "machine.json"}
    assert wanted | kept | {"documents.json"} <= names
    drawn = {item.path for item in client.list_artifacts(str(version.run_id), "figures")}
    plots = ("pareto", "votes", "roofline", "dashboard_overview", "detailed_comparison")
    assert drawn == {f"figures/{name}.png" for name in plots}
    (parent,) = [run for run in runs if run not in children]
    of_the_sweep = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert wanted - {"prune_exp.log"} <= of_the_sweep
    assert parent.info.run_name == "sparsity=0.3,0.5"
    assert [run.info.run_name for run in children] == ["s=0.30 t=0.50", "s=0.50 t=0.50"]
    assert "| **s=0." in parent.data.tags["mlflow.note.content"]
    best = client.get_run(str(version.run_id)).data.metrics
    of_all_trials = {
        name for name in parent.data.metrics if name.startswith("trials_") or name == "hypervolume"
    }
    assert {"trials_finished", "trials_failed", "trials_stopped"} <= of_all_trials
    assert parent.data.metrics["trials_finished"] == 2
    of_the_best = {k: v for k, v in parent.data.metrics.items() if k not in of_all_trials}
    assert of_the_best.items() <= best.items()
    assert {"speedup", "perplexity_ratio", "params_pruned_pct"} <= parent.data.metrics.keys()
    _is_rebuilt_from_the_store(client, str(version.run_id), parent.info.run_id, tmp_path)
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


def _is_rebuilt_from_the_store(client: Any, best: str, root: str, folder: Path) -> None:
    """The command makes the same report as the sweep did."""
    again = (f"run_id={root}", "output=again")
    done = command(*again, module="prune_exp.report", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 1
    for name in ("report.json", "report.md", "report.html"):
        stored = Path(client.download_artifacts(best, name, str(folder)))
        told = stored.read_bytes().replace(b"](figures/", b"](")
        assert (folder / "again" / name).read_bytes() == told
    done = command("run_id=nothing", module="prune_exp.report", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.startswith("prune_exp.report: error: run_id=nothing is not in this store")
    assert len(done.stderr.strip().splitlines()) == 1


def test_runs_go_where_mlflows_variables_say(tiny_args: list[str], tmp_path: Path) -> None:
    team = f"sqlite:///{tmp_path / 'team.db'}"
    variables = {"MLFLOW_TRACKING_URI": team, "MLFLOW_EXPERIMENT_NAME": "prune_exp"}
    cheap = ("benchmark=off", "quality=off")
    done = command(*tiny_args, *cheap, cwd=tmp_path, env=variables, cold=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("MLFLOW_TRACKING_URI") == 1, "said once, by the driver"
    assert len(runs_in(tmp_path, team)) == 1
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [False, True])
def test_paths_are_those_of_the_folder_that_a_command_was_typed_in(
    sweep: bool, tiny_args: list[str], tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "dense")
    shutil.copy(text_file, tmp_path / "text.txt")
    relative = ["model.path=dense", "data.path=text.txt", "hydra.job.chdir=true"]
    points = ["-m", "sparsity=0.3,0.4"] if sweep else []
    done = command(*points, *tiny_args, *relative, "benchmark=off", "quality=off", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [*tmp_path.rglob("mlflow.db")] == [tmp_path / "mlruns" / "mlflow.db"]
    assert {run.info.status for run in runs_in(tmp_path)} == {"FINISHED"}


def test_a_failing_trial_does_not_stop_the_others(tiny_args: list[str], tmp_path: Path) -> None:
    arguments = ["-m", *tiny_args, "benchmark.timeout_s=1,600"]
    done = command(*arguments, cwd=tmp_path, env=slow_measured_processes(tmp_path))
    assert done.returncode == 1
    _, first, second = runs_in(tmp_path)
    assert first.info.status == "FAILED"
    assert "MeasurementError" in first.data.tags["prune_exp.error"]
    assert second.info.status == "FINISHED"


def interrupt(arguments: list[str], folder: Path, checkpoint: str) -> tuple[int, str]:
    """Sends Ctrl-C three seconds after a checkpoint appears: in the middle of its measurement."""
    with start_module("prune_exp", *arguments, cwd=folder) as started:
        for _ in range(1200):
            if list((folder / "mlruns").glob(checkpoint)) or not started.process.is_alive():
                break
            time.sleep(0.1)
        time.sleep(3)
        os.killpg(started.process.pid, signal.SIGINT)
        done = started.finish(60)
    return done.returncode, done.stderr


def test_interrupt_kills_the_run_and_leaves_130(tiny_args: list[str], tmp_path: Path) -> None:
    arguments = [*tiny_args, "benchmark.prompts=20", "benchmark.new_tokens=120"]
    code, errors = interrupt(arguments, tmp_path, "outputs/*/*/model")
    assert code == 130, errors
    assert [run.info.status for run in runs_in(tmp_path)] == ["KILLED"]


def test_interrupt_in_a_sweep_keeps_finished_trials(tiny_args: list[str], tmp_path: Path) -> None:
    arguments = ["-m", *tiny_args, "benchmark.prompts=20", "benchmark.new_tokens=2,120"]
    code, errors = interrupt(arguments, tmp_path, "sweeps/*/*/1/model")
    assert code == 130, errors
    assert errors.strip().splitlines()[-1].startswith("prune_exp: interrupted")
    assert [run.info.status for run in runs_in(tmp_path)] == ["KILLED", "FINISHED", "KILLED"]


def test_a_disk_that_is_full_fails_the_run_and_registers_nothing(
    tiny_args: list[str], tmp_path: Path
) -> None:
    make_tiny("llama", vocab=60_000).save_pretrained(tmp_path / "large")
    make_tokenizer().save_pretrained(tmp_path / "large")
    (tmp_path / "limits").mkdir()
    (tmp_path / "limits" / "sitecustomize.py").write_text(
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))\n"
    )
    arguments = [*tiny_args, f"model.path={tmp_path / 'large'}", "sparsity=0.005"]
    done = command(*arguments, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "limits")})
    assert done.returncode == 1
    assert "could not write the pruned model" in done.stderr.strip().splitlines()[-1]
    (run,) = runs_in(tmp_path)
    assert run.info.status == "FAILED"
    assert "ExportError" in run.data.tags["prune_exp.error"]
    assert not list((tmp_path / "mlruns").rglob("*.safetensors"))
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    assert not client.search_registered_models()


def test_hydras_own_sweeper_has_a_parent_run_too(tiny_args: list[str], tmp_path: Path) -> None:
    done = command(
        "-m", *tiny_args, "hydra/sweeper=basic", "benchmark=off", "sparsity=0.3,0.5", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    parent, *children = runs_in(tmp_path)
    assert [run.data.params["sparsity"] for run in children] == ["0.3", "0.5"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}


def _inputs(run: Any) -> list[Any]:
    return run.inputs.dataset_inputs


def test_tasks_are_asked_of_both_models(tiny_args: list[str], tmp_path: Path) -> None:
    arguments = [*tiny_args, "benchmark=off", "quality.tasks=[plain_facts]"]
    done = command(*arguments, "quality.task_questions=12", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = runs_in(tmp_path)
    found = run.data.metrics
    assert found["task/plain_facts/questions"] == 12
    change = found["task/plain_facts/accuracy_change_points"]
    sides = [found[f"task/plain_facts/{side}_accuracy_pct"] for side in ("dense", "pruned")]
    assert change == pytest.approx(sides[1] - sides[0])
    from mlflow.artifacts import load_dict

    uri = f"runs:/{run.info.run_id}/flipped.json"
    look_at(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    table = load_dict(uri)
    assert table["columns"] == ["task", "change", "question", "right", "dense", "pruned"]
    gained = [row[1] == "won" for row in table["data"]]
    assert change == pytest.approx(100 * (sum(gained) - gained.count(False)) / 12)
    report = next((tmp_path / "mlruns").rglob("report.md")).read_text(encoding="utf-8")
    assert "| plain_facts | 12 |" in report


def test_a_task_that_is_unknown_ends_the_command_before_the_trial(
    tiny_args: list[str], tmp_path: Path
) -> None:
    done = command(*tiny_args, "quality.tasks=[plain_factz]", cwd=tmp_path)
    assert done.returncode == 1
    assert "did you mean plain_facts?" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "mlruns").exists()
