"""A checkpoint is written whole or not at all."""

import errno
from pathlib import Path
from typing import Any

import pytest

from prune_exp.model import loading
from prune_exp.model.export import ExportError, export_model, weights_sha256
from support.models import make_tiny
from support.tokenizers import make_tokenizer


def test_a_full_disk_leaves_no_partial_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny("llama")

    def full(_model: Any, _tokenizer: Any, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loading, "save_model", full)
    with pytest.raises(ExportError, match="No space left"):
        export_model(model, make_tokenizer(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_nothing_is_written_over(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "model"
    if kind == "folder":
        target.mkdir()
        (target / "mine").write_text("mine", encoding="utf-8")
    elif kind == "file":
        target.write_text("mine", encoding="utf-8")
    else:
        (tmp_path / "elsewhere").mkdir()
        target.symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match="there already"):
        export_model(make_tiny("llama"), make_tokenizer(), target)
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_survive_export_bit_for_bit(tmp_path: Path) -> None:
    import torch

    model = make_tiny("llama")
    target = export_model(model, make_tokenizer(), tmp_path / "model")
    again = loading.load_model(target)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert len(weights_sha256(target)) == 64
