"""Folders as tags keep them: from the local store's own folder on, so that both can move."""

from pathlib import Path

import mlflow

from prune_exp.settings.surroundings import SQLITE


def store_folder() -> Path | None:
    """The folder of the local store that is in use; None where it is not a file of ours."""
    uri = mlflow.get_tracking_uri()
    return Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else None


def shorten_place(folder: Path) -> str:
    """A folder from the store's own on where it lies below; as it is elsewhere."""
    root = store_folder()
    if root is not None and folder.is_absolute() and folder.is_relative_to(root):
        return folder.relative_to(root).as_posix()
    return str(folder)


def full_place(text: str) -> Path:
    """The folder that `shorten_place` wrote down; earlier runs have whole paths."""
    root = store_folder()
    return Path(text) if root is None else root / text
