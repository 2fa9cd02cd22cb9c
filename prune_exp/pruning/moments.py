"""First and second moments of activations, summed up as they are seen."""

from typing import Any

import torch

INVERSE_DAMPING = 1e-2
"""Added to the diagonal before it is inverted, as a share of its median: one massive channel may be
most of its mean."""
OF_SILENT = 1e-5
"""The share of the mean that stands in for the median where most channels say nothing."""
ROUNDING = 1e-6
"""Added to every channel, as a share of its own, where rounding has left a matrix that cannot be
inverted: channels that only ever speak together are such. Ten times as much each time after."""
ATTEMPTS = 9


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
        inverse = _invert_damped(moment).diagonal()
        return {
            f"{prefix}_activation_mean": self.total / self.count,
            f"{prefix}_activation_mean_sq": square.float(),
            f"{prefix}_inverse_moment_diag": inverse.float(),
        }


def _invert_damped(moment: torch.Tensor) -> torch.Tensor:
    """The inverse of a moment matrix [size, size] with as much damping as it needs; changes it."""
    square = moment.diagonal().clone()
    typical = square.median()
    if not typical > 0:
        typical = OF_SILENT * square.mean()
    moment.diagonal().add_(INVERSE_DAMPING * typical.clamp_min(1e-12))
    for more in (ROUNDING * 10**attempt for attempt in range(ATTEMPTS)):
        factor, fault = torch.linalg.cholesky_ex(moment)
        if bool(fault == 0):
            return torch.cholesky_inverse(factor)
        moment.diagonal().add_(more * square)
    raise ArithmeticError("a matrix of second moments cannot be inverted")
