"""The page that is said is the experiment's own, also of a store that was moved."""

import sys
from pathlib import Path

import pytest

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking.store import open_store
from prune_exp.tracking.ui import prepare_pages


def test_the_page_is_the_experiments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(TrackingSettings(root=str(tmp_path / "a"), experiment="another"))
    experiment = open_store(TrackingSettings(root=str(tmp_path / "a")))
    (tmp_path / "a").rename(tmp_path / "b")
    command = prepare_pages(TrackingSettings(root=str(tmp_path / "b")))
    assert command[:4] == [sys.executable, "-m", "mlflow", "ui"]
    assert command[-1] == f"sqlite:///{tmp_path / 'b' / 'mlflow.db'}"
    said = capsys.readouterr()
    assert f"open http://127.0.0.1:5000/#/experiments/{experiment}/runs?" in said.out
    assert "was elsewhere before" in said.err


def test_a_store_without_our_experiment_opens_where_all_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_store(TrackingSettings(root=str(tmp_path), experiment="another"))
    prepare_pages(TrackingSettings(root=str(tmp_path)))
    assert "open http://127.0.0.1:5000/#/experiments\n" in capsys.readouterr().out


def test_where_there_is_no_store_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="there is no store"):
        prepare_pages(TrackingSettings(root=str(tmp_path / "none")))
    assert not list(tmp_path.iterdir())
