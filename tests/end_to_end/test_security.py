"""Hostile files, names and settings get nowhere."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import ModelSettings
from support.cli import command
from support.hostile import PASSWORD, SNITCH, Bomb
from support.models import make_tiny
from support.tokenizers import make_tokenizer

SLOW = pytest.mark.slow


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


@pytest.mark.parametrize(
    "how", [(), pytest.param(("-m", "hydra/sweeper=basic", "sparsity=0.3,0.5"), marks=SLOW)]
)
def test_passwords_reach_no_file_and_no_log(
    how: tuple[str, ...], tiny_args: list[str], tmp_path: Path
) -> None:
    args = [*tiny_args, "benchmark=off", f'search.storage="postgresql://u:{PASSWORD}@h/d"']
    done = command(*how, *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    for path in (tmp_path / "mlruns").rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path


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


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    from prune_exp.model.sources import locate_model

    folder, target = tmp_path / "model", tmp_path / "ran"
    make_tiny("llama").save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(SettingError, match=r"has no \.safetensors file; only those are read"):
        locate_model(ModelSettings(path=str(folder)), tmp_path / "cache")
    assert not target.exists()
