"""Quotas and limits of containers and jobs count, whichever version of control groups."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from prune_exp.machine import limits


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="ascii")
    return root


SELF = "proc/self/cgroup"
V2 = "sys/fs/cgroup"
CONTAINER = {SELF: "0::/", f"{V2}/cpu.max": "200000 100000", f"{V2}/memory.max": "1073741824"}
JOB = {
    SELF: "0::/slurm/job_7",
    f"{V2}/slurm/cpu.max": "150000 100000",
    f"{V2}/slurm/job_7/cpu.max": "max 100000",
    f"{V2}/slurm/job_7/memory.max": "max",
}
V1 = {
    SELF: "5:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n1:name=systemd:/docker/a",
    f"{V2}/cpu,cpuacct/docker/a/cpu.cfs_quota_us": "300000",
    f"{V2}/cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000",
    f"{V2}/memory/docker/a/memory.limit_in_bytes": "536870912",
    f"{V2}/memory/memory.limit_in_bytes": "9223372036854771712",
}
V1_INSIDE = {
    SELF: "3:cpu,cpuacct:/docker/a",
    f"{V2}/cpu/cpu.cfs_quota_us": "50000",
    f"{V2}/cpu/cpu.cfs_period_us": "100000",
}
V1_FREE = {
    SELF: "3:cpu:/",
    f"{V2}/cpu/cpu.cfs_quota_us": "-1",
    f"{V2}/cpu/cpu.cfs_period_us": "100000",
}


@pytest.mark.parametrize(
    ("files", "quota", "memory_mib"),
    [
        (CONTAINER, 2.0, 1024.0),
        (JOB, 1.5, None),
        (V1, 3.0, 512.0),
        (V1_INSIDE, 0.5, None),
        (V1_FREE, None, None),
        ({}, None, None),
    ],
    ids=["container", "job", "v1", "v1 inside", "v1 free", "none"],
)
def test_the_tightest_limit_counts(
    files: dict[str, str], quota: float | None, memory_mib: float | None, tmp_path: Path
) -> None:
    root = write(tmp_path, files)
    assert limits.cpu_quota(root) == quota
    assert limits.memory_limit_mib(root) == memory_mib


@pytest.mark.parametrize(
    ("files", "threads"), [(CONTAINER, 2), (JOB, 1), (V1, 3), (V1_INSIDE, 1), (V1_FREE, 64)]
)
def test_threads_are_whole_cores_of_the_quota(
    files: dict[str, str], threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda _: range(64))
    assert limits.available_threads(write(tmp_path, files)) == threads


def test_a_quota_above_the_affinity_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda _: {3})
    assert limits.available_threads(write(tmp_path, CONTAINER)) == 1


def test_what_is_left_below_the_limit_is_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(available=4096 * 2**20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    used = {f"{V2}/memory.current": str(600 * 2**20)}
    stat = {f"{V2}/memory.stat": f"anon 1\nfile 2\ninactive_file {100 * 2**20}"}
    root = write(tmp_path, CONTAINER | used | stat)
    assert limits.available_memory_mib(root) == 524.0
    assert limits.available_memory_mib(tmp_path / "nothing") == 4096.0


def test_torch_starts_no_more_threads_than_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.setattr(limits, "available_threads", lambda: 2)
        limits.fit_threads()
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        limits.fit_threads()
        assert torch.get_num_threads() == 1, "never more than were asked for"
    finally:
        torch.set_num_threads(before)
