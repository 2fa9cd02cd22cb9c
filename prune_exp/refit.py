"""Least-squares update of the weights that read the removed units."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def solve(
    x: "torch.Tensor", y: "torch.Tensor", prior: "torch.Tensor", damping: float
) -> "torch.Tensor":
    """W [m, n] in y = x W^T for inputs x [.., n] and targets y [.., m], kept near `prior` [m, n].

    Minimizes |x W^T - y|^2 + damping * mean(diag(x^T x)) * |W - prior|^2. Products are taken in
    the inputs' precision, the system is solved in double.
    """
    import torch

    x, y = x.flatten(0, -2), y.flatten(0, -2)
    system, cross = (x.T @ x).double(), (y.T @ x).double()
    ridge = damping * system.diagonal().mean().clamp_min(1e-12)
    system.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(system)
    right = cross + ridge * prior.double()
    return torch.cholesky_solve(right.T, factor).T.to(prior.dtype).contiguous()
