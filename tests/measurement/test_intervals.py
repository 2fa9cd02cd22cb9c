"""Intervals of ratios, by hand and by simulation."""

import math
from typing import Any

import numpy as np
import pytest

from prune_exp.measurement.intervals import (
    middle_ends,
    middle_ratio,
    multiply,
    ratio_over_documents,
    token_ratio,
)
from prune_exp.measurement.records import Interval

RUNS = 2000
LEAST_PCT = 93.0
"""Share of nominal 95 % intervals that must hold the truth."""
WIKI = [140, 601, 261, 297, 495, 592, 551, 90, 829, 517, 149, 161, 480, 4335, 735, 47, 518, 241]
WIKI += [338, 245, 278, 313, 1673, 2070, 387, 9]
C4 = [3048, 251, 394, 79, 68, 393, 84, 318, 203, 331, 179, 1004, 583, 118, 655, 147, 635, 213, 106]
C4 += [308, 609, 247, 251, 2040]
TECHNICAL = [509, 623, 415, 384, 528, 508, 543, 643, 485, 495, 390, 445, 431, 555, 571, 592, 59]
RESERVED = [583, 322, 134, 21, 560, 433, 333, 551, 206, 615, 584, 1164, 1001, 353, 1061, 911, 259]
RESERVED += [132, 75, 381, 677, 310, 507, 74, 423, 227, 289, 3073, 299, 404, 296, 94]
LENGTHS = {"wiki": WIKI, "c4": C4, "technical": TECHNICAL, "wiki, reserved": RESERVED}
"""Tokens of each document in the 32 held-out or reserved blocks of 512 tokens (SmolLM2-135M's
tokenizer) of the files wiki.utf8, c4.utf8 and technical.utf8 in the package exllamav2 0.3.2, dealt
as by data=mixed."""


def sums_of(lengths: list[int], correlation: float, seed: int) -> Any:
    """Each document's sum over its tokens [runs, documents]: the mean is 0, and tokens of one
    document share part of what they deviate by."""
    chance = np.random.default_rng(seed)
    size = np.asarray(lengths, dtype=float)
    shared = chance.standard_normal((RUNS, len(size))) * math.sqrt(correlation)
    alone = chance.standard_normal((RUNS, len(size))) * np.sqrt((1 - correlation) / size)
    return size * (shared + alone)


@pytest.mark.parametrize("correlation", [0.02, 0.2])
@pytest.mark.parametrize("text", LENGTHS)
def test_intervals_over_documents_hold_the_truth(text: str, correlation: float) -> None:
    lengths = LENGTHS[text]
    runs = sums_of(lengths, correlation, seed=7)
    found = [ratio_over_documents(row, lengths).ratio for row in runs.tolist()]
    held = 100 * np.mean([one.low <= 1 <= one.high for one in found])
    too_low = 100 * np.mean([one.high < 1 for one in found])
    print(f"{text}, correlation {correlation:g}: {held:.1f} %, upper end too low {too_low:.1f} %")
    assert held >= LEAST_PCT
    assert too_low <= (100 - LEAST_PCT) / 2


