"""Ratios of paired measurements with 95 % intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prune_exp.measurement.records import FEW_PAIRS, Interval

CUT = 0.25
"""Share of the pairs that the interquartile mean leaves out at either end."""
WIDEST = math.log(1e6)
"""Logarithm of the widest factor to either side that an interval says; beyond it, nothing is known.
"""
RESAMPLES_AT_ONCE = 500
LARGEST_LOG = 700.0
"""exp of more overflows."""


@dataclass(frozen=True, kw_only=True)
class MeanOverDocuments:
    """A mean per token and how far off it may be: the logarithm of a ratio of perplexities."""

    value: float
    error: float
    freedom: float
    """Degrees of freedom of Student's t."""
    documents: int

    @property
    def ratio(self) -> Interval:
        """exp of it, with its 95 % interval."""
        from scipy.stats import t

        half = min(float(t.ppf(0.975, self.freedom)) * self.error, WIDEST)
        return _exponentiate(
            Interval(value=self.value, low=self.value - half, high=self.value + half)
        )

    def low_end(self, chance: float) -> float:
        """What the true mean is below with at most this chance: the end of a one-sided interval."""
        from scipy.stats import t

        return self.value - float(t.ppf(1 - chance, self.freedom)) * self.error

    def chance_beyond(self, limit: float) -> float:
        """How likely so small a ratio is where the truth is the limit: a one-sided p-value.

        It is at most 0.025 exactly where the upper end of the interval is within the limit.
        """
        from scipy.stats import t

        gap = math.log(limit) - self.value
        if math.isnan(gap) or math.isnan(self.error):
            return 1.0
        if self.error == 0:
            return 0.0 if gap >= 0 else 1.0
        return float(t.sf(gap / self.error, self.freedom))


def middle_ratio(
    numerator: Sequence[float], denominator: Sequence[float], *, resamples: int, seed: int = 0
) -> Interval:
    """Interquartile mean over pairs of log(numerator / denominator), as a ratio.

    The i-th values of both were measured next to each other on the same input, so whatever slowed
    one slowed the other. Like the median it does not mind a quarter of the pairs being disturbed on
    either side, but it uses more of the others, and the ratio the other way round is exactly its
    inverse. Below four pairs nothing is cut. Below `FEW_PAIRS` pairs a bootstrap knows too little
    (of two, its interval would end at both, and hold the truth half of the time), so Student's t
    takes its place.
    """
    import numpy as np

    logs = np.log(np.asarray(numerator, dtype=float) / np.asarray(denominator, dtype=float))
    low, high = middle_ends(logs, resamples=resamples, seed=seed)
    return _exponentiate(
        Interval(value=float(_interquartile_mean(logs)), low=float(low), high=float(high))
    )


def middle_ends(logs: Any, *, resamples: int, seed: int = 0) -> tuple[Any, Any]:
    """Both ends of the 95 % interval of an interquartile mean over logs [..., pairs]."""
    count = logs.shape[-1]
    assert count > 1, "an interval needs at least two pairs"
    if count < FEW_PAIRS:
        return _student_ends(logs)
    return _bootstrap_ends(logs, resamples, seed)


def _interquartile_mean(values: Any, axis: int = -1) -> Any:
    from scipy.stats import trim_mean

    return trim_mean(values, CUT, axis=axis)


def _student_ends(values: Any) -> tuple[Any, Any]:
    """The t interval of a trimmed mean (Tukey and McLaughlin 1963, Sankhya A 25:331)."""
    import numpy as np
    from scipy.stats import t

    count = values.shape[-1]
    cut = int(CUT * count)
    ordered = np.sort(values, axis=-1)
    winsorized = ordered[..., np.arange(count).clip(cut, count - 1 - cut)]
    error = winsorized.std(axis=-1, ddof=1) / ((1 - 2 * cut / count) * np.sqrt(count))
    half = t.ppf(0.975, count - 2 * cut - 1) * error
    value = _interquartile_mean(values)
    return value - half, value + half


