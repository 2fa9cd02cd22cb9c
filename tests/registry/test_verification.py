"""A registered model's files are checked before anything loads them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from prune_exp.registry.verification import verify_model
from prune_exp.settings.command_schemas import VerifySettings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from support.cli import command
from support.hostile import SNITCH
from support.store import Store

pytestmark = pytest.mark.slow

LOAD = """
import sys, mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
print(len(model.predict(["the river"], params={"max_new_tokens": 2})))
"""


def verify(store: Store, **wanted: Any) -> int:
    tracking = TrackingSettings(root=str(store.root / "mlruns"))
    return verify_model(VerifySettings(tracking=tracking, **wanted))


def root_of(store: Store) -> Path:
    """Where the store keeps the whole model that is version 1."""
    run_id = store.client.get_model_version("pruned-tiny", "1").run_id
    return store.files(store.client.get_run(run_id).data.params["sparsity"]).parent


def with_code(root: Path, target: Path) -> None:
    """Has MLflow import a module that lies beside the checkpoint."""
    (root / "code").mkdir()
    (root / "code" / "evil.py").write_text(SNITCH.format(target=str(target)))
    facts = yaml.safe_load((root / "MLmodel").read_text())
    facts["flavors"]["python_function"] |= {"code": "code", "loader_module": "evil"}
    (root / "MLmodel").write_text(yaml.safe_dump(facts))


def test_code_beside_the_checkpoint_is_refused(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    with_code(root_of(store), target)
    assert verify(store, version=1) == 1
    assert store.promote(gates=["integrity", "reload"]) == 1
    assert store.alias("champion") is None
    assert "MLmodel (loader_module)" in store.tags("1")["promotion.reasons"]
    assert not json.loads(store.tags("1")["gate.reload"])["passed"]
    limits = {"public_key": str(store.root / "key.pub")}
    assert store.promote(gates=["signature"], limits=limits) == 1
    assert "not those that were signed" in store.tags("1")["promotion.reasons"]
    assert not target.exists()


@pytest.mark.parametrize("name", ["requirements.txt", "components/tokenizer/tokenizer.json"])
def test_a_changed_file_beside_the_checkpoint_is_refused(name: str, store: Store) -> None:
    file = root_of(store) / name
    text = file.read_text()
    file.write_text(text.replace("==", "==9.") if name.endswith("txt") else text + "\n")
    assert verify(store, version=1) == 1
    assert store.promote(gates=["integrity"]) == 1
    assert "beside the checkpoint" in store.tags("1")["promotion.reasons"]


def test_what_was_checked_is_handed_over_and_loads(store: Store, tmp_path: Path) -> None:
    out, key = tmp_path / "out", str(store.root / "key.pub")
    assert verify(store, version=1, public_key=key, output=str(out)) == 0
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(out)],
        capture_output=True,
        text=True,
        env=os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        check=False,
    )
    assert done.stdout.strip() == "1", done.stderr
    assert (out / "model.sig").is_file()
    with pytest.raises(SettingError, match="exists; give a folder that does not"):
        verify(store, version=1, output=str(out))


def test_files_swapped_after_the_promotion_are_noticed(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingError, match="has no champion"):
        verify(store)
    assert store.promote(gates=["integrity"]) == 0
    assert verify(store) == 0
    assert "the files are those that the gates judged" in capsys.readouterr().out
    (root_of(store) / "model_card.md").write_text("# Another model\n")
    run_id = store.client.get_model_version("pruned-tiny", "1").run_id
    from prune_exp.machine.cache import folder_sha256

    changed = folder_sha256(root_of(store), without="model")
    store.client.set_tag(run_id, "prune_exp.wrapper_sha256", changed)
    assert verify(store) == 1
    assert "the files are not those that the gates judged" in capsys.readouterr().out


def test_the_command_says_what_it_found(tracked: Store) -> None:
    done = command("version=1", module="prune_exp.verify", cwd=tracked.root)
    assert done.returncode == 0, done.stderr
    assert "pruned-tiny, version 1:\n  passed  integrity" in done.stdout
