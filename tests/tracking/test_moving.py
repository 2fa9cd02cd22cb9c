"""A store that was moved or copied shows everything that it had, and keeps what is new."""

import os
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow.artifacts import download_artifacts, load_text
from mlflow.tracking import MlflowClient

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import tags
from prune_exp.tracking.moving import PLACES
from prune_exp.tracking.store import open_store, use_store


@dataclass(frozen=True)
class Kept:
    """What a store holds."""

    run_id: str
    model_id: str


def fill_store(root: Path) -> Kept:
    experiment = open_store(TrackingSettings(root=str(root)))
    client = MlflowClient()
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_text("x", "x.txt")
    model = client.create_logged_model(experiment, "model", source_run_id=run.info.run_id)
    file = root.parent / "weights"
    file.mkdir()
    (file / "w.txt").write_text("w", encoding="utf-8")
    client.log_model_artifacts(model.model_id, str(file))
    client.finalize_logged_model(model.model_id, "READY")
    client.create_registered_model("ours")
    uri = f"models:/{model.model_id}"
    client.create_model_version("ours", uri, run.info.run_id, model_id=model.model_id)
    return Kept(run.info.run_id, model.model_id)


def check_kept(kept: Kept) -> None:
    assert load_text(f"runs:/{kept.run_id}/x.txt") == "x"
    for uri in (f"models:/{kept.model_id}", "models:/ours/1"):
        assert (Path(download_artifacts(uri)) / "w.txt").read_text(encoding="utf-8") == "w"


def places_in(root: Path) -> str:
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        return str([database.execute(f"select {one} from {t}").fetchall() for t, one in PLACES])


def test_a_store_is_not_taken_from_a_process_that_sees_it_elsewhere(tmp_path: Path) -> None:
    """A trial in a container writes to where it found the store."""
    inside, outside = tmp_path / "inside" / "mlruns", tmp_path / "outside"
    kept = fill_store(inside)
    client = MlflowClient()
    beat = {tags.PROCESS: "far 12 1.00", tags.PLACE: "a boot", tags.BEAT: f"{time.time():.0f}"}
    experiment = client.get_run(kept.run_id).info.experiment_id
    trial = client.create_run(experiment, tags=beat).info.run_id
    inside.parent.rename(outside)
    tracking = TrackingSettings(root=str(outside / "mlruns"))
    before = places_in(outside / "mlruns")
    with pytest.raises(SettingError, match=rf"by a process that sees it as {inside}"):
        open_store(tracking)
    use_store(tracking)
    assert places_in(outside / "mlruns") == before
    MlflowClient().set_terminated(trial)
    open_store(tracking)
    check_kept(kept)


@pytest.mark.parametrize("use", [open_store, use_store])
@pytest.mark.parametrize("how", ["moved", "copied", "moved twice"])
def test_everything_is_found_where_the_store_is_now(
    how: str,
    use: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = tmp_path / "a" / "mlruns"
    kept = fill_store(before)
    if how == "copied":
        shutil.copytree(tmp_path / "a", tmp_path / "b c%")
    else:
        (tmp_path / "a").rename(tmp_path / "b c%")
    if how == "moved twice":
        open_store(TrackingSettings(root=str(tmp_path / "b c%" / "mlruns")))
        (tmp_path / "b c%").rename(tmp_path / "d")
    after = tmp_path / ("d" if how == "moved twice" else "b c%") / "mlruns"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    original = places_in(before) if how == "copied" else ""
    capsys.readouterr()
    tracking = TrackingSettings(root=os.path.relpath(after))
    use(tracking)  # pyright: ignore[reportCallIssue]
    assert "was elsewhere before" in capsys.readouterr().err
    if how == "copied":
        assert places_in(before) == original
        shutil.rmtree(before / "artifacts")
    assert str(before) not in places_in(after)
    check_kept(kept)
    use(tracking)  # pyright: ignore[reportCallIssue]
    assert "was elsewhere" not in capsys.readouterr().err, "said once"


def test_a_copy_without_runs_keeps_new_ones_to_itself(tmp_path: Path) -> None:
    open_store(TrackingSettings(root=str(tmp_path / "a")))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    experiment = open_store(TrackingSettings(root=str(tmp_path / "b")))
    assert str(tmp_path / "b") in str(mlflow.get_experiment(experiment).artifact_location)


def test_files_of_the_users_that_are_away_for_a_while_stay_where_they_are(tmp_path: Path) -> None:
    """Runs of an experiment on a disk that is not mounted just now."""
    root = tmp_path / "mlruns"
    open_store(TrackingSettings(root=str(root)))
    disk = tmp_path / "disk" / "artifacts"
    disk.mkdir(parents=True)
    theirs = MlflowClient().create_experiment("theirs", artifact_location=disk.as_uri())
    with mlflow.start_run(experiment_id=theirs) as run:
        mlflow.log_text("x", "x.txt")
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    open_store(TrackingSettings(root=str(root)))
    assert str(disk) in str(MlflowClient().get_run(run.info.run_id).info.artifact_uri)
    assert str(disk) in str(mlflow.get_experiment(theirs).artifact_location)


def test_a_store_that_may_only_be_read_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_store(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    before = places_in(tmp_path / "b")
    monkeypatch.setattr(os, "access", lambda *_: False)
    use_store(TrackingSettings(root=str(tmp_path / "b")))
    assert places_in(tmp_path / "b") == before


def test_a_place_of_the_users_without_runs_yet_stays_where_it_is(tmp_path: Path) -> None:
    """On a disk that is not mounted, where MLflow has made no folder yet."""
    root = tmp_path / "mlruns"
    open_store(TrackingSettings(root=str(root)))
    disk = tmp_path / "disk" / "artifacts"
    theirs = MlflowClient().create_experiment("theirs", artifact_location=disk.as_uri())
    open_store(TrackingSettings(root=str(root)))
    assert str(disk) in str(mlflow.get_experiment(theirs).artifact_location)
