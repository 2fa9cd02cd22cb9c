"""Stored models are the trial's bytes, only data, and nothing else is removed."""

import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from prune_exp.registry import stored_models
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking.read import read_run
from prune_exp.tracking.store import open_store
from support.cli import command, runs_in, small_trial
from support.hostile import SNITCH, Bomb
from support.models import make_tiny
from support.store import Store
from support.tokenizers import make_bpe_tokenizer

ALLOWED = {".safetensors", ".json", ".md", ".txt", ".yaml", ".jinja", ".sig", ""}


LOAD = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/pruned-tiny@candidate")
assert list(model.input_example) == ["The river"], model.input_example
model._model_impl.pipeline.model.generation_config.update(do_sample=True, temperature=50.0)
many = {"max_new_tokens": 16}
once, again = (model.predict(["the river"], params=many) for _ in range(2))
assert once == again, "the same text every time"
assert model.predict(["the river"], params=many | {"do_sample": True}) != once
print(len(model.predict(["the river"], params={"max_new_tokens": 2})))
"""


@pytest.mark.slow
def test_only_data_is_stored_and_it_loads_without_pickle(tracked: Store) -> None:
    folder = tracked.files("0.2").parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= ALLOWED
    names = {path.relative_to(folder).as_posix() for path in files}
    wanted = {"README.md", "LICENSE.txt", "plan.json", "model.safetensors", "tokenizer.json"}
    assert {f"model/{name}" for name in wanted} <= names
    assert {"MLmodel", "requirements.txt", "input_example.json", "model_card.md"} <= names
    pinned = (folder / "requirements.txt").read_text(encoding="utf-8").split()
    assert all("==" in line and "+" not in line for line in pinned)
    assert "huggingface.co" not in (folder / "LICENSE.txt").read_text(encoding="utf-8")
    run_id = tracked.run_id("0.2")
    stored = json.loads((folder / "model" / "plan.json").read_text(encoding="utf-8"))
    path = tracked.root / "mlruns" / "artifacts" / run_id / "artifacts" / "plan.json"
    assert stored == json.loads(path.read_text(encoding="utf-8"))
    done = subprocess.run(
        [sys.executable, "-c", LOAD, tracked.uri],
        capture_output=True,
        text=True,
        env=os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"


@pytest.mark.slow
def test_stored_weights_are_the_trials_bytes(tracked: Store) -> None:
    from prune_exp.machine.cache import file_sha256, folder_sha256

    for sparsity in ("0.2", "0.4"):
        tags = tracked.client.get_run(tracked.run_id(sparsity)).data.tags
        folder = tracked.files(sparsity)
        assert file_sha256(folder / "model.safetensors") == tags["prune_exp.weights_sha256"]
        assert folder_sha256(folder) == tags["prune_exp.files_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pickle", "code", "hook", "link"])
def test_a_stored_model_that_is_more_than_data_is_refused(
    kind: str, store: Store, tmp_path: Path
) -> None:
    target = tmp_path / "ran"
    run_id = store.client.get_model_version("pruned-tiny", "1").run_id
    folder = store.files(store.client.get_run(run_id).data.params["sparsity"])
    if kind == "pickle":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(target)))
    elif kind == "code":
        (folder / "evil.py").write_text(SNITCH.format(target=str(target)))
    elif kind == "hook":
        path = folder / "config.json"
        hooked = json.loads(path.read_text()) | {"auto_map": {"AutoConfig": "evil.Evil"}}
        path.write_text(json.dumps(hooked))
    else:
        (folder / "README.md").unlink()
        (folder / "README.md").symlink_to("/etc/hostname")
    gates = ["reload"] if kind in ("code", "hook") else []
    if kind == "link":
        with pytest.raises(SettingError, match="outside the artifact directory"):
            store.promote(gates=gates)
    else:
        assert store.promote(gates=gates) == 1
    assert store.alias("champion") is None
    assert not target.exists()


def test_where_files_cannot_be_linked_they_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    stored_models.link_or_copy(source, tmp_path / "linked")
    assert (tmp_path / "linked").samefile(source)

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    stored_models.link_or_copy(source, tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes() == b"weights"
    assert not (tmp_path / "copied").samefile(source)


def test_a_tag_cannot_have_other_folders_removed(tmp_path: Path) -> None:
    from prune_exp.registry.stored_models import discard_checkpoint
    from prune_exp.tracking.read import TrackedTrial

    root, other = tmp_path / "root", tmp_path / "other"
    inside = root / "0" / "model"
    inside.mkdir(parents=True)
    other.mkdir()

    def trial(path: str) -> TrackedTrial:
        tags = {"prune_exp.checkpoint": path}
        return TrackedTrial(
            run_id="1", name="", status="FINISHED", number=0, metrics={}, params={}, tags=tags
        )

    for path in (str(other), f"{root}/../other", str(root), str(tmp_path)):
        discard_checkpoint(trial(path), [root])
    assert other.exists()
    assert inside.exists()
    discard_checkpoint(trial(str(inside)), [root])
    assert not inside.exists()


@pytest.mark.slow
def test_a_trimmed_model_stored_in_several_files_is_promoted(
    text_file: Path, tmp_path: Path
) -> None:
    """MLflow's own limit is 500 MB a file; here a setting of it stands in for a large model."""
    model = tmp_path / "model"
    make_tiny("llama").save_pretrained(model)
    make_bpe_tokenizer().save_pretrained(model)
    args = [*small_trial(model, text_file, tmp_path / "cache"), "benchmark=off"]
    how = ["pruning=vocab", "pruning.vocab_share=0.9", "sparsity=0.1", "pruning.keep_share=0"]
    done = command(
        *args, *how, cwd=tmp_path, env={"MLFLOW_HUGGINGFACE_MODEL_MAX_SHARD_SIZE": "20KB"}
    )
    assert done.returncode == 0, done.stderr
    made = Store(root=tmp_path, cache=tmp_path / "cache")
    (run,) = runs_in(tmp_path)
    assert run.data.metrics["pruned/vocabulary"] < 300
    judged = ["integrity", "reload"]
    assert made.promote(gates=judged, run_id=run.info.run_id) == 0
    kept = json.loads(made.tags("1")["gate.reload"])
    assert kept["figures"]["max_logit_difference"] == 0


def test_a_model_that_cannot_be_stored_leaves_its_trial_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = TrackingSettings(root=str(tmp_path / "mlruns"))
    experiment = open_store(tracking)
    run_id = MlflowClient().create_run(experiment).info.run_id
    MlflowClient().set_terminated(run_id, "FINISHED", 12345)
    monkeypatch.setattr(stored_models, "write_card", lambda *_: None)

    def full(*_: object) -> str:
        assert mlflow.get_run(run_id).info.status == "FINISHED", "it is not opened again"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stored_models, "_log_checkpoint", full)
    with pytest.raises(OSError, match="No space"):
        stored_models.log_model(read_run(run_id), tmp_path)
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert mlflow.get_run(run_id).info.end_time == 12345
    assert mlflow.active_run() is None
