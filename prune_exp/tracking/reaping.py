"""Runs that nothing would ever end: their process was killed, or their launcher lost them."""

import math
import os
import socket
import sys
import time
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import psutil
from mlflow.tracking import MlflowClient

from prune_exp.machine.cache import remove_below
from prune_exp.machine.staging import partial_folders
from prune_exp.settings.groups import TrackingSettings
from prune_exp.settings.redaction import redact
from prune_exp.tracking import tags
from prune_exp.tracking.attempts import try_again
from prune_exp.tracking.notes import end_note
from prune_exp.tracking.places import full_place
from prune_exp.tracking.read import read_trials
from prune_exp.tracking.store import open_store

SILENT_S = 300
"""A process elsewhere that was not heard of for so long is taken for dead."""
ORPHAN_S = 10
"""How long a trial on this machine may take to notice that its driver has gone."""
PAUSE_S = 0.5
STARTED = 19
"""Place of a process's start among the fields of /proc/PID/stat, after its name."""
FIRST_SINCE_1970_S = 1e9
"""Starts from here on are by the clock, as earlier versions wrote them: no machine runs so long."""
LAST_TAGS = (tags.WEIGHTS_SHA256, tags.STOPPED)
"""Written last: whoever finds one of them knows that what the trial found is whole."""


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
    return f"{socket.gethostname()} {pid} {_started_s(pid):.2f}"


def _started_s(pid: int) -> float:
    """When a process began: seconds after the machine did, where the kernel tells, or since 1970.

    What is counted from 1970 changes with the clock, which is set anew over a network and after a
    machine has slept.

    Raises:
        ProcessLookupError: there is none.
    """
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(told.rpartition(")")[2].split()[STARTED]) / os.sysconf("SC_CLK_TCK")
    except FileNotFoundError:
        return _started_since_1970_s(pid)


def _started_since_1970_s(pid: int) -> float:
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


def has_gone(found: Mapping[str, str]) -> bool:
    """Whether the process of a run has gone, from the run's tags.

    By its process where that can be seen from here, else when nothing was heard of it for long.
    Runs that note no place are told by the name of their machine.
    """
    place = found.get(tags.PLACE)
    if not place or place == process_place():
        return is_dead(found.get(tags.PROCESS, ""), seen_here=bool(place))
    beat = found.get(tags.BEAT, "")
    return beat.isdigit() and time.time() - int(beat) > SILENT_S


def await_trials(
    root_run_id: str, patience_s: float = math.inf, numbers: Collection[int] | None = None
) -> None:
    """Waits while processes on this machine and elsewhere still run trials of a sweep.

    `numbers` are those of the trials that count; all of them where it is None.

    Those of an earlier start end by themselves, once they notice that their driver has gone.
    """
    me = process_tags()[tags.PROCESS]
    start = time.monotonic()
    while time.monotonic() - start < patience_s:
        running = [
            one.tags
            for one in read_trials(root_run_id)
            if one.status == "RUNNING" and (numbers is None or one.number in numbers)
        ]
        if all(found.get(tags.PROCESS) == me or has_gone(found) for found in running):
            return
        time.sleep(PAUSE_S)


def is_dead(process: str, *, seen_here: bool = False) -> bool:
    """Whether the process of a run has gone.

    False for what another machine runs, by its name, and for a tag that is not one of ours.
    `seen_here` is for a process whose place is this one: then the name may have changed since.
    """
    try:
        host, pid, started = process.split(" ")
        identifier = int(pid)
        start = float(started)
    except ValueError:
        return False
    if host != socket.gethostname() and not seen_here:
        return False
    try:
        by_clock = start > FIRST_SINCE_1970_S
        began = _started_since_1970_s(identifier) if by_clock else _started_s(identifier)
        return abs(began - start) > 1
    except ProcessLookupError:
        return True


def reap_dead_runs(tracking: TrackingSettings) -> None:
    """Ends runs whose process was killed: nothing else would ever do so.

    A trial with its result was killed while its model was being stored: it is FINISHED and keeps
    its checkpoint. Others are FAILED, and of what they left only a folder below `tracking.root`
    is removed.

    Raises:
        SettingError: as `open_store` does.
    """
    experiment_id = open_store(tracking)
    client = MlflowClient()
    asked = "attributes.status = 'RUNNING'"
    ended: list[str] = []
    for run in client.search_runs([experiment_id], asked, max_results=1000):
        found = run.data.tags
        if not has_gone(found):
            continue
        whole = not found.keys().isdisjoint(LAST_TAGS)
        ended.append(f"{run.info.run_name} ({'it has its result' if whole else 'interrupted'})")
        if whole:
            client.set_terminated(run.info.run_id, "FINISHED")
            continue
        fail_run(run.info.run_id, "interrupted: the process was killed", interrupted=True)
        if found.get(tags.ROLE) == "trial" and found.get(tags.FOLDER):
            model = full_place(found[tags.FOLDER]) / "model"
            for left in (model, *partial_folders(model)):
                remove_below(left, [Path(tracking.root).expanduser()])
    if ended:
        print(
            f"note: ended what a killed process left running: {', '.join(ended)}", file=sys.stderr
        )


def fail_run(run_id: str, reason: str, *, interrupted: bool = False) -> None:
    """Marks a run as FAILED from outside, with the reason in a tag."""
    client = MlflowClient()
    client.set_tag(run_id, tags.ERROR, redact(reason)[: tags.LONGEST])
    if client.get_run(run_id).data.tags.get(tags.ROLE) == "trial":
        client.set_tag(run_id, tags.NOTE, end_note(run_id, {}, redact(reason)))
    if interrupted:
        client.set_tag(run_id, tags.INTERRUPTED, "true")
    client.set_terminated(run_id, "FAILED")


def settle_trials(
    root_run_id: str, numbers: list[int] | None = None
) -> dict[int, dict[str, float]]:
    """Ends the runs of trials that have ended without the store having heard of it.

    Those whose result is whole are FINISHED, the others FAILED. Returns the metrics of the finished
    ones by number. `numbers` are the trials that are meant; all when None.
    """
    asked = [
        trial
        for trial in try_again(lambda: read_trials(root_run_id))
        if numbers is None or trial.number in numbers
    ]
    finished: dict[int, dict[str, float]] = {}
    for trial in asked:
        whole = not trial.tags.keys().isdisjoint(LAST_TAGS) and tags.ERROR not in trial.tags
        if trial.status == "RUNNING" and not whole:
            fail_run(trial.run_id, trial.error or "the store was not told how it ended")
        elif trial.status == "RUNNING":
            run_id = trial.run_id
            try_again(partial(MlflowClient().set_terminated, run_id, "FINISHED"))
        if trial.status == "FINISHED" or (trial.status == "RUNNING" and whole):
            finished[trial.number] = trial.metrics
    return finished


def lose_trials(root_run_id: str, numbers: list[int], reason: str) -> None:
    """Marks the runs of trials as FAILED that a launcher lost."""
    for trial in read_trials(root_run_id):
        if trial.number in numbers and trial.status == "RUNNING":
            fail_run(trial.run_id, reason)
