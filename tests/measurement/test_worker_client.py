"""Requests and answers of any size pass, and a process that hangs is given up."""

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prune_exp.measurement import worker_client
from prune_exp.measurement.worker_client import MeasurementError, ModelProcess
from support.serving import eager_serving

LARGE = 300_000
"""More bytes than a pipe holds."""
ECHO = f"""
import json, sys
for line in sys.stdin:
    print(json.dumps({{"got": len(line), "ids": "x" * {LARGE}}}), flush=True)
"""
DEAF = "import time; time.sleep(3600)"
TALKS_AND_GOES = """
import json
print(json.dumps({"got": 1}), flush=True)
raise SystemExit("it went")
"""


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a serving is a program to run in place of a worker."""
    monkeypatch.setattr(
        worker_client, "_command_of", lambda serving: [sys.executable, "-c", serving.folder]
    )


def process_for(program: str, timeout_s: float = 60) -> ModelProcess:
    serving = eager_serving(Path("/"))
    object.__setattr__(serving, "folder", program)
    return ModelProcess(serving, timeout_s)


@pytest.mark.usefixtures("play")
@pytest.mark.timeout(120)
def test_many_large_requests_may_be_sent_before_the_first_answer_is_read() -> None:
    with process_for(ECHO) as process:
        for _ in range(3):
            process.send(ids="y" * LARGE)
        answers = [process.receive() for _ in range(3)]
    assert [len(answer["ids"]) for answer in answers] == [LARGE] * 3
    assert all(answer["got"] > LARGE for answer in answers)


@pytest.mark.usefixtures("play")
@pytest.mark.timeout(120)
def test_a_process_that_takes_no_request_is_given_up() -> None:
    with (
        process_for(DEAF, timeout_s=0.5) as process,
        pytest.raises(MeasurementError, match="ended with code"),
    ):
        process.send(ids="y" * LARGE)


@pytest.mark.usefixtures("play")
@pytest.mark.timeout(120)
def test_a_process_that_does_not_answer_is_given_up() -> None:
    with process_for(DEAF, timeout_s=0.5) as process, pytest.raises(MeasurementError):
        process.ask(ids="y")


@pytest.mark.usefixtures("play")
def test_what_was_said_before_the_end_is_heard() -> None:
    with process_for(TALKS_AND_GOES) as process:
        assert process.receive() == {"got": 1}
        for _ in range(2):
            with pytest.raises(MeasurementError, match="it went"):
                process.receive()


def test_one_model_loads_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start-up times are no contention of two processes that load at once."""
    from prune_exp.measurement import benchmark
    from prune_exp.settings.groups import BenchmarkSettings

    happened: list[str] = []

    class Pretended:
        def __init__(self, side: str, _timeout_s: float) -> None:
            self.side = side
            happened.append(f"{side} starts")

        def __enter__(self) -> "Pretended":
            return self

        def __exit__(self, *_: object) -> None:
            happened.append(f"{self.side} ends")

        def receive(self) -> dict[str, float]:
            happened.append(f"{self.side} is loaded")
            return {"startup_s": 1.0}

    monkeypatch.setattr(benchmark, "ModelProcess", Pretended)
    served: Any = {"dense": "dense", "pruned": "pruned"}
    with ExitStack() as stack:
        workers, starts = benchmark._start_in_turn(stack, served, BenchmarkSettings())
    assert workers.keys() == starts.keys() == {"dense", "pruned"}
    assert happened == [
        *("dense starts", "dense is loaded", "pruned starts", "pruned is loaded"),
        *("pruned ends", "dense ends"),
    ]


def test_memory_rounds_are_served_as_the_timed_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from prune_exp.measurement import benchmark
    from prune_exp.settings.groups import BenchmarkSettings

    alive: list[int] = []
    threads: list[int] = []

    class Pretended:
        def __init__(self, spec: Any, _timeout_s: float) -> None:
            threads.append(spec.threads)

        def __enter__(self) -> "Pretended":
            alive.append(1)
            assert len(alive) == 1, "one at a time"
            return self

        def __exit__(self, *_: object) -> None:
            alive.pop()

        def send(self, **_: object) -> None:
            pass

        def receive(self) -> dict[str, float]:
            return {"peak_memory_mib": 1.0}

    monkeypatch.setattr(benchmark, "ModelProcess", Pretended)
    spec = replace(eager_serving(Path("/")), threads=6)
    served = {"dense": spec, "pruned": spec}
    prompts = {side: [[1, 2, 3]] for side in served}
    found = benchmark._measure_memory_once(served, prompts, BenchmarkSettings())
    assert found.keys() == served.keys()
    assert threads == [6, 6]
