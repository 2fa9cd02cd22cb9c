"""Moments are those of all that was seen, and one massive channel does not drown the others."""

import pytest
import torch

from prune_exp.pruning.moments import INVERSE_DAMPING, Moments


def summary(values: torch.Tensor) -> dict[str, torch.Tensor]:
    moments = Moments(values.shape[-1], "cpu")
    for part in values.split(3, dim=1):
        moments.add(part)
    return moments.summary("mlp")


def test_the_inverse_is_that_of_the_damped_second_moment() -> None:
    values = torch.randn(1, 30, 4, generator=torch.Generator().manual_seed(0))
    found = summary(values)
    moment = (values[0].T @ values[0] / 30).double()
    assert torch.allclose(found["mlp_activation_mean"], values[0].mean(0), atol=1e-6)
    assert torch.allclose(found["mlp_activation_mean_sq"], moment.diagonal().float(), atol=1e-6)
    damping = INVERSE_DAMPING * moment.diagonal().median()
    wanted = torch.linalg.inv(moment + damping * torch.eye(4)).diagonal()
    assert torch.allclose(found["mlp_inverse_moment_diag"], wanted.float(), rtol=1e-4)


def test_a_massive_channel_leaves_the_others_their_correlations() -> None:
    """Two channels that say the same can each go for nothing, whatever a third one does."""
    chance = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 60, 1, generator=chance)
    apart = torch.randn(1, 60, 3, generator=chance)
    values = torch.cat([shared, shared + 0.01 * apart[..., :1], apart[..., 1:]], dim=-1)
    left = 1 / summary(values)["mlp_inverse_moment_diag"]
    massive = values.clone()
    massive[..., 3] *= 1e4
    beside = 1 / summary(massive)["mlp_inverse_moment_diag"]
    assert (left[:2] < 0.05 * left[2]).all()
    assert beside[:3].tolist() == pytest.approx(left[:3].tolist(), rel=0.5)


def test_channels_that_hardly_ever_speak_can_be_inverted() -> None:
    """As behind a ReLU: most are silent, and pairs of others speak at one token alone."""
    for seed in range(20):
        chance = torch.Generator().manual_seed(seed)
        values = torch.zeros(1, 400, 64)
        values[0, 0, :12] = 1000 * torch.rand(12, generator=chance)
        values[0, :, 12:20] = torch.rand(400, 8, generator=chance)
        left = 1 / summary(values)["mlp_inverse_moment_diag"]
        assert torch.isfinite(left).all()
        assert (left[20:] < 1e-3 * left[12:20].min()).all(), "silent channels go for nothing"
