"""One process drives a study; the second is refused by name, a dead one is replaced."""

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from prune_exp.search import ownership
from prune_exp.search import study as studies
from prune_exp.search.ownership import OWNER, own_study
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import SearchSettings
from prune_exp.tracking.processes import identify_process
from support.cli import command
from support.studies import states, study_in


def study_for(tmp_path: Path) -> Any:
    search = SearchSettings(study_name="s")
    return studies.open_study(search, tmp_path, "s", {"cost": "minimize"}, {})


def owner(process: str, *, silent_s: float = 0, here: bool = False) -> dict[str, Any]:
    place = ownership.process_place() if here else "another boot pid:[1]"
    return {"process": process, "place": place, "beat": time.time() - silent_s}


def living() -> str:
    """The name of a living process that is not this one."""
    return identify_process(os.getppid())


DEAD = f"{socket.gethostname()} 999999999 0.00"


@pytest.mark.parametrize(
    ("process", "silent_s", "here"),
    [
        ("far 12 1.00", 0, False),
        ("far 12 1.00", ownership.SILENT_S / 2, False),
        (DEAD, 0, False),
        (living(), 0, True),
        (living(), 2 * ownership.SILENT_S, True),
    ],
    ids=["elsewhere", "quiet elsewhere", "container of this name", "here", "quiet here"],
)
def test_a_second_driver_is_refused_by_name(
    process: str, silent_s: float, here: bool, tmp_path: Path
) -> None:
    study = study_for(tmp_path)
    held = owner(process, silent_s=silent_s, here=here)
    study.set_user_attr(OWNER, held)
    host, pid, _ = process.split(" ")
    with (
        pytest.raises(SettingError, match=f"is being run by process {pid} on {host}"),
        own_study(study),
    ):
        pass
    assert study.user_attrs[OWNER] == held


@pytest.mark.parametrize(
    "held",
    [None, owner(DEAD, here=True), owner("far 12 1.00", silent_s=2 * ownership.SILENT_S)],
    ids=["nobody", "dead here", "silent elsewhere"],
)
def test_a_dead_owner_is_replaced(held: dict[str, Any] | None, tmp_path: Path) -> None:
    study = study_for(tmp_path)
    study.set_user_attr(OWNER, held)
    with own_study(study) as ours:
        assert study.user_attrs[OWNER]["process"] == ours.me["process"]
        ours.check()
    assert study.user_attrs[OWNER] is None


def test_the_owner_says_again_and_again_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "BEAT_S", 0.01)
    study = study_for(tmp_path)
    with own_study(study):
        beats = {study.user_attrs[OWNER]["beat"]}
        while len(beats) < 3:  # the test's own limit ends this
            beats.add(study.user_attrs[OWNER]["beat"])


def test_who_was_replaced_stops_and_leaves_the_study_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "BEAT_S", 3600)
    study = study_for(tmp_path)
    other = owner("far 12 1.00")
    with own_study(study) as ours:
        study.set_user_attr(OWNER, other)
        with pytest.raises(SettingError, match="was taken over by process 12 on far"):
            ours.check()
    assert study.user_attrs[OWNER] == other


@pytest.mark.slow
def test_the_running_trials_of_another_machine_stay(tiny_args: list[str], tmp_path: Path) -> None:
    arguments = ["-m", *tiny_args, "benchmark=off", "search.study_name=X", "sparsity=0.3"]
    assert command(*arguments, cwd=tmp_path).returncode == 0
    study = study_in(tmp_path, "X")
    study.ask({})
    study.set_user_attr(OWNER, owner("far 12 1.00"))
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "process 12 on far" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert states(tmp_path, "X") == ["COMPLETE", "RUNNING"]
