"""Files that are written beside their place and moved there when they are whole."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

PARTIAL = ".partial"
"""How the names of folders end that are being written."""
LOCK = ".lock"
"""Held by the process that writes a stage, for as long as it lives."""


def make_partial(target: Path) -> Path:
    """A new folder beside `target` for what is to get that name, its parents made where missing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = tempfile.mkdtemp(prefix=f".{target.name}-", suffix=PARTIAL, dir=target.parent)
    return Path(made)


def partial_folders(target: Path) -> list[Path]:
    """What writing `target`, and no other, left beside it where that was killed."""
    start = f".{target.name}-"
    found = target.parent.glob(f"{escape(start)}*{PARTIAL}")
    return [one for one in found if "-" not in one.name[len(start) :]]


def discard_partial(target: Path) -> None:
    """Removes what writing to `target` left beside it, where that was killed."""
    for folder in partial_folders(target):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def stage_beside(output: Path) -> Iterator[Path]:
    """A folder beside the output, gone in the end with all that was not moved.

    What a killed process left of such a folder is removed first; that of a living one stays.
    """
    from filelock import FileLock

    _remove_abandoned(output)
    stage = make_partial(output)
    try:
        with FileLock(stage / LOCK):
            yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _remove_abandoned(output: Path) -> None:
    """Removes stages of this output that nobody writes to any more."""
    from filelock import FileLock

    for stage in partial_folders(output):
        try:
            with FileLock(stage / LOCK, timeout=0):
                shutil.rmtree(stage, ignore_errors=True)
        except OSError:  # it is being written, or another user's
            continue
