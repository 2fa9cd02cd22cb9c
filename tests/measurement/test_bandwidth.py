"""The machine's limits are measured in a process of its own."""

from pathlib import Path

import pytest
import torch

from prune_exp.measurement import bandwidth


def test_bandwidth_is_measured_in_a_fresh_process() -> None:
    found = bandwidth.measure_bandwidth(1, 120)
    assert found["read_bandwidth_gb_per_s"] > 0.1
    assert found["copy_bandwidth_gb_per_s"] > 0.1
    assert found["buffer_mib"] > 2 * found["last_level_cache_mib"]


def write_caches(root: Path, core: int, **caches: str) -> None:
    """Caches of a core, each as `level type size shared_cpu_list`."""
    for index, text in caches.items():
        folder = root / f"cpu{core}" / "cache" / index
        folder.mkdir(parents=True)
        for name, value in zip(
            ("level", "type", "size", "shared_cpu_list"), text.split(), strict=True
        ):
            (folder / name).write_text(f"{value}\n")


def test_last_level_caches_of_all_dies_count_once_each(tmp_path: Path) -> None:
    for core in range(8):
        die = core // 4
        write_caches(
            tmp_path,
            core,
            index0=f"1 Data 32K {core}",
            index1=f"1 Instruction 64M {core}",
            index3=f"3 Unified 32M {4 * die}-{4 * die + 3}",
        )
    assert bandwidth.last_level_cache_mib(tmp_path, range(8)) == 64
    assert bandwidth.last_level_cache_mib(tmp_path, [0, 1]) == 32, "another die is not ours"
    assert bandwidth.last_level_cache_mib(tmp_path, [3, 4]) == 64
    assert bandwidth.last_level_cache_mib(tmp_path / "none") == 0


def test_without_a_shared_cache_the_cores_own_ones_count(tmp_path: Path) -> None:
    for core in range(4):
        write_caches(tmp_path, core, index0=f"1 Data 32K {core}", index2=f"2 Unified 1M {core}")
    write_caches(
        tmp_path, 4, index0="1 Data 32K 4", index2="2 Unified 1M 4", index3="3 Unified 0 4"
    )
    assert bandwidth.last_level_cache_mib(tmp_path, range(4)) == 4
    assert bandwidth.last_level_cache_mib(tmp_path, range(5)) == 5


def test_buffers_exceed_the_caches_and_fit_the_memory() -> None:
    assert bandwidth.buffer_mib(64, 100_000) == 512
    assert bandwidth.buffer_mib(0, 100_000) == 256
    assert bandwidth.buffer_mib(64, 400) == 100
    assert bandwidth.buffer_mib(12 * 32, 100_000) == 3072


def test_rates_take_the_best_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 4.0, 10.0, 12.0, 20.0, 23.0])
    monkeypatch.setattr(bandwidth.time, "perf_counter", lambda: next(times))
    assert bandwidth.best_rate(lambda: None, 10.0, repetitions=3) == 5.0


def test_the_arithmetics_peak_is_that_of_the_served_type(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    monkeypatch.setattr(torch, "mm", lambda one, _: seen.append(one.dtype))
    monkeypatch.setattr(bandwidth, "buffer_mib", lambda *_: 16)
    bandwidth.measure_rates(1, "cpu", "bfloat16")
    assert set(seen) == {torch.bfloat16}
