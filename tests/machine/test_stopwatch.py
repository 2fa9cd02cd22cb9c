"""What a phase took, in seconds and in memory."""

import sys

import pytest

from prune_exp.machine import stopwatch
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


def test_clocks_are_read_once_the_device_has_done_its_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []
    monkeypatch.setattr(stopwatch, "wait_for_device", events.append)
    monkeypatch.setattr(stopwatch, "reset_peak", lambda _: False)
    clock = stopwatch.time.perf_counter
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: events.append("clock") or clock())
    with Stopwatch("cuda").phase("work"):
        events.append("work")
    assert events == ["cuda", "clock", "work", "cuda", "clock"]


def test_a_phase_that_fails_is_timed_too() -> None:
    watch = Stopwatch()
    with pytest.raises(RuntimeError), watch.phase("failing"):
        raise RuntimeError
    assert "failing" in watch.seconds
