"""`python -m peers.elections`: is an elected plan ever worse than the voter that was best?

The test and its limits were written down before anything was measured: at each size the upper end
of the 95 % interval over seeds of (elected minus the voter that is best in hindsight), in
log-perplexity, is at most 0.01; over all sizes the mean is below 0; and two voters that know
nothing cost less than 0.01.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from prune_exp.settings.command import end_in_one_line

from . import ours
from .compare import BASE, SIZES, compare
from .rows import Missing, Row
from .table import rise

VOTERS = ("voter-gradient", "voter-wanda", "voter-fluctuation", "voter-obs")
NAMES = ("elected", "elected-sabotaged", "consensus", *VOTERS)
SEEDS = range(5)
MOST_WORSE = 0.01
"""In nats a token."""

Rows = Mapping[str, Row]
"""The rows of one size and seed, by name."""


def worse_than_best_voter(rows: Rows, name: str = "elected") -> float:
    """A row's log-perplexity less that of the voter that is best in hindsight, in nats a token."""
    return rise(rows[name]) - min(rise(rows[voter]) for voter in VOTERS)


def cost_of_sabotage(rows: Rows) -> float:
    """What two voters that know nothing cost, in nats a token."""
    return rise(rows["elected-sabotaged"]) - rise(rows["elected"])


def upper_end(values: Sequence[float]) -> float:
    """Of the 95 % interval of a mean over seeds, by Student's t."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean(values) + half


def judge(found: Mapping[float, Sequence[Rows]]) -> list[str]:
    """A line for each part of the test, by size and then over all sizes."""
    lines = []
    for size, seeds in found.items():
        gaps = [worse_than_best_voter(rows) for rows in seeds]
        end = upper_end(gaps)
        lines.append(
            f"{100 * size:g} %: {mean(gaps):+.4f} against the best voter, upper end {end:+.4f}:"
            f" {_word(end <= MOST_WORSE)}"
        )
    every = [rows for seeds in found.values() for rows in seeds]
    pooled = mean(worse_than_best_voter(rows) for rows in every)
    lines.append(f"all sizes: {pooled:+.4f} against the best voter: {_word(pooled < 0)}")
    plain = mean(worse_than_best_voter(rows, "consensus") for rows in every)
    lines.append(f"the plain vote, for comparison: {plain:+.4f}")
    cost = mean(cost_of_sabotage(rows) for rows in every)
    lines.append(f"sabotage costs {cost:+.4f}: {_word(cost < MOST_WORSE)}")
    return lines


def _word(passed: bool) -> str:
    return "passed" if passed else "not passed"


def by_name(rows: Sequence[Row | Missing]) -> dict[str, Row]:
    """Rows by name.

    Raises:
        RuntimeError: one gave no model.
    """
    found = {}
    for one in rows:
        if isinstance(one, Missing):
            raise RuntimeError(f"{one.name} gave no model: {one.reason}")
        found[one.name] = one
    return found


def main() -> None:
    """Measures what is not kept yet, seed by seed, and prints the verdicts."""
    parser = argparse.ArgumentParser(prog="peers.elections", description=__doc__)
    parser.add_argument("--size", type=float, action="append", help="repeatable")
    parser.add_argument("--seed", type=int, action="append", help="repeatable; 0 to 4 by default")
    parser.add_argument("overrides", nargs="*", help="settings for all rows")
    given = parser.parse_args()
    seeds = given.seed or SEEDS
    found: dict[float, list[Rows]] = {size: [] for size in given.size or SIZES}
    with end_in_one_line("elections", kept="; finished rows are kept"):
        for seed in seeds:
            base = [*BASE, *given.overrides, f"seed={seed}"]
            rows = compare(ours.settings_from(base), base, [*found], [*NAMES], speed=False)
            for size, some in rows.items():
                found[size].append(by_name(some))
    if len(seeds) > 1:
        print("\n".join(judge(found)))


if __name__ == "__main__":
    main()
