"""Says over and over that a run's process lives, and notices when a trial's sweep has gone.

A trial in a launcher's worker would otherwise go on for nobody when its driver is killed, and what
another machine was running when that died would never end.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mlflow.tracking import MlflowClient

from prune_exp.tracking import tags
from prune_exp.tracking.processes import SILENT_S, is_dead, process_place, process_tags

BEAT_S = 30
"""Between two beats in the store, and two looks at a driver elsewhere."""
WATCH_S = 1
"""Between two looks at a driver on this machine."""
_beating: dict[str, threading.Event] = {}
"""Runs of this process that beat, with what ends that."""


@dataclass(frozen=True, kw_only=True)
class SweepDriver:
    """The process behind a sweep, as its trials know it wherever they run."""

    process: str
    place: str
    run_id: str
    """The sweep's run."""

    @property
    def is_this_process(self) -> bool:
        """Whether the trial runs in the driver itself."""
        return self.process == process_tags()[tags.PROCESS] and self.place == process_place()


def this_driver(run_id: str) -> SweepDriver:
    """This process as the driver of a sweep."""
    return SweepDriver(process=process_tags()[tags.PROCESS], place=process_place(), run_id=run_id)


class Watch:
    """Whether a driver has gone: by its process on this machine, or else by its silence."""

    def __init__(self, driver: SweepDriver) -> None:
        self._driver = driver
        self._beat = ""
        self._heard_at = time.monotonic()
        self._looked_at = time.monotonic()

    def has_gone(self) -> bool:
        """Looks at the process where that can be seen, else into the store now and then."""
        if self._driver.place and self._driver.place == process_place():
            return is_dead(self._driver.process, seen_here=True)
        if time.monotonic() - self._looked_at < BEAT_S:
            return False
        self._looked_at = time.monotonic()
        return self._look_into_store()

    def _look_into_store(self) -> bool:
        """Only what the store said over a long time counts: it may itself be silent."""
        try:
            found = MlflowClient().get_run(self._driver.run_id).data.tags
        except Exception:
            self._heard_at = time.monotonic()
            return False
        if found.get(tags.PROCESS) != self._driver.process:
            return True  # another start of the study has taken over
        if found.get(tags.BEAT, "") != self._beat:
            self._beat = found.get(tags.BEAT, "")
            self._heard_at = time.monotonic()
        return time.monotonic() - self._heard_at > SILENT_S


def start_beating(
    run_id: str, driver: SweepDriver | None = None, on_orphaned: Callable[[], None] | None = None
) -> None:
    """Beats for a run of this process until `stop_beating`.

    Calls `on_orphaned` once the driver of its sweep has gone; never where that is this process.
    """
    ended = threading.Event()
    _beating[run_id] = ended
    watch = None
    if driver is not None and not driver.is_this_process:
        watch = Watch(driver)

    def beat() -> None:
        last = time.monotonic()
        while not ended.wait(WATCH_S):
            if watch is not None and on_orphaned is not None and watch.has_gone():
                on_orphaned()
                return
            if time.monotonic() - last >= BEAT_S:
                last = time.monotonic()
                with suppress(Exception):  # a store that does not answer may do so next time
                    MlflowClient().set_tag(run_id, tags.BEAT, f"{time.time():.0f}")

    threading.Thread(target=beat, daemon=True).start()


def stop_beating(run_id: str | None) -> None:
    """Ends the beats of a run, if it has any."""
    ended = _beating.pop(run_id or "", None)
    if ended is not None:
        ended.set()
