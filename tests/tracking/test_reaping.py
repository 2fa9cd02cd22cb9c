"""Runs of killed processes are ended, and nothing of anybody else's is touched."""

import socket
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from mlflow.tracking import MlflowClient

from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import tags
from prune_exp.tracking.processes import AFTER_BOOT, is_dead, process_tags
from prune_exp.tracking.reaping import reap_dead_runs, settle_trials
from prune_exp.tracking.store import open_store

DEAD = f"{socket.gethostname()} 999999999 0.00"


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingSettings:
    return TrackingSettings(root=str(tmp_path / "mlruns"))


def left_running(tracking: TrackingSettings, **given: str) -> str:
    """A trial's run that nobody has ended."""
    experiment = open_store(tracking)
    kept = {tags.ROLE: "trial", tags.PROCESS: DEAD} | {
        getattr(tags, k): v for k, v in given.items()
    }
    return MlflowClient().create_run(experiment, tags=kept).info.run_id


def checkpoint_in(folder: Path) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}", encoding="utf-8")
    return folder / "model"


def run_of(run_id: str) -> Any:
    return mlflow.get_run(run_id)


def test_a_killed_trial_fails_and_what_it_left_goes(
    tracking: TrackingSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    model = checkpoint_in(Path(tracking.root) / "outputs" / "1")
    half_written = model.parent / ".model-x1.partial" / "model"
    half_written.mkdir(parents=True)
    run_id = left_running(tracking, FOLDER=str(model.parent))
    reap_dead_runs(tracking)
    assert run_of(run_id).info.status == "FAILED"
    assert tags.INTERRUPTED in run_of(run_id).data.tags
    assert not model.exists()
    assert not half_written.parent.exists()
    told = capsys.readouterr().err
    assert f"ended what a killed process left running: {run_of(run_id).info.run_name} (int" in told
    reap_dead_runs(tracking)
    assert not capsys.readouterr().err


def test_a_trial_killed_after_it_was_ended_early_stays_ended_early(
    tracking: TrackingSettings,
) -> None:
    run_id = left_running(tracking, STOPPED="file_mib is 9 and may be at most 5")
    reap_dead_runs(tracking)
    assert run_of(run_id).info.status == "FINISHED"


def test_a_trial_killed_while_its_model_was_stored_keeps_both(tracking: TrackingSettings) -> None:
    model = checkpoint_in(Path(tracking.root) / "outputs" / "1")
    run_id = left_running(tracking, FOLDER=str(model.parent), WEIGHTS_SHA256="0" * 64)
    reap_dead_runs(tracking)
    assert run_of(run_id).info.status == "FINISHED"
    assert tags.ERROR not in run_of(run_id).data.tags
    assert model.is_dir()


@pytest.mark.parametrize("where", ["project", "mlruns/../project", "mlruns-of-others"])
def test_a_folder_elsewhere_is_never_removed(
    where: str, tracking: TrackingSettings, tmp_path: Path
) -> None:
    Path(tracking.root).mkdir()
    model = checkpoint_in(tmp_path / where)
    run_id = left_running(tracking, FOLDER=str(tmp_path / where))
    reap_dead_runs(tracking)
    assert run_of(run_id).info.status == "FAILED"
    assert model.is_dir()


def test_a_link_out_of_the_root_is_not_followed(tracking: TrackingSettings, tmp_path: Path) -> None:
    model = checkpoint_in(tmp_path / "project")
    outputs = Path(tracking.root) / "outputs"
    outputs.mkdir(parents=True)
    (outputs / "1").symlink_to(tmp_path / "project")
    left_running(tracking, FOLDER=str(outputs / "1"))
    reap_dead_runs(tracking)
    assert model.is_dir()


@pytest.mark.parametrize(
    "process", ["x", "", "host 1", "host one 2.0", "host 1 noon", "a b c d", "host 1 boot+x"]
)
def test_a_tag_that_is_none_of_ours_is_left_alone(process: str, tracking: TrackingSettings) -> None:
    assert not is_dead(process)
    run_id = left_running(tracking, PROCESS=process)
    reap_dead_runs(tracking)
    assert run_of(run_id).info.status == "RUNNING"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the kernel tells no start")
def test_a_clock_that_is_set_anew_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept, or heard the right time, says that it began at another time."""
    before = process_tags()[tags.PROCESS]
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: 5.0)
    assert psutil.Process().create_time() < 1e9
    assert process_tags()[tags.PROCESS] == before
    assert not is_dead(before)


def test_processes_are_known_by_their_start() -> None:
    """As this version writes it, and by the clock as earlier ones did."""
    host, pid, started = process_tags()[tags.PROCESS].split(" ")
    by_clock = psutil.Process().create_time()
    assert not is_dead(f"{host} {pid} {by_clock:.2f}")
    assert is_dead(f"{host} {pid} {by_clock - 60:.2f}")
    assert started.startswith(AFTER_BOOT)
    later = float(started.removeprefix(AFTER_BOOT)) + 60
    assert is_dead(f"{host} {pid} {AFTER_BOOT}{later:.2f}")
    assert is_dead(f"{host} 999999999 {started}")


def test_a_living_process_is_not_reaped(tracking: TrackingSettings) -> None:
    run_id = left_running(tracking, PROCESS=process_tags()[tags.PROCESS])
    reap_dead_runs(tracking)
    assert run_of(run_id).info.status == "RUNNING"


def test_a_trial_whose_end_was_not_heard_of_is_ended(tracking: TrackingSettings) -> None:
    experiment = open_store(tracking)
    client = MlflowClient()
    sweep = client.create_run(experiment, tags={tags.ROLE: "sweep"}).info.run_id

    def trial(number: int, **given: str) -> str:
        run_id = left_running(tracking, **given)
        client.set_tag(run_id, tags.PARENT_RUN, sweep)
        client.set_tag(run_id, tags.JOB_NUMBER, str(number))
        return run_id

    whole = trial(0, WEIGHTS_SHA256="0" * 64)
    client.log_metric(whole, "cost", 1.0)
    cut_off = trial(1)
    failed = trial(2, WEIGHTS_SHA256="0" * 64, ERROR="cost is nan")
    other = trial(3, WEIGHTS_SHA256="0" * 64)
    assert settle_trials(sweep, [0, 1, 2]) == {0: {"cost": 1.0}}
    found = [run_of(one).info.status for one in (whole, cut_off, failed, other)]
    assert found == ["FINISHED", "FAILED", "FAILED", "RUNNING"]
    assert run_of(failed).data.tags[tags.ERROR] == "cost is nan"
    assert settle_trials(sweep).keys() == {0, 3}
