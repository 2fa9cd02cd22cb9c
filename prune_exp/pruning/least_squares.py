"""Least squares whose text may be longer than memory: only sums over the tokens are kept."""

import torch


class LeastSquares:
    """W [m, n] in y = x W^T, from sums over the tokens; a text can be added span by span.

    Products are taken in the inputs' precision, sums and the solution in double.
    """

    def __init__(self) -> None:
        self.system: torch.Tensor | None = None
        """x^T x [n, n]"""
        self.cross: torch.Tensor | None = None
        """y^T x [m, n]"""

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """More inputs x [.., n] and what is wanted of them y [.., m]."""
        x = x.flatten(0, -2)
        y = y.flatten(0, -2)
        system = (x.T @ x).double()
        cross = (y.T @ x).double()
        self.system = system if self.system is None else self.system.add_(system)
        self.cross = cross if self.cross is None else self.cross.add_(cross)

    def joined(self, other: "LeastSquares") -> "LeastSquares":
        """The sums over both texts."""
        assert self.system is not None
        assert self.cross is not None
        both = LeastSquares()
        both.system = self.system + other.system
        both.cross = self.cross + other.cross
        return both

    def narrow(self, kept: torch.Tensor) -> "LeastSquares":
        """The same with those inputs alone whose places are `kept` [kept]."""
        assert self.system is not None
        assert self.cross is not None
        some = LeastSquares()
        some.system = self.system[kept][:, kept]
        some.cross = self.cross[:, kept]
        return some

    def to_cpu(self) -> "LeastSquares":
        """The same sums on the processor."""
        assert self.system is not None
        assert self.cross is not None
        same = LeastSquares()
        same.system = self.system.cpu()
        same.cross = self.cross.cpu()
        return same

    def error_of(self, weights: torch.Tensor) -> float:
        """Squared error of weights [m, n] on this text, less that of no weights at all."""
        assert self.system is not None
        assert self.cross is not None
        weights = weights.double()
        return float((weights * (weights @ self.system - 2 * self.cross)).sum())

    def solve(self, prior: torch.Tensor, damping: float) -> torch.Tensor:
        """The solution that is kept near `prior` [m, n].

        It minimizes |x W^T - y|^2 + damping * mean(diag(x^T x)) * |W - prior|^2.
        """
        system, right = self.damped(prior, damping)
        factor = torch.linalg.cholesky(system)
        return torch.cholesky_solve(right.T, factor).T.to(prior.dtype).contiguous()

    def damped(self, prior: torch.Tensor, damping: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The system [n, n] and the right side [m, n] that `solve` solves."""
        assert self.system is not None
        assert self.cross is not None
        system = self.system.clone()
        ridge = damping * system.diagonal().mean().clamp_min(1e-12)
        system.diagonal().add_(ridge)
        return system, self.cross + ridge * prior.double()
