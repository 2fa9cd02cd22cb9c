"""Least-squares update of the weights that read the removed units."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Regression:
    """Collects inputs x [.., n] and targets y [.., m] and solves for W [m, n] in y = x W^T."""

    def __init__(self, inputs: int, outputs: int) -> None:
        import torch

        self.gram = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.cross = torch.zeros(outputs, inputs, dtype=torch.float64)

    def add(self, x: "torch.Tensor", y: "torch.Tensor") -> None:
        """Adds pairs of rows of x [.., n] and y [.., m]."""
        x, y = x.flatten(0, -2), y.flatten(0, -2)
        self.gram += x.T @ x
        self.cross += y.T @ x

    def solve(self, prior: "torch.Tensor", damping: float) -> "torch.Tensor":
        """argmin over W of |x W^T - y|^2 + damping * mean(diag(x^T x)) * |W - prior|^2."""
        import torch

        ridge = damping * self.gram.diagonal().mean().clamp_min(1e-12)
        system = self.gram.clone()
        system.diagonal().add_(ridge)
        right = self.cross + ridge * prior.double()
        factor = torch.linalg.cholesky(system)
        return torch.cholesky_solve(right.T, factor).T.to(prior.dtype).contiguous()