def ratio_over_documents(sums: Sequence[float], tokens: Sequence[float]) -> MeanOverDocuments:
    """The mean per token of what differs between two models, from each document's sum of it.

    A document is the unit: what is said in it hangs together, so its tokens are no independent
    draws. Its share of the tokens is its weight, and its residual is divided by what it leaves to
    the others, because a long document draws the mean towards itself (the jackknife, CR3 in
    MacKinnon and White 1985, Journal of Econometrics 29:305). The degrees of freedom are those of
    as many documents of equal length as weigh as much (Kish 1965, Survey Sampling).
    """
    import numpy as np

    sizes = np.asarray(tokens, dtype=float)
    gaps = np.asarray(sums, dtype=float)
    shares = sizes / sizes.sum()
    value = float(gaps.sum() / sizes.sum())
    count = len(sizes)
    if count < 2:
        return MeanOverDocuments(value=value, error=math.inf, freedom=1.0, documents=count)
    residuals = (gaps - value * sizes) / sizes.sum() / (1 - shares)
    error = float(np.sqrt((residuals**2).sum() * (count - 1) / count))
    freedom = max(1.0, float(1 / (shares**2).sum()) - 1)
    return MeanOverDocuments(value=value, error=error, freedom=freedom, documents=count)


def token_ratio(theirs: Sequence[float], ours: Sequence[float]) -> Interval:
    """How many tokens another tokenizer needs for the same text, over ours, document by document.

    Documents are the unit, since a word that one tokenizer has to spell comes again in the same
    document. The interval is that of the ratio's logarithm, by the delta method; the same tokens
    are 1 without doubt.
    """
    if list(theirs) == list(ours):
        return Interval(value=1.0, low=1.0, high=1.0)
    found = ratio_over_documents(theirs, ours)
    on_logs = MeanOverDocuments(
        value=math.log(found.value),
        error=found.error / found.value,
        freedom=found.freedom,
        documents=found.documents,
    )
    return on_logs.ratio


def difference_of_shares(won: int, lost: int, pairs: int) -> Interval:
    """By how much a share differs between two that answered the same questions.

    `won` of the questions the second one alone has right, `lost` the first one alone. The interval
    adds a pair to either (Bonett and Price 2012, Journal of Educational and Behavioral Statistics
    37:479), so that it has a width where nothing differs.
    """
    from scipy.stats import norm

    more, fewer = (won + 1) / (pairs + 2), (lost + 1) / (pairs + 2)
    middle = more - fewer
    half = float(norm.ppf(0.975)) * math.sqrt((more + fewer - middle**2) / (pairs + 2))
    return Interval(
        value=(won - lost) / pairs, low=max(middle - half, -1.0), high=min(middle + half, 1.0)
    )


def multiply(one: Interval, other: Interval) -> Interval:
    """The product of two ratios that were measured independently of each other.

    On logarithms, both distances to each end are added as the sides of a right angle are (MOVER:
    Zou and Donner 2008, Statistics in Medicine 27:1693). A ratio that is known exactly scales.
    """
    value = one.value * other.value
    low, high = (
        math.hypot(math.log(ends[0] / one.value), math.log(ends[1] / other.value))
        for ends in zip(one.ends, other.ends, strict=True)
    )
    return Interval(value=value, low=value * math.exp(-low), high=value * math.exp(high))


def _exponentiate(inner: Interval) -> Interval:
    value, low, high = (
        math.exp(min(one, LARGEST_LOG)) for one in (inner.value, inner.low, inner.high)
    )
    return Interval(value=value, low=low, high=high)


def _bootstrap_ends(values: Any, resamples: int, seed: int) -> tuple[Any, Any]:
    """Percentiles of the interquartile mean of resampled pairs, their distances expanded.

    A bootstrap takes the pairs for all there is, so its interval is too narrow by as much as a
    normal interval with the population's formula is beside Student's t (Hesterberg 2015, The
    American Statistician 69:371).
    """
    import numpy as np
    from scipy.stats import bootstrap, norm, t

    found = bootstrap(
        (values,),
        _interquartile_mean,
        n_resamples=resamples,
        batch=RESAMPLES_AT_ONCE,
        axis=-1,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    count = values.shape[-1]
    expansion = t.ppf(0.975, count - 1) / norm.ppf(0.975) * np.sqrt(count / (count - 1))
    value = _interquartile_mean(values)
    return value + expansion * (found.low - value), value + expansion * (found.high - value)
