"""Intervals of ratios, by hand and by simulation."""

import pytest
import torch

from prune_exp.measurement.intervals import exp_mean_difference, middle_ratio


def test_constant_ratio_has_an_interval_of_no_width() -> None:
    for pairs in (3, 30):
        found = middle_ratio([2.0] * pairs, [1.0] * pairs, resamples=200)
        assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))
    same = exp_mean_difference([1.0, 2.0], [1.0, 2.0], resamples=200)
    assert same.value == 1.0


def test_the_middle_of_ratios_by_hand() -> None:
    # of five pairs one is cut on either side, and 2, 4, 8 have the geometric mean 4
    found = middle_ratio([1000.0, 2.0, 4.0, 8.0, 0.001], [1.0] * 5, resamples=200)
    assert found.value == pytest.approx(4.0)
    back = middle_ratio([1.0] * 5, [1000.0, 2.0, 4.0, 8.0, 0.001], resamples=200)
    assert back.value == pytest.approx(1 / 4)
    same = middle_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], resamples=200)
    assert (same.value, same.low, same.high) == pytest.approx((2, 2, 2))


@pytest.mark.parametrize("pairs", [2, 3, 5, 12])
def test_few_pairs_claim_no_more_than_they_can(pairs: int) -> None:
    """Of 300 nominal 95 % intervals of pure noise, at least 88 % contain 1."""
    chance = torch.Generator().manual_seed(pairs)
    noise = torch.randn(300, pairs, generator=chance, dtype=torch.float64).mul(0.1).exp()
    found = [middle_ratio(row, [1.0] * pairs, resamples=300) for row in noise.tolist()]
    assert sum(one.low <= 1 <= one.high for one in found) >= 264


def test_interval_of_noise_around_one_contains_one() -> None:
    chance = torch.Generator().manual_seed(0)
    a, b = (torch.rand(50, generator=chance) + 1 for _ in range(2))
    found = middle_ratio(a.tolist(), b.tolist(), resamples=500)
    assert found.low < 1 < found.high