def test_blocks_that_are_cut_across_documents_would_not() -> None:
    """What the unit is matters: the same text in equal blocks claims far too much."""
    owners = np.repeat(np.arange(len(WIKI)), WIKI)
    blocks = owners[: len(owners) // 511 * 511].reshape(-1, 511)
    means = sums_of(WIKI, 0.02, seed=7) / np.asarray(WIKI)
    in_blocks = 511 * np.stack([means[:, block].mean(axis=1) for block in blocks], axis=1)
    lengths = [511] * len(blocks)
    found = [ratio_over_documents(row, lengths).ratio for row in in_blocks.tolist()]
    assert np.mean([one.low <= 1 <= one.high for one in found]) < 0.8


@pytest.mark.parametrize("kind", ["normal", "disturbed"])
@pytest.mark.parametrize("pairs", [2, 3, 6, 12, 20])
def test_intervals_of_times_hold_the_truth(pairs: int, kind: str) -> None:
    """At the sizes of memory rounds, batch rounds and prompts, and with 15 % of pairs disturbed."""
    chance = np.random.default_rng(pairs)
    noise = chance.standard_normal((RUNS, pairs))
    if kind == "disturbed":
        noise += 8 * chance.standard_normal((RUNS, pairs)) * (chance.random((RUNS, pairs)) < 0.15)
    low, high = middle_ends(0.05 * noise, resamples=200)
    held = 100 * np.mean((low <= 0) & (high >= 0))
    print(f"{pairs} pairs, {kind}: {held:.1f} %")
    assert held >= LEAST_PCT


def test_the_mean_over_documents_by_hand() -> None:
    # 10 nats over 40 tokens; residuals 1 - 2.5, 9 - 7.5 over 40, and over 3/4 and 1/4 of the rest
    found = ratio_over_documents([1.0, 9.0], [10, 30])
    assert found.value == pytest.approx(0.25)
    ends = 1.5 / 40 / 0.75, 1.5 / 40 / 0.25
    assert found.error == pytest.approx(math.sqrt((ends[0] ** 2 + ends[1] ** 2) / 2))
    assert found.freedom == pytest.approx(max(1, 1600 / 1000 - 1))
    # of equal documents it is the plain t interval of their means
    means = [0.1, 0.3, 0.2, 0.6]
    equal = ratio_over_documents([50 * one for one in means], [50] * 4)
    assert equal.error == pytest.approx(np.std(means, ddof=1) / 2)
    assert equal.freedom == pytest.approx(3)
    half = 3.182446 * equal.error
    assert equal.ratio.ends == pytest.approx((math.exp(0.3 - half), math.exp(0.3 + half)))


def test_the_p_value_agrees_with_the_interval() -> None:
    found = ratio_over_documents([1.0, 2.0, 4.0, 3.0, 2.0], [10, 20, 30, 25, 25])
    assert found.chance_beyond(found.ratio.high) == pytest.approx(0.025)
    assert found.chance_beyond(found.ratio.value) == pytest.approx(0.5)
    assert found.chance_beyond(2 * found.ratio.high) < 0.025
    sure = ratio_over_documents([1.0, 2.0], [10, 20])
    assert (sure.chance_beyond(1.2), sure.chance_beyond(1.05)) == (0.0, 1.0)
    assert ratio_over_documents([math.nan, 1.0], [10, 20]).chance_beyond(1.1) == 1.0


def test_of_one_document_nothing_is_known() -> None:
    alone = ratio_over_documents([1.0], [10]).ratio
    assert alone.value == pytest.approx(math.exp(0.1))
    assert alone.low < 1e-5
    assert alone.high > 1e5


def test_constant_ratio_has_an_interval_of_no_width() -> None:
    for pairs in (3, 30):
        found = middle_ratio([2.0] * pairs, [1.0] * pairs, resamples=200)
        assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))


def test_the_middle_of_ratios_by_hand() -> None:
    # of five pairs one is cut on either side, and 2, 4, 8 have the geometric mean 4
    found = middle_ratio([1000.0, 2.0, 4.0, 8.0, 0.001], [1.0] * 5, resamples=200)
    assert found.value == pytest.approx(4.0)
    back = middle_ratio([1.0] * 5, [1000.0, 2.0, 4.0, 8.0, 0.001], resamples=200)
    assert back.value == pytest.approx(1 / 4)
    assert back.ends == pytest.approx(found.inverse().ends)
    same = middle_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], resamples=200)
    assert (same.value, same.low, same.high) == pytest.approx((2, 2, 2))


@pytest.mark.parametrize("text", LENGTHS)
def test_how_many_tokens_a_text_needs_is_known_as_well_as_its_documents_agree(text: str) -> None:
    """A tenth of a document's tokens become two, give or take a half from document to document."""
    lengths = np.asarray(LENGTHS[text], dtype=float)
    shares = np.random.default_rng(3).normal(0.1, 0.05, size=(RUNS, len(lengths)))
    spelled = lengths * shares
    found = [token_ratio(lengths.tolist(), row) for row in (lengths + spelled).tolist()]
    held = 100 * np.mean([one.low <= 1 / 1.1 <= one.high for one in found])
    print(f"{text}: {held:.1f} %")
    assert held >= LEAST_PCT


def test_the_same_tokens_are_one_without_any_doubt() -> None:
    for counts in (WIKI, [100]):
        assert token_ratio(counts, counts) == Interval(value=1.0, low=1.0, high=1.0)


def test_one_document_says_nothing_of_others() -> None:
    found = token_ratio([100], [110])
    assert found.low < 0.01 < 100 < found.high


def test_a_product_is_as_uncertain_as_both_ratios() -> None:
    """By hand: distances of 3 and 4 to one side make 5, of 1 and 0 to the other 1."""
    one = Interval(value=2.0, low=2 * math.exp(-0.03), high=2 * math.exp(0.01))
    other = Interval(value=0.9, low=0.9 * math.exp(-0.04), high=0.9)
    found = multiply(one, other)
    assert found.value == pytest.approx(1.8)
    assert found.low == pytest.approx(1.8 * math.exp(-0.05))
    assert found.high == pytest.approx(1.8 * math.exp(0.01))
    assert multiply(one, Interval(value=1.0, low=1.0, high=1.0)).ends == pytest.approx(one.ends)


def test_the_interval_of_a_product_holds_the_truth() -> None:
    chance = np.random.default_rng(5)
    z = 1.959964
    held = 0
    for a, b in chance.normal(size=(RUNS, 2)) * (0.02, 0.03):
        factors = [
            Interval(value=math.exp(m), low=math.exp(m - z * s), high=math.exp(m + z * s))
            for m, s in ((a, 0.02), (b, 0.03))
        ]
        found = multiply(*factors)
        held += found.low <= 1 <= found.high
    assert LEAST_PCT <= 100 * held / RUNS <= 97
