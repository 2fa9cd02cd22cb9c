"""Calibration reads what it is told to, on the device of the model."""

from pathlib import Path

import pytest
import torch

from prune_exp.pruning.calibration import ReadingSettings, calibrate_model, compute_statistics
from prune_exp.pruning.statistics import tensors_of
from prune_exp.trial.prepare import prepare_trial
from support.models import make_tiny
from support.settings import settings_for

IDS = torch.randint(1, 300, (4, 24), generator=torch.Generator().manual_seed(1))


def test_voters_see_the_voting_blocks_alone_and_the_refit_all() -> None:
    model, frequency = make_tiny("llama"), torch.full((300,), 1 / 300)
    reading, stream = ReadingSettings(voting_blocks=2, gradient_blocks=1), {}
    both = compute_statistics(model, IDS, frequency, reading, stream.__setitem__)
    alone = compute_statistics(model, IDS[:2], frequency, reading, lambda *_: None)
    of_alone = tensors_of(alone)
    for name, value in tensors_of(both).items():
        assert torch.equal(value, of_alone[name]), name
    states = model.model(IDS, output_hidden_states=True).hidden_states
    for index in range(4):
        assert torch.allclose(stream[index], states[index], atol=1e-5)
    assert len(stream) == 5


def test_statistics_that_are_no_numbers_are_not_kept(
    tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    settings = settings_for(tiny_folder, text_file, tmp_path / "cache")
    inputs = prepare_trial(settings).dense
    model = make_tiny("llama")
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("nan")
    reading = ReadingSettings(voting_blocks=2, gradient_blocks=1)
    with pytest.raises(ArithmeticError, match="no numbers"):
        calibrate_model(
            model, "d", inputs.corpus, inputs.tokenizer, reading, cache_dir=tmp_path / "cache"
        )
    kept = [path.suffix for path in (tmp_path / "cache" / "calibration").iterdir()]
    assert set(kept) <= {".lock"}
