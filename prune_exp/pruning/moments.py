"""First and second moments of activations, summed up as they are seen."""

from typing import Any

import torch

INVERSE_DAMPING = 1e-2
"""Added to the diagonal before it is inverted, as a share of its median: one massive channel may be
most of its mean."""


class Moments:
    """Running first and second moments of a feature vector."""

    def __init__(self, size: int, device: Any) -> None:
        self.count = 0
        self.total = torch.zeros(size, device=device)
        self.gram = torch.zeros(size, size, device=device)

    def add(self, values: torch.Tensor) -> None:
        """Adds activations [1, tokens, size]."""
        flat = values.flatten(0, -2)
        self.count += flat.shape[0]
        self.total += flat.sum(0)
        self.gram.addmm_(flat.T, flat)

    def summary(self, prefix: str) -> dict[str, torch.Tensor]:
        """Mean, mean square and the diagonal of the damped inverse."""
        moment = (self.gram / self.count).double()
        if not bool(torch.isfinite(moment).all()):
            raise ArithmeticError(
                f"what the {prefix} units say to the calibration text is no numbers"
            )
        square = moment.diagonal().clone()
        moment.diagonal().add_(INVERSE_DAMPING * square.median().clamp_min(1e-12))
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment)).diagonal()
        return {
            f"{prefix}_activation_mean": self.total / self.count,
            f"{prefix}_activation_mean_sq": square.float(),
            f"{prefix}_inverse_moment_diag": inverse.float(),
        }
