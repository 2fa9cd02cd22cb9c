"""Wall time and peak memory by phase."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from prune_exp.machine.device import wait_for_device
from prune_exp.machine.memory import peak_mib, reset_peak
from prune_exp.machine.progress import say_phase


@dataclass
class Stopwatch:
    """Wall seconds and peak memory by phase, of what a device was asked to do in it."""

    device: str = "cpu"
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    """The GPU's allocations, or the resident memory of this process; empty where the kernel does
    not tell (elsewhere than on Linux)."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times the body as `name`, and says that it begins.

        Phases do not nest, and those of one name add up.
        """
        say_phase(name)
        wait_for_device(self.device)
        counted = reset_peak(self.device)
        start = time.perf_counter()
        try:
            yield
        finally:
            wait_for_device(self.device)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            if counted:
                self.peak_mib[name] = max(self.peak_mib.get(name, 0.0), peak_mib(self.device))
