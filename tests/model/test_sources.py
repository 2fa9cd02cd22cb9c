"""A model of the hub is the commit that was asked for, without anything that could run."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from prune_exp.model import sources
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import ModelSettings

ASKED = ModelSettings(name="tiny", hub_id="someone/tiny", revision="0123abc")


def test_the_commit_is_fetched_that_was_asked_for(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def fetch(
        hub_id: str, *, revision: str, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> str:
        assert ignore_patterns == ["consolidated*"], "the same weights once more"
        asked.append((hub_id, revision, allow_patterns))
        return str(tiny_folder)

    monkeypatch.setattr(sources, "snapshot_download", fetch)
    found = sources.locate_model(ASKED, tmp_path)
    assert found.folder == tiny_folder
    here = ModelSettings(name="tiny", path=str(tiny_folder))
    assert found.digest == sources.locate_model(here, tmp_path).digest
    ((hub_id, revision, patterns),) = asked
    assert (hub_id, revision) == ("someone/tiny", "0123abc")
    assert {"*.safetensors", "LICENSE*", "NOTICE*"} <= {*patterns}
    assert not {"*", "*.bin", "*.pt", "*.py", "*.pkl"} & {*patterns}


def test_what_the_hub_does_not_give_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError("401 Client Error.\nRepository Not Found")

    monkeypatch.setattr(sources, "snapshot_download", fail)
    with pytest.raises(SettingError) as refused:
        sources.locate_model(ASKED, tmp_path)
    assert str(refused.value) == (
        "model.hub_id=someone/tiny at 0123abc cannot be downloaded: 401 Client Error."
    )


def test_weights_that_are_not_read_are_not_looked_at(tiny_folder: Path, tmp_path: Path) -> None:
    """A pointer that a partial clone left beside the checkpoint."""
    whole = shutil.copytree(tiny_folder, tmp_path / "model")
    asked = ModelSettings(name="tiny", path=str(whole))
    before = sources.locate_model(asked, tmp_path / "cache").digest
    (whole / "consolidated.safetensors").write_text("version https://git-lfs", encoding="utf-8")
    assert sources.locate_model(asked, tmp_path / "cache").digest == before


def test_what_was_recorded_of_all_weights_is_still_known(tiny_folder: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(tiny_folder, tmp_path / "model")
    asked = ModelSettings(name="tiny", path=str(whole))
    found = sources.locate_model(asked, tmp_path / "cache").digest
    assert sources.digest_of_all(whole, tmp_path / "cache") == found
    (whole / "other.safetensors").write_bytes((whole / "model.safetensors").read_bytes())
    assert sources.digest_of_all(whole, tmp_path / "cache") != found
