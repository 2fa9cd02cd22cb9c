"""A run's process is known to live or to have gone, from this machine and from others."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import heartbeat, reaping, tags
from prune_exp.tracking.heartbeat import SweepDriver, Watch, start_beating, stop_beating
from prune_exp.tracking.processes import SILENT_S, has_gone, process_place, process_tags
from prune_exp.tracking.reaping import await_trials, reap_dead_runs
from prune_exp.tracking.store import open_store

DEAD = f"{socket.gethostname()} 999999999 0.00"
FAR = "another boot pid:[1]"


@pytest.fixture
def sweep(tmp_path: Path) -> str:
    """A sweep's run that another machine drives."""
    experiment = open_store(TrackingSettings(root=str(tmp_path)))
    given = {tags.PROCESS: "far 12 1.00", tags.PLACE: FAR, tags.BEAT: "1"}
    return MlflowClient().create_run(experiment, tags=given).info.run_id


def beat_s_ago(seconds: float) -> str:
    return f"{time.time() - seconds:.0f}"


@pytest.mark.parametrize(
    ("found", "gone"),
    [
        ({tags.PROCESS: DEAD, tags.PLACE: process_place()}, True),
        ({tags.PROCESS: "renamed 999999999 0.00", tags.PLACE: process_place()}, True),
        ({tags.PROCESS: DEAD}, True),
        ({tags.PROCESS: "far 12 1.00"}, False),
        ({tags.PROCESS: DEAD, tags.PLACE: FAR}, False),
        ({tags.PROCESS: DEAD, tags.PLACE: FAR, tags.BEAT: SILENT_S / 2}, False),
        ({tags.PROCESS: "far 12 1.00", tags.PLACE: FAR, tags.BEAT: 2 * SILENT_S}, True),
    ],
    ids=["here", "renamed", "no place", "elsewhere", "container of this name", "quiet", "silent"],
)
def test_who_has_gone(found: dict[str, Any], gone: bool) -> None:
    """A beat is given as how many seconds ago it was."""
    if tags.BEAT in found:
        found = found | {tags.BEAT: beat_s_ago(found[tags.BEAT])}
    assert has_gone(found) is gone
    assert not has_gone(process_tags())


def test_the_run_of_a_dead_machine_is_ended(
    tmp_path: Path, sweep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaping, "LISTEN_S", 0)
    reap_dead_runs(TrackingSettings(root=str(tmp_path)))
    assert MlflowClient().get_run(sweep).info.status == "FAILED"


def test_a_run_elsewhere_that_is_heard_of_again_lives(
    tmp_path: Path, sweep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was down for longer than a process may be silent, or clocks differ."""

    def beat_meanwhile(_seconds: float) -> None:
        MlflowClient().set_tag(sweep, tags.BEAT, "31")

    monkeypatch.setattr(reaping.time, "sleep", beat_meanwhile)
    reap_dead_runs(TrackingSettings(root=str(tmp_path)))
    assert MlflowClient().get_run(sweep).info.status == "RUNNING"


def test_a_run_beats_until_it_is_stopped(sweep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "WATCH_S", 0.01)
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.01)
    before = {*threading.enumerate()}
    start_beating(sweep)
    (beating,) = {*threading.enumerate()} - before
    while MlflowClient().get_run(sweep).data.tags[tags.BEAT] == "1":  # the test's limit ends this
        time.sleep(0.05)
    assert beating.is_alive()
    stop_beating(sweep)
    beating.join()
    stop_beating(sweep)
    stop_beating(None)


def test_an_orphan_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "WATCH_S", 0.01)
    heard: list[str] = []
    driver = SweepDriver(process=DEAD, place=process_place(), run_id="r")
    start_beating("t", driver, lambda: heard.append("gone"))
    while not heard:  # the test's limit ends this
        time.sleep(0.01)


def test_a_trial_in_the_driver_itself_is_no_orphan() -> None:
    assert heartbeat.this_driver("r").is_this_process
    assert not SweepDriver(process=DEAD, place=process_place(), run_id="r").is_this_process


class Clock:
    """A monotonic clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


def look(watch: Watch, clock: Clock, seconds: float, meanwhile: Callable[[], None]) -> bool:
    """Looks once every 30 seconds; whether the driver had gone at any time."""
    gone = False
    end = clock.now + seconds
    while clock.now < end:
        clock.now += heartbeat.BEAT_S
        meanwhile()
        gone = gone or watch.has_gone()
    return gone


def test_a_driver_elsewhere_has_gone_when_it_is_silent_or_another_took_over(
    sweep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(heartbeat, "time", clock)
    client = MlflowClient()
    driver = SweepDriver(process="far 12 1.00", place=FAR, run_id=sweep)
    watch = Watch(driver)

    def beat() -> None:
        client.set_tag(sweep, tags.BEAT, f"{clock.now:.0f}")

    assert not look(watch, clock, 1000, beat)
    assert look(watch, clock, 1000, lambda: None)
    other = Watch(driver)
    client.set_tag(sweep, tags.PROCESS, "far 13 2.00")
    assert look(other, clock, 60, lambda: None)


def test_a_store_that_does_not_answer_is_no_sign_of_a_drivers_end(
    sweep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(heartbeat, "time", clock)
    watch = Watch(SweepDriver(process="far 12 1.00", place=FAR, run_id=sweep))
    look(watch, clock, 60, lambda: None)

    def silent(*_: object) -> None:
        raise ConnectionError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(heartbeat.MlflowClient, "get_run", silent)
        assert not look(watch, clock, 1000, lambda: None)
    assert not look(watch, clock, 60, lambda: None)


@pytest.mark.parametrize("whose", ["nobody's", "our own", "dead"])
def test_nobody_waits_for_trials_that_have_ended(whose: str, sweep: str) -> None:
    client = MlflowClient()
    given = {"dead": {tags.PROCESS: DEAD}, "our own": process_tags()}.get(whose)
    if given is not None:
        known = client.get_run(sweep).info.experiment_id
        client.create_run(known, tags=given | {tags.PARENT_RUN: sweep, tags.ROLE: "trial"})
    client.set_tag(sweep, tags.ROLE, "sweep")
    await_trials(sweep)
