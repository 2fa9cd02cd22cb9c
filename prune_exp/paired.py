"""Ratios of paired measurements with 95 % bootstrap intervals."""

from collections.abc import Callable, Sequence
from typing import Any

from prune_exp.records import Interval


def median_ratio(
    numerator: Sequence[float], denominator: Sequence[float], *, resamples: int, seed: int = 0
) -> Interval:
    """Median over pairs of numerator / denominator, with its percentile bootstrap interval.

    The i-th values of both were measured next to each other on the same input, so whatever
    slowed one slowed the other.
    """
    import numpy as np

    ratios = np.asarray(numerator, dtype=float) / np.asarray(denominator, dtype=float)
    return _bootstrap(ratios, np.median, resamples, seed)


def exp_mean_difference(
    first: Sequence[float], second: Sequence[float], *, resamples: int, seed: int = 0
) -> Interval:
    """exp of the mean over pairs of first - second: a ratio of perplexities from log-losses."""
    import numpy as np

    gaps = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    inner = _bootstrap(gaps, np.mean, resamples, seed)
    return Interval(
        value=float(np.exp(inner.value)),
        low=float(np.exp(inner.low)),
        high=float(np.exp(inner.high)),
    )


def _bootstrap(values: Any, statistic: Callable[..., Any], resamples: int, seed: int) -> Interval:
    import numpy as np
    from scipy.stats import bootstrap

    assert len(values) > 1, "an interval needs at least two pairs"
    result = bootstrap(
        (values,),
        statistic,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value=float(statistic(values)), low=float(result.low), high=float(result.high))
