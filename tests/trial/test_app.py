"""A trial that fails leaves nothing of its own, and everything of the user's."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.types import RunMode

from prune_exp.settings.groups import TrackingSettings
from prune_exp.settings.schema import Settings
from prune_exp.tracking.store import open_store
from prune_exp.trial import app, isolated, run
from prune_exp.trial.isolated import TrialDied

WEIGHTS = "model/model.safetensors"
STATE = "recovery/state"


def pretend(
    monkeypatch: pytest.MonkeyPatch, *, dies: BaseException | None, untold: Exception | None = None
) -> None:
    """Stands in for a trial that writes its checkpoint and then fails, or is not logged."""

    def run_isolated(_function: object, _settings: object, folder: Path, **_: object) -> Any:
        (folder / "model").mkdir(exist_ok=True)
        (folder / ".model-1.partial").mkdir()
        (folder / WEIGHTS).touch()
        if dies is not None:
            raise dies
        return SimpleNamespace(training_kept=folder / STATE)

    def log_result(*_: object) -> None:
        if untold is not None:
            raise untold

    monkeypatch.setattr(isolated, "run_isolated", run_isolated)
    monkeypatch.setattr("prune_exp.tracking.runs.log_result", log_result)


def note(*texts: str) -> None:
    from prune_exp.settings.surroundings import note_once

    for text in texts:
        note_once(text)


def test_a_note_is_said_once_by_all_processes_of_a_trial(
    capfd: pytest.CaptureFixture[str],
) -> None:
    from prune_exp.settings.surroundings import forget_said

    forget_said()
    note("first", "first")
    isolated.run_isolated(note, "first", "second", "second")
    said = capfd.readouterr().err.splitlines()
    assert said == ["note: first", "note: second"]


def test_a_worker_does_not_repeat_what_the_sweep_has_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from prune_exp.settings.surroundings import count_as_said, forget_said, list_said

    forget_said()
    note("of the sweep")
    said = list_said()
    forget_said()
    count_as_said(said)
    note("of the sweep", "of the trial")
    assert capsys.readouterr().err == "note: of the sweep\nnote: of the trial\n"


@pytest.mark.parametrize(
    "error", [RuntimeError("timed out"), TrialDied("killed"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("taken", [False, True])
def test_a_failed_trial_leaves_no_checkpoint(
    taken: bool, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, dies=error)
    if taken:
        (tmp_path / "model").mkdir()
    with pytest.raises(type(error)):
        app.run_and_log(Settings(), tmp_path)
    assert (tmp_path / "model").exists() is taken, "only what was not there before goes"
    assert not list(tmp_path.glob("*.partial"))


def test_a_trial_that_cannot_be_logged_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, dies=None, untold=ConnectionError("no answer"))
    with pytest.raises(ConnectionError):
        app.run_and_log(Settings(), tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_good_trial_keeps_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, dies=None)
    result: Any = app.run_and_log(Settings(), tmp_path)
    assert result.training_kept == tmp_path / STATE
    assert (tmp_path / WEIGHTS).exists()


@pytest.mark.parametrize(
    "fault", [None, {"dies": TrialDied("killed")}, {"dies": None, "untold": OSError("no answer")}]
)
def test_what_was_trained_is_kept_until_the_store_has_the_result(
    fault: dict[str, Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / STATE / "step-00000010").mkdir(parents=True)
    pretend(monkeypatch, **(fault or {"dies": None}))
    if fault is None:
        app.run_and_log(Settings(), tmp_path)
    else:
        with pytest.raises((TrialDied, OSError)):
            app.run_and_log(Settings(), tmp_path)
    assert (tmp_path / STATE).exists() == (fault is not None)


@pytest.mark.parametrize(
    ("wanted", "returned"), [(None, {"cost": 2.0, "size": 3.0}), ("size", 3.0), ("cost", 2.0)]
)
def test_another_sweeper_gets_the_one_number_that_it_wants(
    wanted: str | None, returned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra.core.hydra_config import HydraConfig

    given: list[Any] = []

    def run_and_log(_settings: Settings, _folder: Path, limits: Any) -> str:
        given.append(limits)
        return "the result"

    settings = Settings(optimized_metric=wanted)
    settings.search.constraints = ["size:9"]
    node = SimpleNamespace(
        mode=RunMode.MULTIRUN,
        job=SimpleNamespace(num=1),
        runtime=SimpleNamespace(output_dir=str(tmp_path)),
    )
    monkeypatch.setattr(HydraConfig, "get", lambda: node)
    monkeypatch.setattr(app, "read_config", lambda *_: settings)
    monkeypatch.setattr(app, "run_and_log", run_and_log)
    monkeypatch.setattr("prune_exp.tracking.runs.is_in_trial", lambda: True)
    monkeypatch.setattr(run, "describe_width", lambda *_: None)
    found = {"cost": 2.0, "size": 3.0}
    monkeypatch.setattr("prune_exp.tracking.metrics.flatten_result", lambda _: found)
    assert app.run_job(None) == returned
    assert given == [{} if wanted else {"size": 9.0}], "who wants a number never ends early"


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (RuntimeError("the studies' storage is gone"), 1, "FAILED"),
        (KeyboardInterrupt(), 130, "KILLED"),
    ],
)
def test_an_error_leaves_no_run_that_looks_finished(
    error: BaseException, code: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    open_store(TrackingSettings(root=str(tmp_path)))
    run = mlflow.start_run()

    def fail() -> None:
        raise error

    monkeypatch.setattr("hydra.main", lambda **_: lambda _: fail)
    monkeypatch.setattr(app.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == code
    assert mlflow.get_run(run.info.run_id).info.status == status
