"""Fixtures: a tiny checkpoint, a text, a trial's arguments, a tracked sweep."""

import os
import random
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from support.cli import small_trial
from support.empty_store import fill_stores_from_one
from support.models import make_tiny
from support.store import PLACES, Store, make_store
from support.tokenizers import WORDS, make_tokenizer

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models, and often several at once
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # our code is compiled once, not in each process
sys.dont_write_bytecode = False
for name in [one for one in os.environ if one.startswith("MLFLOW_")]:
    del os.environ[name]  # no store or server of whoever runs the tests
os.environ.pop("HYDRA_FULL_ERROR", None)
os.environ["GIT_CONFIG_GLOBAL"] = os.devnull
os.environ["GIT_CONFIG_NOSYSTEM"] = "1"
os.environ["HF_DATASETS_CACHE"] = os.path.join(
    tempfile.gettempdir(), f"prune_exp-tests-{os.getuid()}", "datasets"
)
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _environment_of_its_own() -> Iterator[None]:
    """What a command run in this process sets is gone before the next test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _copied_stores() -> None:
    """A new MLflow store takes seconds to make; all but the first are copies."""
    if hasattr(sys.modules.get("mlflow"), "__path__"):  # what hides a package has none
        fill_stores_from_one()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what runs trials as a user does, which every such test gets its arguments for."""
    for item in items:
        if {"tiny_args", "tracked"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker("trials")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama checkpoint on disk."""
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1000 documents of six words, about one a block of 32 tokens, no two alike."""
    chance = random.Random(0)
    parts: dict[str, None] = {}
    while len(parts) < 1000:
        parts[" ".join(chance.choices(WORDS, k=6)) + "."] = None
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(parts), encoding="utf-8")
    return path


@pytest.fixture
def tiny_args(tiny_folder: Path, text_file: Path, tmp_path: Path) -> list[str]:
    """Command-line overrides for a trial that takes seconds."""
    return small_trial(tiny_folder, text_file, tmp_path / "cache")


@pytest.fixture(scope="session")
def tracked(tiny_folder: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The sweep's store, made once for all workers; only read it."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tracked"
    with FileLock(f"{root}.lock"):
        if not (root / "done").exists():
            root.mkdir()
            make_store(root, tiny_folder, text_file)
            (root / "done").touch()
    return Store(root=root, cache=root / "cache")


@pytest.fixture
def store(tracked: Store, tmp_path: Path) -> Store:
    """A copy of the store, to change at will."""
    root = tmp_path / "copy"
    shutil.copytree(tracked.root, root)
    old, new = str(tracked.root), str(root)
    with sqlite3.connect(root / "mlruns" / "mlflow.db") as database:
        for table, column in PLACES:
            database.execute(f"update {table} set {column} = replace({column}, ?, ?)", (old, new))
    return Store(root=root, cache=tracked.cache)
