"""The loss is exact in value and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_exp.model.next_tokens import NextTokens, sum_divergence
from prune_exp.recovery.distillation import distillation_loss


def sides(tokens: int, seed: int = 0) -> tuple[NextTokens, torch.Tensor, torch.Tensor]:
    """A dense side and a student's tensors, of different widths and the same vocabulary."""
    chance = torch.Generator().manual_seed(seed)
    dense = NextTokens(
        hidden=torch.randn(tokens, 6, generator=chance), head=torch.randn(11, 6, generator=chance)
    )
    hidden = torch.randn(tokens, 5, generator=chance, requires_grad=True)
    head = torch.randn(11, 5, generator=chance, requires_grad=True)
    return dense, hidden, head


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_the_chunked_loss_is_the_whole_one_in_value_and_gradient(
    tokens: int, chunk: int, seed: int
) -> None:
    dense, hidden, head = sides(tokens, seed)
    loss = distillation_loss(dense, NextTokens(hidden=hidden, head=head), chunk=chunk)
    found = torch.autograd.grad(3 * loss, [hidden, head])
    ours, theirs = (hidden @ head.T).log_softmax(-1), (dense.hidden @ dense.head.T).log_softmax(-1)
    whole = torch.nn.functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")
    wanted = torch.autograd.grad(3 * whole, [hidden, head])
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5, abs=1e-6)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    plain = NextTokens(hidden=hidden.detach(), head=head.detach())
    assert sum_divergence(dense, plain, chunk=chunk) / tokens == pytest.approx(
        loss.item(), rel=1e-4
    )


def test_a_head_that_is_not_trained_gets_no_gradient() -> None:
    dense, hidden, head = sides(4)
    loss = distillation_loss(dense, NextTokens(hidden=hidden, head=head.detach()))
    loss.backward()
    assert hidden.grad is not None
    assert head.grad is None
