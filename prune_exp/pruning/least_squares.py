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

    def sums(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The system [n, n] and the cross products [m, n], once a text was added."""
        assert self.system is not None
        assert self.cross is not None
        return self.system, self.cross

    def joined(self, other: "LeastSquares") -> "LeastSquares":
        """The sums over both texts."""
        pairs = zip(self.sums(), other.sums(), strict=True)
        return _from_sums(*(one + more for one, more in pairs))

    def narrow(self, kept: torch.Tensor) -> "LeastSquares":
        """The same with those inputs alone whose places are `kept` [kept]."""
        system, cross = self.sums()
        return _from_sums(system[kept][:, kept], cross[:, kept])

    def error_of(self, weights: torch.Tensor) -> float:
        """Squared error of weights [m, n] on this text, less that of no weights at all."""
        system, cross = self.sums()
        weights = weights.double()
        return float((weights * (weights @ system - 2 * cross)).sum())

    def solve(self, prior: torch.Tensor, damping: float) -> torch.Tensor:
        """The solution that is kept near `prior` [m, n].

        It minimizes |x W^T - y|^2 + damping * mean(diag(x^T x)) * |W - prior|^2.
        """
        system, right, _ = self.damped(prior, damping)
        factor = torch.linalg.cholesky(system)
        return torch.cholesky_solve(right.T, factor).T.to(prior.dtype).contiguous()

    def damped(
        self, prior: torch.Tensor, damping: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The system [n, n] and the right side [m, n] that `solve` solves, and the ridge []."""
        system, cross = self.sums()
        ridge = damping * system.diagonal().mean().clamp_min(1e-12)
        damped = system.clone()
        damped.diagonal().add_(ridge)
        return damped, cross + ridge * prior.double(), ridge


def _from_sums(system: torch.Tensor, cross: torch.Tensor) -> LeastSquares:
    fit = LeastSquares()
    fit.system = system
    fit.cross = cross
    return fit
