"""The largest cut that keeps quality, in few trials: the next one follows from those measured.

The rise in log-perplexity grows with a power of the sparsity, so two trials say where the limit is
met, and every further one is closer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from prune_exp.search.space import SearchRange, Space
from prune_exp.search.study import INTERRUPTED, WARM
from prune_exp.settings.choices import LARGEST_KEPT
from prune_exp.settings.errors import SettingError
from prune_exp.settings.goals import FORESEEN
from prune_exp.settings.schema import Settings

SPARSITY = "sparsity"
EXPONENT = 1.42
"""Of the rise over the sparsity, where one trial is all there is to go by."""
FIRST = 0.1
"""Sparsity of the first trial."""
AIM = 0.9
"""Share of the tolerated rise that the next cut aims at: text differs, and so does training."""
WIDEST_STEP = 2.5
"""Most that a cut grows or shrinks by at once."""
CLOSE = 1.06
"""Ratio of a lost cut to a kept one below which another trial would gain little."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A finished trial."""

    sparsity: float
    rise: float
    """Upper end of the rise in log-perplexity that is foreseen for other documents, in nats;
    infinite where the trial failed."""


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """What is known of the largest cut that keeps quality."""

    kept: Measured | None
    """The largest cut that kept it, below all that lost it."""
    lost: Measured | None
    """The smallest that lost it."""


def bracket_limit(measured: Sequence[Measured], tolerated: float) -> Bracket:
    """The closest cuts on both sides of a tolerated rise, in nats."""
    lost = min(
        (one for one in measured if not one.rise <= tolerated),
        key=lambda one: one.sparsity,
        default=None,
    )
    below = math.inf if lost is None else lost.sparsity
    kept = max(
        (one for one in measured if one.rise <= tolerated and one.sparsity < below),
        key=lambda one: one.sparsity,
        default=None,
    )
    return Bracket(kept=kept, lost=lost)


def next_sparsity(
    measured: Sequence[Measured], *, tolerated: float, low: float, high: float
) -> float:
    """Where the next trial should cut, in [low, high]; `tolerated` is the rise's limit in nats."""
    known = bracket_limit(measured, tolerated)
    if known.kept is None and known.lost is None:
        return min(max(FIRST, low), high)
    if known.kept is None or known.lost is None:
        only = known.kept or known.lost
        assert only is not None
        step = (AIM * tolerated / max(only.rise, 1e-9)) ** (1 / EXPONENT)
        step = min(max(step, 1 / WIDEST_STEP), WIDEST_STEP)
        if known.kept is not None:
            step = max(step, CLOSE)
        return min(max(only.sparsity * step, low), high)
    return _between(known.kept, known.lost, tolerated)


def _between(kept: Measured, lost: Measured, tolerated: float) -> float:
    """A power law through both, at the rise that is aimed at; the middle where it says nothing."""
    aim = AIM * tolerated if kept.rise < AIM * tolerated else (kept.rise + tolerated) / 2
    start = math.log(kept.sparsity)
    width = math.log(lost.sparsity) - start
    share = 0.5
    if 1e-6 < kept.rise < lost.rise < math.inf:
        share = math.log(aim / kept.rise) / math.log(lost.rise / kept.rise)
    return math.exp(start + min(max(share, 0.1), 0.9) * width)


def is_settled(measured: Sequence[Measured], *, tolerated: float, low: float, high: float) -> bool:
    """Whether a further trial would gain little: the limit is met, or [low, high] ends."""
    known = bracket_limit(measured, tolerated)
    if known.kept is None:
        return known.lost is not None and known.lost.sparsity <= low
    if known.lost is not None and known.lost.sparsity < CLOSE * known.kept.sparsity:
        return True
    return known.kept.sparsity >= high or known.kept.rise >= AIM * tolerated


def measured_in(study: optuna.Study, *, own: bool = False) -> list[Measured]:
    """Every trial that was judged, and those that failed: the same cut would fail again.

    One that was interrupted, or that ended before it was judged, says nothing. With `own` those
    that other studies ran are left out.
    """
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
        if own and WARM in trial.user_attrs:
            continue
        failed = trial.state == TrialState.FAIL and INTERRUPTED not in trial.user_attrs
        ratio = math.inf if failed else trial.user_attrs.get(FORESEEN)
        if SPARSITY in trial.params and ratio is not None:
            found.append(Measured(sparsity=trial.params[SPARSITY], rise=math.log(ratio)))
    return found


def sampler_for(settings: Settings, space: Space) -> "LargestKeptSampler | None":
    """The sampler, where the settings name it.

    Raises:
        SettingError: something else than an interval of `sparsity` is swept, or quality is not
            judged.
    """
    if settings.search.sampler != LARGEST_KEPT:
        return None
    if space.listed or set(space.searched) != {SPARSITY} or _interval_of(space) is None:
        raise SettingError(
            "search.sampler=largest_kept searches sparsity alone; type"
            " -m 'sparsity=interval(0.02,0.5)' and give everything else one value"
        )
    if not settings.quality.enabled:
        raise SettingError(
            "search.sampler=largest_kept needs quality to be judged; use quality=default"
        )
    if settings.quality.max_perplexity_ratio <= 1:
        raise SettingError(
            f"quality.max_perplexity_ratio={settings.quality.max_perplexity_ratio:g} leaves nothing"
            " to lose; use a limit above 1, such as 1.1"
        )
    return LargestKeptSampler(settings.quality.max_perplexity_ratio)


def explain_settled(study: optuna.Study, space: Space) -> str:
    """Why this sampler's study has come to an end; empty where it has not, or has another."""
    sampler = study.sampler
    if not isinstance(sampler, LargestKeptSampler):
        return ""
    interval = _interval_of(space)
    assert interval is not None
    known = measured_in(study, own=True)  # what other settings found ends nothing
    tolerated = sampler.tolerated
    if not is_settled(known, tolerated=tolerated, low=interval.low, high=interval.high):
        return ""
    found = bracket_limit(known, tolerated)
    if found.kept is not None:
        return f"sparsity={found.kept.sparsity:.3g} keeps quality; another trial would gain little"
    assert found.lost is not None
    ends = "loses quality" if found.lost.rise < math.inf else "failed"
    return f"no cut was found that keeps quality: even sparsity={found.lost.sparsity:.3g} {ends}"


def _interval_of(space: Space) -> SearchRange | None:
    """The sparsities to search, without steps."""
    one = space.searched[SPARSITY]
    return one if isinstance(one, SearchRange) and one.step is None else None


class LargestKeptSampler(BaseSampler):
    """Optuna's way to ask: samples `sparsity` alone."""

    def __init__(self, max_perplexity_ratio: float) -> None:
        self.tolerated = math.log(max_perplexity_ratio)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing is sampled together."""
        del study, trial
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is sampled together."""
        del study, trial, search_space
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The next sparsity."""
        del trial
        assert param_name == SPARSITY
        assert isinstance(param_distribution, FloatDistribution)
        return next_sparsity(
            measured_in(study, own=True) or measured_in(study),
            tolerated=self.tolerated,
            low=param_distribution.low,
            high=param_distribution.high,
        )
