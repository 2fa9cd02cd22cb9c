"""Which process a run belongs to, and whether that still lives."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from prune_exp.tracking import tags

SILENT_S = 300
"""A process elsewhere that was not heard of for so long is taken for dead."""
STARTED = 19
"""Place of a process's start among the fields of /proc/PID/stat, after its name."""
AFTER_BOOT = "boot+"
"""Before starts that are counted from the machine's; others are by the clock, since 1970."""


def process_tags() -> dict[str, str]:
    """Which process a run belongs to, so that a later one can see whether it still lives."""
    return {
        tags.PROCESS: identify_process(os.getpid()),
        tags.PLACE: process_place(),
        tags.BEAT: f"{time.time():.0f}",
    }


def identify_process(pid: int) -> str:
    """A process of this machine in words that no later one has, and that no clock changes.

    Raises:
        ProcessLookupError: there is none.
    """
    return f"{socket.gethostname()} {pid} {_tell_start(pid)}"


def _tell_start(pid: int) -> str:
    """When a process began: after the machine did, where the kernel tells, or since 1970."""
    try:
        return f"{AFTER_BOOT}{_started_after_boot_s(pid):.2f}"
    except FileNotFoundError:
        return f"{_started_since_1970_s(pid):.2f}"


def _started_after_boot_s(pid: int) -> float:
    """Seconds; raises FileNotFoundError where there is none, or where the kernel does not tell."""
    told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return int(told.rpartition(")")[2].split()[STARTED]) / os.sysconf("SC_CLK_TCK")


def _started_since_1970_s(pid: int) -> float:
    """Seconds, which change with the clock: it is set over a network, and after a machine slept."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        raise ProcessLookupError(pid) from None


def process_place() -> str:
    """Where process ids mean the same: this start of the machine and this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def is_seen_here(found: Mapping[str, str]) -> bool:
    """Whether the process of a run can be looked for from here, from the run's tags."""
    place = found.get(tags.PLACE)
    return not place or place == process_place()


def has_gone(found: Mapping[str, str]) -> bool:
    """Whether the process of a run has gone, from the run's tags.

    By its process where that can be seen from here, else when nothing was heard of it for long.
    Runs that note no place are told by the name of their machine.
    """
    if is_seen_here(found):
        return is_dead(found.get(tags.PROCESS, ""), seen_here=bool(found.get(tags.PLACE)))
    beat = found.get(tags.BEAT, "")
    return beat.isdigit() and time.time() - int(beat) > SILENT_S


def is_dead(process: str, *, seen_here: bool = False) -> bool:
    """Whether the process of a run has gone.

    False for what another machine runs, by its name, and for a tag that is not one of ours.
    `seen_here` is for a process whose place is this one: then the name may have changed since.
    """
    try:
        host, pid, told = process.split(" ")
        identifier = int(pid)
        start = float(told.removeprefix(AFTER_BOOT))
    except ValueError:
        return False
    if host != socket.gethostname() and not seen_here:
        return False
    try:
        since_boot = told.startswith(AFTER_BOOT)
        began = (_started_after_boot_s if since_boot else _started_since_1970_s)(identifier)
        return abs(began - start) > 1
    except (ProcessLookupError, FileNotFoundError):
        return True
