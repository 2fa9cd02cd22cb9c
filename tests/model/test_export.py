"""A checkpoint is written whole or not at all."""

import errno
from pathlib import Path
from typing import Any

import pytest

from prune_exp.model import loading
from prune_exp.model.export import (
    ExportError,
    choose_export_dtype,
    export_model,
    weights_sha256,
)
from support.models import make_tiny
from support.tokenizers import make_tokenizer


def test_a_full_disk_leaves_no_partial_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny("llama")

    def full(_model: Any, _tokenizer: Any, folder: Path, _weights: Any) -> None:
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


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt_neox"])
def test_what_is_judged_is_what_was_written(kind: str, dtype: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = make_tiny(kind)
    ids = torch.arange(20)[None]
    whole = model(ids).logits
    target = export_model(model, make_tokenizer(), tmp_path / "model", dtype)
    assert loading.read_dtype(target) == dtype
    assert AutoModelForCausalLM.from_pretrained(target).dtype == getattr(torch, dtype)
    now = model(ids).logits
    assert now.dtype == torch.float32
    assert not torch.equal(now, whole)
    assert torch.equal(now, loading.load_model(target)(ids).logits)


@pytest.mark.parametrize(
    ("stored", "wanted", "written"),
    [
        ("bfloat16", "auto", "bfloat16"),
        ("float16", "auto", "float16"),
        ("float32", "auto", "float32"),
        ("float64", "auto", "float32"),
        ("bfloat16", "float32", "float32"),
    ],
)
def test_the_type_is_the_dense_checkpoints_unless_told(
    stored: str, wanted: str, written: str, tmp_path: Path
) -> None:
    import torch

    model = make_tiny("llama").to(getattr(torch, stored))
    model.model.norm.float()  # some keep a few of their weights in another type
    model.save_pretrained(tmp_path)
    assert choose_export_dtype(wanted, tmp_path) == written


def test_values_that_a_type_cannot_hold_are_said(tmp_path: Path) -> None:
    model = make_tiny("llama")
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = 1e6
    with pytest.raises(ExportError, match=r"cannot hold; type model\.export_dtype=float32"):
        export_model(model, make_tokenizer(), tmp_path / "model", "float16")
    assert list(tmp_path.iterdir()) == []
    assert model.dtype.itemsize == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_no_numbers_are_not_written(dtype: str, tmp_path: Path) -> None:
    model = make_tiny("llama")
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(ExportError, match=r"layers\.1\.mlp\.down_proj.*no numbers"):
        export_model(model, make_tokenizer(), tmp_path / "model", dtype)
    assert list(tmp_path.iterdir()) == []
