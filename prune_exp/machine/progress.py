"""What a long process says of how far it is, to whoever started it.

Two files carry it: words go one way as lines, and the other way comes how many were heard. While
clocks run nobody may write or send: `hush` waits until all that was said has been passed on.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORDS = "words"
HEARD = "heard"
PATIENCE_S = 30
"""A listener that passes nothing on for so long is not waited for any more."""
POLL_S = 0.02


class Speaker:
    """The side that says something."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = 0

    def say(self, **words: Any) -> None:
        """One line, with the time; a full disk is no reason to end a trial."""
        line = json.dumps(words | {"at_ms": int(1000 * time.time())})
        try:
            with (self.folder / WORDS).open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError:
            return
        self.said += 1

    def wait_until_heard(self) -> None:
        """Returns once everything was passed on, or nothing was for `PATIENCE_S`."""
        latest = time.monotonic() + PATIENCE_S
        while count_heard(self.folder) < self.said and time.monotonic() < latest:
            time.sleep(POLL_S)


def count_heard(folder: Path) -> int:
    """How many lines the listener has passed on."""
    try:
        return int((folder / HEARD).read_text(encoding="ascii") or 0)
    except (OSError, ValueError):
        return 0


def is_followed(folder: Path) -> bool:
    """Whether somebody listens there."""
    return (folder / HEARD).exists()


_speaker: list[Speaker] = []
"""That of this process, if somebody listens."""


def speak_to(folder: Path | None) -> None:
    """Has this process say how far it is in files of `folder`; nothing when None."""
    _speaker[:] = [] if folder is None else [Speaker(folder)]


def say_phase(name: str) -> None:
    """Which phase begins."""
    for one in _speaker:
        one.say(phase=name)


def say_figures(step: int, **figures: float) -> None:
    """Figures at a step of something that goes on for long; `__` in a name stands for a slash."""
    for one in _speaker:
        one.say(
            step=step, figures={key.replace("__", "/"): value for key, value in figures.items()}
        )


@contextmanager
def hush() -> Iterator[None]:
    """Nothing that was said is still being passed on while the body runs, and nothing new is."""
    for one in _speaker:
        one.say(hush=True)
        one.wait_until_heard()
    try:
        yield
    finally:
        for one in _speaker:
            one.say(hush=False)


def let_pass() -> None:
    """Has figures passed on between two clocks, and waits until that is done."""
    for one in _speaker:
        one.say(hush=False)
        one.say(hush=True)
        one.wait_until_heard()
