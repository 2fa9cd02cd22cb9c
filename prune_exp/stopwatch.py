"""Wall time and peak memory by phase."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

RESET_PEAK = "5"
"""What proc_pid_clear_refs(5) takes to set a process's peak back to its present size."""


@dataclass
class Stopwatch:
    """Wall seconds and peak resident memory of this process, by phase."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    """Empty where the kernel does not tell (elsewhere than on Linux)."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times the body as `name`; phases do not nest."""
        counted = _reset_peak()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - start
            if counted:
                self.peak_mib[name] = _peak_mib()


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def _peak_mib() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0
