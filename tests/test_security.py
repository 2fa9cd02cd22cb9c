"""Hostile input: passwords, code in checkpoints, pickles, names, config that would instantiate."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import command, make_tiny, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tracked_sweep import Store

from prune_exp.settings.checks import check_settings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import ModelSettings, TrackingSettings
from prune_exp.settings.params import flatten_settings, restore_settings
from prune_exp.settings.redaction import redact, redact_override
from prune_exp.settings.schema import Settings

PASSWORD = "hunter2"
SNITCH = "from pathlib import Path\nPath({target!r}).write_text('ran')\nclass Evil: pass\n"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{PASSWORD}@host/db",
        f"postgresql://me:at@{PASSWORD}@host/db",
        f"postgresql://me:slash/{PASSWORD}@host/db",
        f"http://host/api?user=me&password={PASSWORD}&x=1",
        f"http://host/api?access_token={PASSWORD}",
        f"could not open ['http://me:{PASSWORD}@host:1/']",
    ],
)
def test_passwords_in_uris_are_hidden(text: str) -> None:
    assert PASSWORD not in redact(text)
    assert "host" in redact(text)


@pytest.mark.parametrize(
    "text", ["models:/pruned@candidate", "data.context_tokens=32", "sqlite:////a/b.db", "a@b"]
)
def test_what_is_no_password_stays(text: str) -> None:
    assert redact(text) == redact_override(text) == text


@pytest.mark.parametrize(
    "text",
    [
        f"db.password={PASSWORD}",
        f"+api_key={PASSWORD}",
        f"hub.token={PASSWORD}",
        f"db={{user: me, passwd: {PASSWORD}}}",
        f"uri=http://me:{PASSWORD}@host",
    ],
)
def test_secret_overrides_are_hidden(text: str) -> None:
    assert PASSWORD not in redact_override(text)
    assert redact_override(text).startswith(text.partition("=")[0])


@given(st.floats(0.01, 0.99), st.booleans(), st.lists(st.text("abc", min_size=1)), st.text())
def test_flattened_settings_come_back(
    sparsity: float, refit: bool, voters: list[str], name: str
) -> None:
    settings = Settings(sparsity=sparsity, model=ModelSettings(name=name, package="p"))
    settings.pruning.refit, settings.pruning.voters = refit, voters
    if redact(name) == name and name != "None":
        assert restore_settings(Settings, flatten_settings(settings)) == settings


def test_stored_settings_are_data() -> None:
    assert (
        restore_settings(Settings, {"model.name": "${oc.env:HOME}"}).model.name == "${oc.env:HOME}"
    )
    with pytest.raises(SettingError, match=r"sparsity=__import__\('os'\) as tracked"):
        restore_settings(Settings, {"sparsity": "__import__('os')"})


@pytest.mark.parametrize("name", ["a' or name != '", "../../up", "a/b", "a:b", "", "a\nb"])
def test_names_that_reach_beyond_are_refused(name: str) -> None:
    settings = Settings(model=ModelSettings(name=name, package="p"))
    settings.pruning.voters, settings.data.path = ["wanda"], "text"
    with pytest.raises(SettingError, match="is no name"):
        check_settings(settings)
    settings.model.name = "fine"
    settings.tracking = TrackingSettings(registered_model=name)
    with pytest.raises(SettingError, match="is no name"):
        check_settings(settings)


def test_a_hub_model_needs_a_revision() -> None:
    settings = Settings(model=ModelSettings(hub_id="who/what"))
    settings.pruning.voters, settings.data.path = ["wanda"], "text"
    with pytest.raises(SettingError, match=r"pin one with model\.revision=COMMIT"):
        check_settings(settings)


@pytest.mark.parametrize(
    "override", ["+model._target_=os.system", "+_target_=os.system", "+pruning.voters._target_=x"]
)
def test_config_instantiates_nothing(override: str, tiny_args: list[str], tmp_path: Path) -> None:
    done = command(*tiny_args, override, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


def test_a_config_file_instantiates_nothing(tiny_args: list[str], tmp_path: Path) -> None:
    group = tmp_path / "mine" / "experiment"
    group.mkdir(parents=True)
    target = tmp_path / "ran"
    (group / "evil.yaml").write_text(
        f"# @package _global_\npruning:\n  _target_: pathlib.Path.touch\n  _args_: [{target}]\n"
    )
    args = ["--config-dir", str(tmp_path / "mine"), *tiny_args, "experiment=evil"]
    done = command(*args, cwd=tmp_path)
    assert done.returncode == 1
    assert "_target_" in done.stderr
    assert not target.exists()


def test_passwords_reach_no_file_and_no_log(tiny_args: list[str], tmp_path: Path) -> None:
    args = [*tiny_args, "benchmark=off", f'search.storage="postgresql://u:{PASSWORD}@h/d"']
    done = command(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    for path in (tmp_path / "mlruns").rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path


def test_hydras_launch_log_is_redacted() -> None:
    import logging

    from prune_exp.settings.redaction import Redact

    record = logging.LogRecord(
        "x", logging.INFO, "f", 1, "#%d : %s", (0, f"uri=http://me:{PASSWORD}@h"), None
    )
    assert Redact().filter(record)
    assert record.getMessage() == "#0 : uri=http://***@h"


def hostile_checkpoint(folder: Path, target: Path) -> None:
    """A checkpoint whose config and tokenizer point at code that would write `target`."""
    make_tiny("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "evil.py").write_text(SNITCH.format(target=str(target)))
    hooks: dict[str, dict[str, Any]] = {
        "config.json": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"},
        "tokenizer_config.json": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    }
    for name, auto_map in hooks.items():
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    import torch

    from prune_exp.model import loading
    from prune_exp.model.export import export_model

    target, folder = tmp_path / "ran", tmp_path / "model"
    hostile_checkpoint(folder, target)
    assert loading.foreign_parts(folder) == [
        "config.json (auto_map)",
        "evil.py",
        "tokenizer_config.json (auto_map)",
    ]
    model, tokenizer = loading.load_model(folder), loading.load_tokenizer(folder)
    loading.load_skeleton(folder)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(ids).logits, make_tiny("llama")(ids).logits)
    written = export_model(model, tokenizer, tmp_path / "out")
    assert loading.foreign_parts(written) == []
    assert not target.exists()


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    from prune_exp.model.sources import locate_model

    folder, target = tmp_path / "model", tmp_path / "ran"
    make_tiny("llama").save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(SettingError, match=r"has no \.safetensors file; only those are read"):
        locate_model(ModelSettings(path=str(folder)), tmp_path / "cache")
    assert not target.exists()


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


APP = """
import hydra, mlflow
from pathlib import Path

