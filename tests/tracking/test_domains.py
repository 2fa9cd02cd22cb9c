"""What is said of a kind of text follows from its interval and its number of documents."""

import math
from typing import Any

import pytest

from prune_exp.measurement.records import Interval
from prune_exp.tracking.domains import (
    MAINTAINED,
    NOT_MAINTAINED,
    NOT_SHOWN,
    TrackedDomain,
    judge_quality,
    list_losses,
)
from support.made_up_runs import on_text


def domain(low: float, value: float, high: float, documents: int | None) -> TrackedDomain:
    return TrackedDomain(
        name="c4",
        kept=False,
        dense_bits_per_byte=1.0,
        pruned_bits_per_byte=1.0,
        tokens=100,
        perplexity_ratio=Interval(value=value, low=low, high=high),
        documents=documents,
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (domain(0.99, 1.0, 1.05, 40), "maintained"),
        (domain(0.99, 1.0, 1.05, None), "maintained"),
        (domain(1.0, 1.1, 1.2, 40), "not shown to be kept"),
        (domain(1.11, 1.15, 1.2, 40), "lost"),
        (domain(math.nan, math.nan, math.nan, 40), "lost"),
        (domain(0.99, 1.0, 1.05, 11), "no verdict: 11 documents"),
        (domain(1e-6, 0.99, 1e6, 1), "no verdict: 1 document"),
        (domain(0.9, 0.99, 1.3, 2), "no verdict: 2 documents"),
        (domain(1.2, 98.0, 9000.0, 2), "lost"),
    ],
)
def test_the_verdict_on_a_kind_of_text(found: TrackedDomain, said: str) -> None:
    assert found.describe_verdict(1.1) == said
    told = list_losses([found], 1.1) or ""
    assert ("It is lost on c4" in told) == (said == "lost")
    assert ("It is not shown to be kept on c4" in told) == (said == "not shown to be kept")


def metrics_of(low: float, value: float, high: float, **texts: Any) -> dict[str, float]:
    """Of a trial that was not maintained, its ratio on all texts and on each [low, high, count]."""
    found = {"quality_maintained": 0.0, "max_perplexity_ratio": 1.1}
    found |= Interval(value=value, low=low, high=high).metrics("perplexity_ratio")
    for name, (least, most, documents) in texts.items():
        found |= on_text(name, (least + most) / 2, kept=True, spread=(most - least) / 2)
        found[f"domain/{name}/documents"] = float(documents)
    return found


@pytest.mark.parametrize(
    ("metrics", "verdict"),
    [
        (metrics_of(1.0, 1.05, 1.2), NOT_SHOWN),
        (metrics_of(1.2, 1.3, 1.4), NOT_MAINTAINED),
        (metrics_of(1.02, 1.04, 1.06, wiki=(1.0, 1.04, 40), c4=(1.01, 1.17, 40)), NOT_SHOWN),
        (metrics_of(1.0, 1.05, 1.2, wiki=(1.0, 1.04, 40), c4=(1.12, 1.17, 40)), NOT_MAINTAINED),
        (metrics_of(1.0, 1.05, 1.09, wiki=(1.0, 1.04, 5)), NOT_SHOWN),
        (metrics_of(0.9, 9.0, 80.0, wiki=(10.0, 14.0, 60), mine=(0.5, 90, 5)), NOT_MAINTAINED),
        (metrics_of(math.nan, math.nan, math.nan), NOT_MAINTAINED),
        ({"quality_maintained": 1.0}, MAINTAINED),
        ({"quality_maintained": 0.0}, NOT_MAINTAINED),
    ],
)
def test_quality_is_lost_only_where_the_lower_end_says_so(
    metrics: dict[str, float], verdict: str
) -> None:
    """One text that is surely lost is enough, however little is known of another one."""
    assert judge_quality(metrics) == verdict
