"""This process's memory as the Linux kernel accounts for it."""

from pathlib import Path

RESET_PEAK = "5"
"""What proc_pid_clear_refs(5) takes to set a process's peak back to its present size."""


def memory_mib(field: str) -> float:
    """A field of the accounting: VmRSS (now) or VmHWM (the peak).

    Raises:
        RuntimeError: the kernel does not report it.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the kernel does not report {field}")


def forget_peak() -> bool:
    """Sets the recorded peak to the present level; false where the kernel does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True
