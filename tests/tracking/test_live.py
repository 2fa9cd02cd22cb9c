"""Phases and losses are in the store while a trial runs, and nothing is sent while clocks run."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from prune_exp.machine import progress
from prune_exp.machine.progress import hush, let_pass, say_figures, say_phase, speak_to
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import tags
from prune_exp.tracking.live import Listener, follow_trial
from prune_exp.tracking.store import open_store
from prune_exp.trial.isolated import run_isolated


@pytest.fixture
def run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(progress, "_speaker", [])
    with mlflow.start_run(experiment_id=open_store(TrackingSettings(root=str(tmp_path)))) as run:
        yield run.info.run_id


def values(run_id: str, key: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in MlflowClient().get_metric_history(run_id, key)]


def phase(run_id: str) -> str | None:
    return MlflowClient().get_run(run_id).data.tags.get(tags.PHASE)


def test_what_is_said_is_in_the_store_at_once(run_id: str, tmp_path: Path) -> None:
    speak_to(tmp_path)
    with follow_trial(run_id, tmp_path):
        say_phase("recover")
        say_figures(0, recovery__validation_loss=2.0)
        say_figures(10, recovery__train_loss=1.5, recovery__validation_loss=1.0)
        with hush():
            assert phase(run_id) == "recover"
            assert values(run_id, "recovery/validation_loss") == [(0, 2.0), (10, 1.0)]
            assert values(run_id, "recovery/train_loss") == [(10, 1.5)]


def test_nothing_is_sent_while_clocks_run(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    for name in ("log_batch", "set_tag"):
        real = getattr(MlflowClient, name)

        def spy(*given: Any, _real: Any = real, _name: str = name, **more: Any) -> Any:
            sent.append(_name)
            return _real(*given, **more)

        monkeypatch.setattr(MlflowClient, name, spy)
    speak_to(tmp_path)
    listener = Listener(run_id, tmp_path)
    monkeypatch.setattr(progress.Speaker, "wait_until_heard", lambda _: listener.listen_once())
    say_phase("measure")
    with hush():
        assert sent == ["set_tag"]
        say_figures(12, latency_ratio_width_pct=9.0)
        listener.listen_once()
        assert sent == ["set_tag"], "held"
        let_pass()
        assert sent == ["set_tag", "log_batch"], "between two clocks"
        say_figures(22, latency_ratio_width_pct=7.0)
        listener.listen_once()
        assert len(sent) == 2
    listener.listen_once()
    assert len(sent) == 3
    assert values(run_id, "latency_ratio_width_pct") == [(12, 9.0), (22, 7.0)]


def test_a_store_that_does_not_answer_disturbs_nobody(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no answer")

    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    speak_to(tmp_path)
    with follow_trial(run_id, tmp_path):
        say_figures(1, a=1.0)
        with hush():
            pass
    assert progress.count_heard(tmp_path) == 3


def test_a_process_of_its_own_is_followed(run_id: str) -> None:
    figures = partial(say_figures, 1, a=2.0)
    run_isolated(figures, follow=partial(follow_trial, run_id))
    assert values(run_id, "a") == [(1, 2.0)]
    run_isolated(say_phase, "prune", follow=partial(follow_trial, None))
    assert phase(run_id) is None, "and speaks to nobody where nobody listens"


def test_the_machine_is_watched_but_not_while_clocks_run(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    speak_to(tmp_path)
    listener = Listener(run_id, tmp_path, system_metrics=True)
    monkeypatch.setattr(progress.Speaker, "wait_until_heard", lambda _: listener.listen_once())
    listener.watch_machine()
    with hush():
        assert listener.monitor is None
    listener.listen_once()
    assert listener.monitor is not None
    listener.leave_machine()
    assert not Listener(run_id, tmp_path).system_metrics, "only where it is wanted"
