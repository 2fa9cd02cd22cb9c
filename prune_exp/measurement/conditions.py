"""The machine that a measurement ran on: what it is, and how busy it was."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prune_exp.machine.device import describe_device
from prune_exp.machine.limits import affinity_cores, available_threads, total_memory_mib
from prune_exp.machine.packages import installed_version

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
VERSIONS = ("torch", "transformers", "numpy", "prune-exp")


def describe_machine(
    threads: int, device: str = "cpu", packages: Sequence[str] = ()
) -> dict[str, Any]:
    """Device, processor, cores, governor, memory, system, threads, versions, of `packages` too."""
    import platform

    versions = {name: installed_version(name) or "unknown" for name in (*VERSIONS, *packages)}
    return {
        "device": describe_device(device),
        "threads": threads,
        "cores": available_threads(),
        "cores_of_machine": os.cpu_count(),
        "processor": _processor_name(),
        "governor": read_governor(),
        "memory_mib": round(total_memory_mib()),
        "system": platform.platform(),
        "versions": {"python": platform.python_version()} | versions,
    }


def read_governor(path: Path = GOVERNOR) -> str:
    """The kernel's frequency policy; virtual machines and containers often hide it."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return "not readable"


def load_at_start(
    cpu_percent: Callable[..., float] | None = None, seconds: float = 0.5
) -> dict[str, float]:
    """Load before measuring: the minute's average, and the cores' use while this process idles.

    The average counts what the trial itself did just before (pruning on all cores adds up to one
    per core), the use does not.
    """
    import psutil

    average = os.getloadavg()[0]
    return {
        "load_average_start": average,
        "load_per_core_start": average / affinity_cores(),
        "busy_pct_start": (cpu_percent or psutil.cpu_percent)(interval=seconds),
    }


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"
