"""When enough pairs have been measured."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from prune_exp.measurement.records import Interval

ROUNDS = "rounds"
TARGET = "target_ci"
BUDGET = "budget"
Pair = dict[str, dict[str, Any]]
"""A sample of each side."""


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """Ends a measurement before its rounds are done.

    The interval is looked at only after `min_pairs` and then after every `every` pairs. Stopping
    there is optional stopping, but on the interval's width and not on where it lies: a value that
    happens to look good does not end the measurement, so the ratio itself is not biased. What
    remains is that a width that is small by chance stops too early, which costs a fixed-width
    interval some coverage and vanishes as the number of pairs grows (Chow and Robbins 1965, Annals
    of Mathematical Statistics 36:457). The minimum and the rare looks keep that small. No
    correction is applied; a test simulates what coverage is left.
    """

    target_ci_pct: float | None = None
    """Width of the interval, as a percentage of the ratio, that is enough."""
    budget_s: float | None = None
    """Wall time that is enough; the pair under way is finished."""
    min_pairs: int = 12
    """Neither ends the measurement before so many pairs."""
    every: int = 10
    """Pairs between two looks at the interval."""


def collect_pairs(
    pairs: Iterable[Callable[[], Pair]],
    interval: Callable[[list[Pair]], Interval],
    rule: StopRule,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[Pair], str]:
    """Measures one pair after the other until the rule or the end of `pairs` stops it.

    Returns the pairs and what ended them: rounds, target_ci or budget.
    """
    start = clock()
    done = list[Pair]()
    for measure in pairs:
        if len(done) >= rule.min_pairs:
            if rule.budget_s is not None and clock() - start >= rule.budget_s:
                return done, BUDGET
            if _is_time_to_look(len(done), rule) and interval(done).width_pct < (
                rule.target_ci_pct or 0
            ):
                return done, TARGET
        done.append(measure())
    return done, ROUNDS


def _is_time_to_look(pairs: int, rule: StopRule) -> bool:
    return rule.target_ci_pct is not None and (pairs - rule.min_pairs) % rule.every == 0
