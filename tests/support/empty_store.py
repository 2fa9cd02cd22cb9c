"""New MLflow stores as copies of one: MLflow makes a database by all its migrations in turn."""

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

EMPTY: list[bytes] = []
"""An empty store's database, once there was one."""


def fill_stores_from_one() -> None:
    """Has MLflow, in this process, copy the first new SQLite store where it would migrate."""
    from mlflow.store.db import utils
    from mlflow.store.model_registry import sqlalchemy_store

    migrate = utils._initialize_tables
    if migrate.__module__ == __name__:
        return

    def fill(engine: Any) -> None:
        path = engine.url.database if engine.url.get_backend_name() == "sqlite" else None
        if not path:
            migrate(engine)
        elif EMPTY:
            _write_store(EMPTY[0], path)
        else:
            migrate(engine)
            EMPTY.append(_read_store(path))

    fill.__module__ = __name__
    utils._initialize_tables = fill
    sqlalchemy_store._initialize_tables = fill  # pyright: ignore[reportPrivateImportUsage]


def make_empty_store() -> None:
    """Makes the one that is copied."""
    from mlflow.store.db import utils
    from mlflow.store.db.utils import create_sqlalchemy_engine

    with tempfile.TemporaryDirectory() as folder:
        engine = create_sqlalchemy_engine(f"sqlite:///{Path(folder) / 'empty.db'}")
        utils._initialize_tables(engine)
        engine.dispose()


def _read_store(path: str) -> bytes:
    with closing(sqlite3.connect(path)) as database:
        return database.serialize()


def _write_store(content: bytes, path: str) -> None:
    with closing(sqlite3.connect(":memory:")) as source, closing(sqlite3.connect(path)) as target:
        source.deserialize(content)
        source.backup(target)
