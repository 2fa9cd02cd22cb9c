"""A measurement ends when its rule says so, and its intervals still hold."""

import random
from collections.abc import Callable, Iterator

from prune_exp.measurement.comparison import latency_ratio
from prune_exp.measurement.records import Interval
from prune_exp.measurement.stopping import Pair, StopRule, collect_pairs
from prune_exp.settings.groups import BenchmarkSettings
from prune_exp.trial.self_check import contains_one

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


def test_stopping_on_width_costs_little_coverage() -> None:
    """Of 95 % intervals that stopped the measurement, about 92 % hold the truth."""
    rule = StopRule(target_ci_pct=10, min_pairs=12)
    found = [collect_pairs(noisy(seed, 0.1, 200), ratio, rule) for seed in range(200)]
    assert {why for _, why in found} == {"target_ci"}
    assert len({len(pairs) for pairs, _ in found}) > 2
    held = sum(contains_one(ratio(pairs)) for pairs, _ in found) / len(found)
    print(f"stopped intervals that hold the truth: {100 * held:.1f} %")
    assert held >= 0.9
