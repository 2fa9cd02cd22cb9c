"""Wall time and peak memory by phase."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from prune_exp.machine.memory import memory_mib, reset_peak


@dataclass
class Stopwatch:
    """Wall seconds and peak resident memory of this process, by phase."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    """Empty where the kernel does not tell (elsewhere than on Linux)."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times the body as `name`; phases do not nest."""
        counted = reset_peak()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - start
            if counted:
                self.peak_mib[name] = memory_mib("VmHWM")
