"""What a phase took, in seconds and in memory."""

import sys

import pytest

from prune_exp.machine.stopwatch import Stopwatch

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from Linux's accounting")
def test_each_phase_has_a_peak_of_its_own() -> None:
    watch = Stopwatch()
    with watch.phase("large"):
        block = bytearray(256 * MIB)
        block[::4096] = b"1" * len(block[::4096])
        del block
    with watch.phase("small"):
        pass
    assert watch.peak_mib["large"] - watch.peak_mib["small"] == pytest.approx(256, abs=16)


def test_a_phase_that_fails_is_timed_too() -> None:
    watch = Stopwatch()
    with pytest.raises(RuntimeError), watch.phase("failing"):
        raise RuntimeError
    assert "failing" in watch.seconds
