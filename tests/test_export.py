"""A checkpoint is written whole or not at all."""

import errno
from pathlib import Path
from typing import Any

import pytest
from conftest import make_tiny, make_tokenizer

from prune_exp import models, trial
from prune_exp.corpus import Corpus, TokenBlocks
from prune_exp.records import ModelShape


def inputs_for(folder: Path, shape: ModelShape) -> trial.Inputs:
    import torch

    text = TokenBlocks(ids=torch.zeros(1, 2), bytes_scored=1, digest="d", source="s")
    return trial.Inputs(
        source=models.ModelSource(folder=folder, digest="d"),
        tokenizer=make_tokenizer(),
        corpus=Corpus(calibration=text, heldout=text),
        prompts=[],
        shape=shape,
        cache_dir=folder,
    )


def test_a_full_disk_leaves_no_partial_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny("llama")

    def full(_model: Any, _tokenizer: Any, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(models, "save", full)
    with pytest.raises(trial.ExportError, match="No space left"):
        trial.export(model, inputs_for(tmp_path, models.shape_of(model)), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_weights_survive_export_bit_for_bit(tmp_path: Path) -> None:
    import torch

    model = make_tiny("llama")
    target = trial.export(model, inputs_for(tmp_path, models.shape_of(model)), tmp_path / "model")
    again = models.load(target)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert len(trial.weights_sha256(target)) == 64
