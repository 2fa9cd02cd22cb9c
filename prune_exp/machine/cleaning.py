"""Clears the cache of what we put into it: `python -m prune_exp.machine.cleaning [DIR]`."""

import fcntl
import os
import re
import shutil
import sys
from pathlib import Path

from prune_exp.settings.errors import SettingError

FOLDERS = (
    "models",
    "digests",
    "calibration",
    "quality",
    "served",
    "tasks",
    "generated",
    "teacher",
    "recovery",
)
DIGEST = re.compile(r"\.?[0-9a-f]{16}(?:[-.].*)?")
"""Entries that are called by a digest, with what stands beside them while they are made."""
MODEL = re.compile(r"[\w.-]+-\d[\w.+!]*-\d+")
"""A converted model: package, version and size."""
LOCK = ".lock"


def main() -> None:
    """Exit code 1 where something of it is being made."""
    default = os.environ.get("PRUNE_EXP_CACHE") or "~/.cache/prune_exp"
    cache = Path(sys.argv[1] if len(sys.argv) > 1 else default).expanduser()
    try:
        removed = clear_cache(cache)
    except SettingError as error:
        sys.exit(f"prune_exp: error: {error}")
    for folder, size in removed.items():
        print(f"{folder:12} {size / 2**20:8,.0f} MiB")
    print(f"{sum(removed.values()) / 2**20:,.0f} MiB removed from {cache}")


def clear_cache(cache: Path) -> dict[str, int]:
    """Removes every entry that is ours and nothing else; returns bytes by folder.

    Raises:
        SettingError: an entry is being made.
    """
    ours = {
        folder: sorted(path for path in (cache / folder).iterdir() if is_ours(path))
        for folder in FOLDERS
        if (cache / folder).is_dir() and not (cache / folder).is_symlink()
    }
    for path in (path for entries in ours.values() for path in entries):
        if path.name.endswith(LOCK) and _is_held(path):
            raise SettingError(f"{path} is held: a trial is running; wait for it")
    sizes = {folder: sum(map(_remove, entries)) for folder, entries in ours.items()}
    for folder in ours:
        if not any((cache / folder).iterdir()):
            (cache / folder).rmdir()
    return sizes


def is_ours(path: Path) -> bool:
    """Whether an entry of one of the folders is called as ours are."""
    if path.is_symlink():
        return False
    if path.parent.name != "models":
        return DIGEST.fullmatch(path.name) is not None
    name = path.name.removesuffix(LOCK)
    if name.startswith("."):
        name = name[1:].rpartition("-")[0]
    lock = path.with_name(f"{name}{LOCK}")
    return MODEL.fullmatch(name) is not None and lock.is_file() and not lock.stat().st_size


def _is_held(path: Path) -> bool:
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _remove(path: Path) -> int:
    """Removes a file or a folder; returns how many bytes it had."""
    if not path.is_dir():
        size = path.lstat().st_size
        path.unlink()
        return size
    size = sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
    shutil.rmtree(path)
    return size


if __name__ == "__main__":
    main()
