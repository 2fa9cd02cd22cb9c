"""Ratios of paired measurements with 95 % intervals."""

from collections.abc import Callable, Sequence
from typing import Any

from prune_exp.measurement.records import FEW_PAIRS, Interval

CUT = 0.25
"""Share of the pairs that the interquartile mean leaves out at either end."""


def middle_ratio(
    numerator: Sequence[float], denominator: Sequence[float], *, resamples: int, seed: int = 0
) -> Interval:
    """Interquartile mean over pairs of log(numerator / denominator), as a ratio.

    The i-th values of both were measured next to each other on the same input, so whatever slowed
    one slowed the other. Like the median it does not mind a quarter of the pairs being disturbed on
    either side, but it uses more of the others, and the ratio the other way round is exactly its
    inverse. Below four
    pairs nothing is cut. Below `FEW_PAIRS` pairs a bootstrap knows too little (of two, its interval
    would end at both, and hold the truth half of the time), so Student's t takes its place.
    """
    import numpy as np

    logs = np.log(np.asarray(numerator, dtype=float) / np.asarray(denominator, dtype=float))
    if len(logs) < FEW_PAIRS:
        return _exponentiate(_student_interval(logs))
    return _exponentiate(_bootstrap_interval(logs, _interquartile_mean, resamples, seed))


def _interquartile_mean(values: Any, axis: int = -1) -> Any:
    from scipy.stats import trim_mean

    return trim_mean(values, CUT, axis=axis)


def _student_interval(values: Any) -> Interval:
    """The t interval of a trimmed mean (Tukey and McLaughlin 1963, Sankhya A 25:331)."""
    import numpy as np
    from scipy.stats import t
    from scipy.stats.mstats import winsorize

    count = len(values)
    cut = int(CUT * len(values))
    assert count > 1, "an interval needs at least two pairs"
    spread = np.std(np.asarray(winsorize(values, limits=(CUT, CUT))), ddof=1)
    error = spread / ((1 - 2 * cut / count) * np.sqrt(count))
    value = float(_interquartile_mean(values))
    half = float(t.ppf(0.975, count - 2 * cut - 1) * error)
    return Interval(value=value, low=value - half, high=value + half)


def exp_mean_difference(
    first: Sequence[float], second: Sequence[float], *, resamples: int, seed: int = 0
) -> Interval:
    """exp of the mean over pairs of first - second: a ratio of perplexities from log-losses."""
    import numpy as np

    gaps = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    return _exponentiate(_bootstrap_interval(gaps, np.mean, resamples, seed))


def _exponentiate(inner: Interval) -> Interval:
    from math import exp

    return Interval(value=exp(inner.value), low=exp(inner.low), high=exp(inner.high))


def _bootstrap_interval(
    values: Any, statistic: Callable[..., Any], resamples: int, seed: int
) -> Interval:
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
