"""The machine's limits are measured in a process of its own."""

from pathlib import Path

import pytest

from prune_exp.measurement import bandwidth


def test_bandwidth_is_measured_in_a_fresh_process() -> None:
    found = bandwidth.measure_bandwidth(1, 120)
    assert found["read_bandwidth_gb_per_s"] > 0.1
    assert found["copy_bandwidth_gb_per_s"] > 0.1
    assert found["buffer_mib"] > 2 * found["last_level_cache_mib"]


def test_buffers_exceed_the_cache_and_fit_the_memory(tmp_path: Path) -> None:
    (tmp_path / "index0").mkdir()
    (tmp_path / "index3").mkdir()
    (tmp_path / "index0" / "size").write_text("32K\n")
    (tmp_path / "index3" / "size").write_text("64M\n")
    assert bandwidth.last_level_cache_mib(tmp_path) == 64
    assert bandwidth.last_level_cache_mib(tmp_path / "none") == 0
    assert bandwidth.buffer_mib(64, 100_000) == 512
    assert bandwidth.buffer_mib(0, 100_000) == 256
    assert bandwidth.buffer_mib(64, 400) == 100


def test_rates_take_the_best_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 4.0, 10.0, 12.0, 20.0, 23.0])
    monkeypatch.setattr(bandwidth.time, "perf_counter", lambda: next(times))
    assert bandwidth.best_rate(lambda: None, 10.0, repetitions=3) == 5.0
