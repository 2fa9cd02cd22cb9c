"""A local store that was renamed, moved or copied: its files are found beside its database again.

MLflow writes absolute places into the database and has no way to change them.
"""

import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from prune_exp.tracking import tags
from prune_exp.tracking.processes import has_gone, is_seen_here
from prune_exp.tracking.read import DATABASE

DATABASE_TIMEOUT_S = 30
ARTIFACTS = "artifacts"
"""The folder beside the database that all files are in."""
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
"""Where MLflow's database has places of files."""
OURS = re.compile(r"(.*?)/artifacts((?:/[0-9a-f]{32}|/models/m-[0-9a-f]{32})/artifacts)?")
"""A place of the kind made here: a store's folder, and what of a run or a model lies below it."""


def follow_store(root: Path, experiment: str) -> str | None:
    """Rewrites places of files that lie beside the database now, and says so in a line.

    Only places of the kind made here are changed, and only those of a folder that is gone, or
    that belongs to another store, of which this one is a copy. What is there stays as it is. A
    place with nothing below it tells nothing, and counts for `experiment` alone, which is ours.

    Nothing is rewritten while a process uses the store that sees it at its other place, as one in a
    container does, and would write there; returns that place then.
    """
    with closing(sqlite3.connect(root / DATABASE, timeout=DATABASE_TIMEOUT_S)) as database:
        left = [
            base for base in _find_bases(database) if _was_left(base, root, database, experiment)
        ]
        if not left:
            return None
        if _is_used_elsewhere(database):
            return str(left[0])
        for table, column, uri, base, rest in _list_places(database):
            if base in left:
                # the names are those in PLACES
                database.execute(
                    f"update {table} set {column} = ? where {column} = ?",
                    ((root / ARTIFACTS).as_uri() + rest, uri),
                )
        database.commit()
    print(
        f"note: {root} was elsewhere before ({', '.join(map(str, left))}); its runs and models are"
        " found here now",
        file=sys.stderr,
    )
    return None


def _is_used_elsewhere(database: sqlite3.Connection) -> bool:
    """Whether a process that cannot be seen from here says that it still runs."""
    rows = database.execute(
        "select runs.run_uuid, tags.key, tags.value from runs join tags using (run_uuid)"
        " where runs.status = 'RUNNING'"
    )
    running: dict[str, dict[str, str]] = {}
    for run_id, key, value in rows:
        running.setdefault(run_id, {})[key] = value
    return any(
        tags.BEAT in found and not is_seen_here(found) and not has_gone(found)
        for found in running.values()
    )


def _find_bases(database: sqlite3.Connection) -> list[Path]:
    return list(dict.fromkeys(base for *_, base, _ in _list_places(database)))


def _list_places(database: sqlite3.Connection) -> Iterator[tuple[str, str, str, Path, str]]:
    """Table, column, value, the store's folder in it and what lies below, of places of our kind."""
    for table, column in PLACES:
        known = database.execute(f"select distinct {column} from {table}").fetchall()
        for (uri,) in known:
            if not uri or not uri.startswith(("file:", "/")) or not is_local_uri(uri):
                continue
            found = OURS.fullmatch(local_file_uri_to_path(uri))
            if found:
                yield table, column, uri, Path(found[1]), found[2] or ""


def _was_left(base: Path, root: Path, database: sqlite3.Connection, experiment: str) -> bool:
    """Whether a store was at `base` before it was here."""
    there = base / ARTIFACTS
    here = root / ARTIFACTS
    if base == root:
        return False
    if there.is_dir() and (there.samefile(here) or not (base / DATABASE).is_file()):
        return False
    below = [rest for *_, one, rest in _list_places(database) if one == base and rest]
    if not below:
        return _is_place_of(base, experiment, database)
    return any((root / f"{ARTIFACTS}{rest}").is_dir() for rest in below)


def _is_place_of(base: Path, experiment: str, database: sqlite3.Connection) -> bool:
    """Whether an experiment keeps its files there."""
    question = "select artifact_location from experiments where name = ?"
    found = [uri for (uri,) in database.execute(question, (experiment,)) if uri]
    return any(
        is_local_uri(uri) and Path(local_file_uri_to_path(uri)) == base / ARTIFACTS for uri in found
    )
