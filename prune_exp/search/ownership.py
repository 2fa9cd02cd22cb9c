"""Who drives a study: one process at a time, on all machines that share its storage.

The owner notes its name and the time in the study over and over. Whoever comes second is refused
by name; an owner whose process is gone, or that was silent for long, is replaced.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import optuna

from prune_exp.settings.errors import SettingError
from prune_exp.tracking import tags
from prune_exp.tracking.processes import SILENT_S, is_dead, process_place, process_tags

OWNER = "owner"
BEAT_S = 30


@dataclass(kw_only=True)
class Ownership:
    """A study that this process drives."""

    study: optuna.Study
    me: dict[str, Any]
    ended: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises SettingError when another process has taken the study over meanwhile."""
        owner = self.study.user_attrs.get(OWNER)
        if owner and owner["process"] != self.me["process"]:
            raise SettingError(
                f"search.study_name={self.study.study_name} was taken over by"
                f" {_name_owner(owner)}, since this process was silent for long; what had finished"
                " is kept"
            )

    def note_time(self) -> None:
        """Says that this process is still there."""
        self.study.set_user_attr(OWNER, self.me | {"beat": time.time()})

    def beat(self) -> None:
        """Notes the time over and over until the study is let go, or has been taken over."""
        while not self.ended.wait(BEAT_S):
            with suppress(Exception):  # a storage that does not answer may do so next time
                owner = self.study.user_attrs.get(OWNER)
                if owner and owner["process"] != self.me["process"]:
                    return
                self.note_time()


@contextmanager
def own_study(study: optuna.Study) -> Iterator[Ownership]:
    """Holds a study for this process, whichever machine another one is on.

    Raises:
        SettingError: another process is running it; says which.
    """
    _refuse_second(study)
    me = {"process": process_tags()[tags.PROCESS], "place": process_place()}
    ours = Ownership(study=study, me=me)
    ours.note_time()
    ours.check()
    thread = threading.Thread(target=ours.beat, daemon=True)
    thread.start()
    try:
        yield ours
    finally:
        ours.ended.set()
        thread.join()
        with suppress(Exception):  # what ended the sweep matters more
            ours.check()
            study.set_user_attr(OWNER, None)


def _refuse_second(study: optuna.Study) -> None:
    owner = study.user_attrs.get(OWNER)
    if not owner or _is_gone(owner):
        return
    left = max(0, round(SILENT_S - (time.time() - owner["beat"])))
    raise SettingError(
        f"search.study_name={study.study_name} is being run by {_name_owner(owner)}; wait for it,"
        f" or give another name; if that process was killed, the study is free in {left} s"
    )


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether an owner has gone: by its process where that can be seen, or else by its silence."""
    place = process_place()
    if place and owner["place"] == place:
        return is_dead(owner["process"], seen_here=True)
    return time.time() - owner["beat"] > SILENT_S


def _name_owner(owner: dict[str, Any]) -> str:
    host, pid, _ = owner["process"].split(" ")
    return f"process {pid} on {host}"
