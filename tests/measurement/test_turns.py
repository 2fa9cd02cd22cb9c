"""Measurements on one machine wait for each other, and say for whom."""

import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
import torch

from prune_exp.measurement import benchmark, turns
from prune_exp.measurement.turns import name_turn, take_turn
from prune_exp.measurement.worker_client import MeasurementError
from prune_exp.settings.groups import BenchmarkSettings
from support.serving import eager_serving

ELSEWHERE = """
import sys
from prune_exp.measurement.turns import take_turn
with take_turn(sys.argv[1], longest_wait_s=0):
    print("measured")
"""


@pytest.fixture
def name() -> str:
    return f"prune_exp-test-{uuid.uuid4().hex}"


def in_another_process(name: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ELSEWHERE, name],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(scratch)},
        check=False,
    )


def test_a_private_temporary_folder_does_not_help(name: str, tmp_path: Path) -> None:
    with take_turn(name):
        refused = in_another_process(name, tmp_path)
    assert refused.returncode == 1
    assert f"process {os.getpid()} measured on this machine for too long" in refused.stderr
    assert in_another_process(name, tmp_path).stdout == "measured\n"


def test_who_waits_says_for_whom_and_then_has_the_turn(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []

    def second() -> None:
        with take_turn(name):
            order.append("second")

    thread = threading.Thread(target=second)
    said = ""
    with take_turn(name):
        thread.start()
        while "waits until" not in said:  # the test's own limit ends this
            said += capsys.readouterr().err
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert f"waits until process {os.getpid()} has measured" in said


def test_each_gpu_has_a_turn_of_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = ["GPU-1"]
    found = {"uuid": property(lambda _: seen[0])}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: type("Properties", (), found)()
    )
    monkeypatch.setattr(turns, "NAME", name)
    processor, first = name_turn("cpu"), name_turn("cuda")
    seen[0] = "GPU-2"  # the same place in the list of another process, which is shown another one
    second = name_turn("cuda")
    with take_turn(processor), take_turn(first), take_turn(second):
        assert len({processor, first, second}) == 3
        seen[0] = "GPU-1"
        with pytest.raises(MeasurementError), take_turn(name_turn("cuda"), longest_wait_s=0):
            pass


def test_a_measurement_takes_the_turn_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(name: str) -> None:
        asked.append(name)
        raise MeasurementError

    monkeypatch.setattr(benchmark, "take_turn", refuse)
    monkeypatch.setattr(benchmark, "name_turn", lambda device: f"turn of {device}")
    for device in ("cpu", "cuda"):
        spec = eager_serving(Path("m"), device)
        with pytest.raises(MeasurementError):
            benchmark._measure_samples({"dense": spec}, {}, BenchmarkSettings(), None)
    assert asked == ["turn of cpu", "turn of cuda"]


def test_an_error_gives_the_turn_back(name: str) -> None:
    with pytest.raises(RuntimeError), take_turn(name):
        raise RuntimeError
    with take_turn(name, longest_wait_s=0):
        pass


def test_waiting_ends(name: str) -> None:
    with (
        take_turn(name),
        pytest.raises(MeasurementError, match="for too long"),
        take_turn(name, longest_wait_s=0),
    ):
        pass
