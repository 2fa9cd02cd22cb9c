"""Intervals as percentages and the other way round."""

import pytest

from prune_exp.measurement.records import Interval


@pytest.mark.parametrize("gain", [True, False])
def test_percent_and_inverse_keep_low_below_high(gain: bool) -> None:
    interval = Interval(value=0.8, low=0.7, high=0.9)
    for one in (interval.percent(gain=gain), interval.inverse()):
        assert one.low < one.value < one.high


def test_percentages_by_hand() -> None:
    saved = Interval(value=0.5, low=0.4, high=0.7).percent(gain=False)
    assert (saved.value, saved.low, saved.high) == pytest.approx((50, 30, 60))
    gained = Interval(value=1.5, low=1.4, high=1.7).percent(gain=True)
    assert (gained.value, gained.low, gained.high) == pytest.approx((50, 40, 70))
