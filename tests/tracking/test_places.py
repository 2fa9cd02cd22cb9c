"""Folders in tags move with their store."""

from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from prune_exp.registry.stored_models import checkpoint_of
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import runs, tags
from prune_exp.tracking.places import full_place, shorten_place
from prune_exp.tracking.read import read_run
from prune_exp.tracking.store import open_store
from support.made_up_runs import trial


def test_a_folder_in_the_store_is_told_from_there_on_and_any_other_as_it_is(
    tmp_path: Path,
) -> None:
    root = tmp_path / "mlruns"
    open_store(TrackingSettings(root=str(root)))
    inside = root / "outputs" / "day" / "0"
    assert shorten_place(inside) == "outputs/day/0"
    assert full_place("outputs/day/0") == inside
    for other in (tmp_path / "elsewhere", Path("relative")):
        assert shorten_place(other) == str(other)
    assert full_place(str(tmp_path / "elsewhere")) == tmp_path / "elsewhere", "as earlier runs say"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///relative.db"])
def test_beside_another_store_folders_are_as_they_are(uri: str, tmp_path: Path) -> None:
    before = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri(uri)
        assert shorten_place(tmp_path) == str(tmp_path)
        assert full_place(str(tmp_path)) == tmp_path
    finally:
        mlflow.set_tracking_uri(before)


def test_a_checkpoint_is_found_after_the_store_has_moved(tmp_path: Path) -> None:
    here = tmp_path / "a"
    tracking = TrackingSettings(root=str(here))
    folder = here / "outputs" / "0"
    runs.start_trial(
        tracking, folder, 0, None, name="s", overrides=[], device="cpu", params=trial().params
    )
    run_id = str(runs.active_run_id())
    (folder / "model").mkdir(parents=True)
    mlflow.set_tag(tags.CHECKPOINT, shorten_place(folder / "model"))
    runs.end_open_runs("FINISHED")
    found = MlflowClient().get_run(run_id).data.tags
    ours = {key: value for key, value in found.items() if key != tags.TYPED_IN}
    assert str(tmp_path) not in str(ours)
    here.rename(tmp_path / "b")
    open_store(TrackingSettings(root=str(tmp_path / "b")))
    assert checkpoint_of(read_run(run_id)) == tmp_path / "b" / "outputs" / "0" / "model"
