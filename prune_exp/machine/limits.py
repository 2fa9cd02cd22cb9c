"""What this process may use of the machine: cores by affinity and quota, memory by limit.

A container or a batch job often has a share of the machine, which the kernel enforces by control
groups, version 2 or 1; the counts of cores and bytes that most libraries ask for are the machine's.
"""

import os
from collections.abc import Iterator
from pathlib import Path

MIB = 2**20
MOUNT = "sys/fs/cgroup"
ROOT = Path("/")


def affinity_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def available_threads(root: Path = ROOT) -> int:
    """Threads that can run at a time: the cores of the affinity, or whole cores of a quota."""
    quota = cpu_quota(root)
    cores = affinity_cores()
    return cores if quota is None else max(1, min(cores, int(quota)))


def fit_threads() -> None:
    """Has torch start no more threads than can run at a time."""
    import torch

    if torch.get_num_threads() > available_threads():
        torch.set_num_threads(available_threads())


def cpu_quota(root: Path = ROOT) -> float | None:
    """Processor time per time that the control groups allow, in cores; None without a limit."""
    found: list[float] = []
    for group in _groups_of("cpu", root):
        text = _read(group / "cpu.max") or " ".join(
            (_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))
        )
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            found.append(int(quota) / int(period))
    return min(found, default=None)


def memory_limit_mib(root: Path = ROOT) -> float | None:
    """Memory that the control groups allow; None without a limit."""
    return min((limit for limit, _ in _memory_of_groups(root)), default=None)


def total_memory_mib() -> float:
    """The machine's memory, or the limit where that is less."""
    import psutil

    total = psutil.virtual_memory().total / MIB
    return min(total, memory_limit_mib() or total)


def available_memory_mib(root: Path = ROOT) -> float:
    """Memory that can still be had, of the machine and below the limits."""
    import psutil

    free = [limit - used for limit, used in _memory_of_groups(root)]
    return max(0.0, min([psutil.virtual_memory().available / MIB, *free]))


def _memory_of_groups(root: Path) -> Iterator[tuple[float, float]]:
    """Limit and use, MiB, of every group with a limit; file pages that can go are not in use."""
    for group in _groups_of("memory", root):
        limit = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
        used = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes")
        if limit.isdigit() and int(limit) < 2**60:  # version 1 has a huge number for no limit
            words = _read(group / "memory.stat").split()
            stat = dict(zip(words[::2], words[1::2], strict=False))
            spare = stat.get("total_inactive_file", stat.get("inactive_file", "0"))
            yield int(limit) / MIB, (int(used or 0) - int(spare)) / MIB


def _groups_of(controller: str, root: Path) -> Iterator[Path]:
    """Folders of the control groups that this process is in, up to the outermost one."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        mount = root / MOUNT / names if names else root / MOUNT
        if not mount.is_dir():
            mount = root / MOUNT / controller
        inner = mount / path.lstrip("/")
        yield from (one for one in (inner, *inner.parents) if one.is_relative_to(mount))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
