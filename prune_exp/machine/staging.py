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


def partial_folders(target: Path) -> list[Path]:
    """What writing `target`, and no other, left beside it where that was killed."""
    start = f".{target.name}-"
    found = target.parent.glob(f"{escape(start)}*{PARTIAL}")
    return [one for one in found if "-" not in one.name[len(start) :]]


@contextmanager
def stage_beside(output: Path) -> Iterator[Path]:
    """A folder beside the output, gone in the end with all that was not moved.

    What a killed process left of such a folder is removed first; that of a living one stays.
    """
    from filelock import FileLock

    output.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(output)
    stage = Path(tempfile.mkdtemp(prefix=f".{output.name}-", suffix=PARTIAL, dir=output.parent))
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
