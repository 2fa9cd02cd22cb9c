"""What is said of a kind of text follows from its interval and its number of documents."""

import math

import pytest

from prune_exp.measurement.records import Interval
from prune_exp.tracking.domains import TrackedDomain, list_losses


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
        (domain(1.0, 1.1, 1.2, 40), "lost"),
        (domain(math.nan, math.nan, math.nan, 40), "lost"),
        (domain(0.99, 1.0, 1.05, 11), "no verdict: 11 documents"),
        (domain(1e-6, 0.99, 1e6, 1), "no verdict: 1 document"),
        (domain(0.9, 0.99, 1.3, 2), "no verdict: 2 documents"),
        (domain(1.2, 98.0, 9000.0, 2), "lost"),
    ],
)
def test_the_verdict_on_a_kind_of_text(found: TrackedDomain, said: str) -> None:
    assert found.describe_verdict(1.1) == said
    assert (list_losses([found], 1.1) is not None) == (said == "lost")
