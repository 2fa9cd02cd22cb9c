"""Expensive results kept on disk under the digest of everything they depend on."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prune_exp.settings.errors import SettingError


def digest_of(*parts: Any) -> str:
    """Short hex digest of JSON-able values; equal values give equal digests in any process."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_sha256(folder: Path, *, without: str | None = None) -> str:
    """sha256 over the names and the bytes of all files of a folder, in hex.

    `without` is a file or folder in it that is left out.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder): path for path in files}
    lines = [
        f"{file_sha256(path)}  {name.as_posix()}\n"
        for name, path in names.items()
        if name.parts[0] != without
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def cached_folder(target: Path, build: Callable[[Path], None]) -> Path:
    """Returns `target`, built at most once even when several processes ask at the same time.

    `build` fills an empty folder beside `target`, which is renamed when it is whole, so that a
    crash or a full disk leaves nothing that a later run would take for finished.

    Raises:
        SettingError: the cache cannot be written.
    """
    from filelock import FileLock

    if target.is_dir():
        return target
    lock = FileLock(f"{target}.lock")
    with _naming_the_setting(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        if not target.is_dir():
            _build_folder(target, build)
    finally:
        lock.release()
    return target


def _build_folder(target: Path, build: Callable[[Path], None]) -> None:
    with _naming_the_setting(target):
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        build(partial)
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_below(folder: Path, roots: Iterable[Path]) -> None:
    """Removes a folder, unless it lies anywhere but below one of the roots; links are followed."""
    target = folder.resolve()
    if any(target.is_relative_to(root.resolve()) and target != root.resolve() for root in roots):
        shutil.rmtree(target, ignore_errors=True)


def keep_note(path: Path, data: bytes) -> None:
    """Writes a small file of the cache whole or not at all.

    Raises:
        SettingError: the cache cannot be written.
    """
    with _naming_the_setting(path):
        write_whole(path, data)


@contextmanager
def _naming_the_setting(path: Path) -> Iterator[None]:
    """Says which setting moves the cache where it cannot be written."""
    try:
        yield
    except OSError as error:
        raise SettingError(
            f"{path} in the cache cannot be written ({error.strerror or error}); give a writable"
            " folder with cache_dir=DIR or PRUNE_EXP_CACHE=DIR"
        ) from None


def write_whole(path: Path, data: bytes) -> None:
    """Writes a small file whole or not at all, its folder made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    os.replace(partial, path)
