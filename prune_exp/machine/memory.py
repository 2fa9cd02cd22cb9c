"""This process's memory as the Linux kernel accounts for it, and a GPU's as torch does."""

from pathlib import Path

from prune_exp.machine.limits import total_memory_mib

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


def reset_peak(device: str = "cpu") -> bool:
    """Sets the recorded peak to the present level; false where the kernel does not allow it."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def peak_mib(device: str = "cpu") -> float:
    """Of a device since `reset_peak`: the GPU's allocations, or the process's resident memory."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return memory_mib("VmHWM")


def device_memory_mib(device: str = "cpu") -> float:
    """What a device has in all: the GPU, or the machine as far as this process may use it."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_properties(0).total_memory / 2**20
    return total_memory_mib()


class PeakMemory:
    """The most memory in use since the start, above what was in use then."""

    def __init__(self, device: str) -> None:
        """Takes the level; everything that any model needs must have been loaded by now."""
        self._device = device
        reset_peak(device)
        if device == "cuda":
            import torch

            self.level_mib = torch.cuda.memory_allocated() / 2**20
        else:
            self.level_mib = memory_mib("VmRSS")

    def measure_mib(self) -> float:
        """Of the device: the GPU's allocations, or the resident memory of the process."""
        return peak_mib(self._device) - self.level_mib
