"""A process says how far it is, and while clocks run nothing is passed on."""

import threading
import time
from pathlib import Path

import pytest

from prune_exp.machine import progress
from prune_exp.machine.progress import (
    HEARD,
    WORDS,
    hush,
    let_pass,
    say_figures,
    say_phase,
    speak_to,
)


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_speaker", [])


def test_without_a_listener_nothing_is_written_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(seconds: float) -> None:
        raise AssertionError(f"waited {seconds} s")

    monkeypatch.setattr(progress.time, "sleep", wait)
    monkeypatch.chdir(tmp_path)
    say_phase("load")
    with hush():
        say_figures(1, a=1.0)
        let_pass()
    assert not list(tmp_path.iterdir())


def test_a_clock_waits_until_all_that_was_said_is_passed_on(tmp_path: Path) -> None:
    speak_to(tmp_path)
    say_phase("prune")
    passed: list[int] = []

    def listen() -> None:
        while not passed or passed[-1] < 2:  # what `hush` says is the second
            time.sleep(0.01)
            if (tmp_path / WORDS).exists():
                passed.append((tmp_path / WORDS).read_text(encoding="utf-8").count("\n"))
        (tmp_path / HEARD).write_text("2", encoding="ascii")

    thread = threading.Thread(target=listen)
    thread.start()
    with hush():
        assert not thread.is_alive() or (tmp_path / HEARD).exists()
    thread.join()
    assert passed[-1] == 2, "the phase, and that it shall be quiet"


def test_a_listener_that_is_gone_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PATIENCE_S", 0.05)
    speak_to(tmp_path)
    with hush():
        say_figures(3, recovery__train_loss=1.5)
    assert '"recovery/train_loss": 1.5' in (tmp_path / WORDS).read_text(encoding="utf-8")


def test_a_folder_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    speak_to(tmp_path / "gone")
    say_phase("load")
    with hush():
        pass
