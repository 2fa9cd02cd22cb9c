"""A measurement ends when its rule says so, and its intervals still hold."""

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from prune_exp.measurement.comparison import latency_ratio
from prune_exp.measurement.intervals import middle_ends
from prune_exp.measurement.records import Interval
from prune_exp.measurement.stopping import Pair, StopRule, collect_pairs
from prune_exp.settings.groups import BenchmarkSettings

SETTINGS = BenchmarkSettings(bootstrap_resamples=150)


def noisy(seed: int, noise: float, count: int) -> Iterator[Callable[[], Pair]]:
    """Pairs whose true ratio is 1; log-normal noise."""
    chance = random.Random(seed)

    def one() -> Pair:
        return {s: {"total_ms": chance.lognormvariate(3, noise)} for s in ("dense", "pruned")}

    for _ in range(count):
        yield one


def ratio(pairs: list[Pair]) -> Interval:
    return latency_ratio(pairs, SETTINGS)


def test_without_a_rule_all_rounds_are_measured() -> None:
    done, why = collect_pairs(noisy(0, 0.1, 30), ratio, StopRule())
    assert (len(done), why) == (30, "rounds")


def test_equal_samples_stop_at_the_minimum() -> None:
    rule = StopRule(target_ci_pct=1, min_pairs=15)
    done, why = collect_pairs(noisy(0, 0.0, 100), ratio, rule)
    assert (len(done), why) == (15, "target_ci")


def test_a_wide_interval_is_looked_at_every_ten_pairs_only() -> None:
    looks: list[int] = []

    def wide(pairs: list[Pair]) -> Interval:
        looks.append(len(pairs))
        return Interval(value=1.0, low=0.5, high=1.5)

    rule = StopRule(target_ci_pct=1, min_pairs=12)
    done, why = collect_pairs(noisy(0, 0.1, 50), wide, rule)
    assert (len(done), why) == (50, "rounds")
    assert looks == [12, 22, 32, 42]


def test_the_budget_ends_the_pairs_but_not_before_the_minimum() -> None:
    times = iter(range(1000))
    rule = StopRule(budget_s=20, min_pairs=4)
    done, why = collect_pairs(noisy(0, 0.1, 50), ratio, rule, clock=lambda: float(next(times)))
    # the clock is read once at the start and once before every pair after the fourth
    assert (len(done), why) == (4 + 19, "budget")
    long = StopRule(budget_s=1, min_pairs=8)
    done, why = collect_pairs(noisy(0, 0.1, 50), ratio, long, clock=iter([0.0, 99.0]).__next__)
    assert (len(done), why) == (8, "budget")


def test_the_width_that_is_reported_is_the_one_that_stopped() -> None:
    rule = StopRule(target_ci_pct=6, min_pairs=12)
    done, why = collect_pairs(noisy(1, 0.05, 400), ratio, rule)
    assert why == "target_ci"
    assert ratio(done).width_pct < 6


@pytest.mark.parametrize(("noise", "target_ci_pct"), [(0.05, 5), (0.05, 10), (0.1, 10)])
def test_intervals_that_stopped_a_measurement_hold_the_truth(
    noise: float, target_ci_pct: float
) -> None:
    """Many measurements at once: what `collect_pairs` does, on rows of logarithms."""
    most, runs = 120, 2000
    logs = np.random.default_rng(1).normal(0, noise * math.sqrt(2), (runs, most))
    rule = StopRule(target_ci_pct=target_ci_pct)
    ends = {
        pairs: np.stack(middle_ends(logs[:, :pairs], resamples=200))
        for pairs in range(rule.min_pairs, most + 1, rule.every)
    }
    found = [stop_at(one, rule, ends) for one in range(runs)]
    assert len({pairs for pairs, _ in found}) > 2
    held = 100 * np.mean([low <= 0 <= high for _, (low, high) in found])
    print(f"noise {noise:g}, target {target_ci_pct:g} %: {held:.1f} %")
    assert held >= 93


def stop_at(run: int, rule: StopRule, ends: dict[int, Any]) -> tuple[int, Any]:
    """Where a simulated measurement stops, and both ends of its interval there."""

    def look(pairs: list[Pair]) -> Interval:
        low, high = np.exp(ends[len(pairs)][:, run])
        return Interval(value=1.0, low=low, high=high)

    done, why = collect_pairs(noisy(0, 0.0, max(ends)), look, rule)
    last = max(ends) if why == "rounds" else len(done)
    return last, ends[last][:, run]
