"""This process's memory as the Linux kernel accounts for it, and a GPU's as torch does."""

from pathlib import Path

RESET_PEAK = "5"
"""What proc_pid_clear_refs(5) takes to set a process's peak back to its present size."""


def memory_mib(field: str, process: str = "self") -> float:
    """A field of a process's accounting: VmRSS (now) or VmHWM (the peak).

    Raises:
        RuntimeError: the kernel does not report it.
    """
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the kernel does not report {field}")


def reset_peak() -> bool:
    """Sets the recorded peak to the present level; false where the kernel does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


class PeakMemory:
    """The most memory in use since the start, above what was in use then."""

    def __init__(self, device: str) -> None:
        """Takes the level; everything that any model needs must have been loaded by now."""
        self._device = device
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            self.level_mib = torch.cuda.memory_allocated() / 2**20
        else:
            self.level_mib = memory_mib("VmRSS")
            reset_peak()

    def measure_mib(self) -> float:
        """Of the device: the GPU's allocations, or the resident memory of the process."""
        if self._device == "cuda":
            import torch

            return torch.cuda.max_memory_allocated() / 2**20 - self.level_mib
        return memory_mib("VmHWM") - self.level_mib
