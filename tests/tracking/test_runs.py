"""What every run says of where it comes from."""

import subprocess
from pathlib import Path

import pytest

from prune_exp.tracking import runs, tags


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runs.environment_tags()[tags.GIT_COMMIT] == "none"


def git(*arguments: str, folder: Path) -> str:
    name = ("-c", "user.name=t", "-c", "user.email=t@t")
    done = subprocess.run(
        ["git", *name, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_commit_is_the_packages_and_says_when_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "package" / "runs.py"
    module.parent.mkdir()
    module.write_text("", encoding="utf-8")
    git("init", "-q", folder=tmp_path)
    monkeypatch.setattr(runs, "__file__", str(module))
    assert runs.environment_tags()[tags.GIT_COMMIT] == "none", "not tracked there"
    git("add", ".", folder=tmp_path)
    git("commit", "-qm", "first", folder=tmp_path)
    commit = git("rev-parse", "HEAD", folder=tmp_path)
    assert runs.environment_tags()[tags.GIT_COMMIT] == commit
    module.write_text("changed", encoding="utf-8")
    assert runs.environment_tags()[tags.GIT_COMMIT] == f"{commit}-dirty"