@hydra.main(version_base="1.3", config_path=None)
def main(config):
    mlflow.set_tracking_uri(f"sqlite:///{Path.cwd()}/store.db")
    with mlflow.start_run():
        mlflow.log_param("a", config.a)

main()
"""
LIGHT = """
import sys
from prune_exp.tracking.context import HydraContext
assert not HydraContext().in_context()
assert HydraContext().tags() == {}
heavy = {"hydra", "mlflow", "torch", "omegaconf", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_other_hydra_projects_get_tags(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    import prune_exp

    info = tmp_path / "site" / "prune_exp-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: prune-exp\nVersion: 0.1.0\n")
    wanted = 'prune_exp = "prune_exp.tracking.context:HydraContext"'
    project = Path(prune_exp.__file__).parents[1] / "pyproject.toml"
    group = '[project.entry-points."mlflow.run_context_provider"]\n'
    assert group + wanted in project.read_text(encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[mlflow.run_context_provider]\nprune_exp = prune_exp.tracking.context:HydraContext\n"
    )
    (tmp_path / "app.py").write_text(APP)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "app.py", "-m", "+a=1,2", f"+db.password={PASSWORD}", "+b=3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = MlflowClient(f"sqlite:///{tmp_path}/store.db").search_runs(["0"])
    tags = sorted((run.data.tags for run in runs), key=lambda one: one["hydra.job.num"])
    assert [one["hydra.job.num"] for one in tags] == ["0", "1"]
    assert [one["hydra.overrides"] for one in tags] == [
        f"+a={a} +b=3 +db.password=***" for a in (1, 2)
    ] or [sorted(one["hydra.overrides"].split()) for one in tags] == [
        sorted([f"+a={a}", "+b=3", "+db.password=***"]) for a in (1, 2)
    ]
    for one in tags:
        assert one["hydra.job.name"] == "app"
        assert Path(one["hydra.sweep.dir"]).parts[0] == "multirun"
        assert PASSWORD not in str(one)


def test_the_context_is_light_and_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from prune_exp.tracking.context import HydraContext

    subprocess.run([sys.executable, "-c", LIGHT], check=True)

    class Broken:
        @property
        def HydraConfig(self) -> Any:
            raise RuntimeError("broken")

    monkeypatch.setitem(sys.modules, "hydra.core.hydra_config", Broken())  # type: ignore[arg-type]
    assert HydraContext().in_context() is False
    assert HydraContext().tags() == {}
