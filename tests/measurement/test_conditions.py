"""What is said of the machine and of its load."""

import os
from pathlib import Path

import pytest

from prune_exp.machine.limits import affinity_cores
from prune_exp.measurement import conditions


def test_an_unreadable_governor_is_said_to_be_so(tmp_path: Path) -> None:
    assert conditions.read_governor(tmp_path / "nothing") == "not readable"
    (tmp_path / "governor").write_text("performance\n")
    assert conditions.read_governor(tmp_path / "governor") == "performance"


def test_load_is_given_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 2.0, 1.0))
    found = conditions.load_at_start(lambda interval: 40.0 + interval, seconds=1)
    assert found["load_per_core_start"] == 3.0 / affinity_cores()
    assert found["busy_pct_start"] == 41.0
