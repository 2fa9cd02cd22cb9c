"""Runs that nothing would ever end: their process was killed, or their launcher lost them."""

import math
import sys
import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from prune_exp.machine.cache import remove_below
from prune_exp.machine.staging import partial_folders
from prune_exp.settings.groups import TrackingSettings
from prune_exp.settings.redaction import redact
from prune_exp.tracking import tags
from prune_exp.tracking.attempts import try_again
from prune_exp.tracking.notes import end_note
from prune_exp.tracking.places import full_place
from prune_exp.tracking.processes import has_gone, is_seen_here, process_tags
from prune_exp.tracking.read import read_trials
from prune_exp.tracking.store import open_store

ORPHAN_S = 10
"""How long a trial on this machine may take to notice that its driver has gone."""
LISTEN_S = 45
"""How long a process elsewhere has to say that it lives, which it does every 30 s."""
PAUSE_S = 0.5
LAST_TAGS = (tags.WEIGHTS_SHA256, tags.STOPPED)
"""Written last: whoever finds one of them knows that what the trial found is whole."""


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
    for run in _find_dead(client.search_runs([experiment_id], asked, max_results=1000)):
        found = run.data.tags
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


def _find_dead(running: Sequence[Any]) -> list[Any]:
    """The runs whose process has gone.

    Those elsewhere are heard once more: the store may have been silent and not they, and clocks of
    two machines may differ.
    """
    gone = [run for run in running if has_gone(run.data.tags)]
    elsewhere = [run for run in gone if not is_seen_here(run.data.tags)]
    if not elsewhere:
        return gone
    names = ", ".join(run.info.run_name for run in elsewhere)
    print(
        f"note: waiting {LISTEN_S:g} s to hear whether another machine still runs {names}",
        file=sys.stderr,
    )
    time.sleep(LISTEN_S)
    client = MlflowClient()
    alive = {
        run.info.run_id
        for run in elsewhere
        if client.get_run(run.info.run_id).data.tags.get(tags.BEAT) != run.data.tags[tags.BEAT]
    }
    return [run for run in gone if run.info.run_id not in alive]


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
