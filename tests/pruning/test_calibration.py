"""Calibration reads what it is told to, on the device of the model."""

import torch

from prune_exp.pruning.calibration import ReadingSettings, compute_statistics
from prune_exp.pruning.statistics import tensors_of
from support.models import make_tiny

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
