"""Measured processes answer, count right, and are missed when they die."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.machine.memory import reset_peak
from prune_exp.measurement import benchmark, worker
from prune_exp.measurement.worker import Worker
from prune_exp.measurement.worker_client import MeasurementError, ModelProcess
from prune_exp.settings.groups import BenchmarkSettings
from support.models import make_tiny
from support.serving import eager_serving


class TurnsTaken:
    """A measured process that notes whose turn it is, and answers at once."""

    def __init__(self, side: str, turns: list[str]) -> None:
        self.side = side
        self.turns = turns

    def send(self, **asked: Any) -> None:
        self.turns.append(f"{self.side} {asked['do']}")

    def receive(self) -> dict[str, Any]:
        return {"ids": [[0]]}

    def ask(self, **asked: Any) -> dict[str, Any]:
        self.send(**asked)
        return self.receive()


def turns_taken(rounds: int, **asked: Any) -> list[str]:
    """Whose turn it was in some rounds of a batch of two, and for what."""
    settings = BenchmarkSettings(batch_sizes=[2], batch_rounds=rounds, **asked)
    turns: list[str] = []
    workers: Any = {side: TurnsTaken(side, turns) for side in benchmark.SIDES}
    prompts = {side: [[1, 2], [3, 4]] for side in benchmark.SIDES}
    found = benchmark._measure_batches(workers, prompts, settings)
    assert [len(pairs) for pairs in found.values()] == [rounds]
    return turns


def test_in_batches_either_model_goes_first_in_turns() -> None:
    asked = [f"{side} generate" for side in benchmark.SIDES]
    assert turns_taken(4, turns="request") == [*asked, *asked[::-1]] * 2


def test_turns_by_token_alternate_within_a_request() -> None:
    assert turns_taken(2, turns="token", new_tokens=3) == [
        "dense generate",
        "pruned generate",
        "pruned go",
        "dense go",
        "dense go",
        "pruned go",
        "pruned generate",
        "dense generate",
        "dense go",
        "pruned go",
        "pruned go",
        "dense go",
    ]


@pytest.mark.parametrize("turns", ["token", "request"])
def test_measured_processes_answer_and_alternate(tiny_folder: Path, turns: str) -> None:
    settings = BenchmarkSettings(
        turns=turns,
        new_tokens=4,
        batch_rounds=2,
        batch_sizes=[2],
        memory_rounds=2,
        bootstrap_resamples=100,
    )
    prompts = [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11, 12]]
    found = benchmark.measure_pair(
        tiny_folder, tiny_folder, dict.fromkeys(benchmark.SIDES, prompts), settings
    )
    order = [sample["model"] for sample in found.samples]
    assert order == ["dense", "pruned", "pruned", "dense", "dense", "pruned"]
    ids = {(s["prompt"], s["model"]): s["ids"] for s in found.samples}
    assert all(
        ids[i, "dense"] == ids[i, "pruned"] and len(ids[i, "dense"][0]) == 4 for i in (0, 1, 2)
    )
    assert found.bandwidth_limit_speedup == 1.0
    assert found.dense.weights_mib == found.pruned.weights_mib
    assert found.dense.latency_ms_p50 <= found.dense.latency_ms_p90 <= found.dense.latency_ms_p99


def test_a_dead_process_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    with (
        ModelProcess(eager_serving(tmp_path / "nothing"), 60) as process,
        pytest.raises(MeasurementError, match="ended with code"),
    ):
        process.receive()


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2"])
def test_the_cache_is_as_large_as_shapes_say(model_type: str, tmp_path: Path) -> None:
    make_tiny(model_type).save_pretrained(tmp_path)
    worker = Worker(eager_serving(tmp_path))
    worker.generate([list(range(1, 13))] * 3, 5)
    memory = worker.memory()
    assert memory["kv_cache_mib"] * 2**20 == 3 * worker.served.footprint.kv_bytes(16)


def test_the_peak_is_the_kernels_and_does_not_fall(tiny_folder: Path) -> None:
    worker = Worker(eager_serving(tiny_folder))
    reset_peak()
    before = worker.memory()["peak_memory_mib"]
    big = torch.ones(256 * 2**18)
    del big
    assert worker.memory()["peak_memory_mib"] > before + 192


def test_pauses_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(worker.time, "perf_counter", lambda: now[0])

    def pause() -> None:
        now[0] += 100

    stamps = worker.Stamps(3, pause)
    for work in (5, 2, 2):
        now[0] += work
        stamps.arrived()
    assert stamps.times == [5, 7, 9]
    assert stamps.paused_s == 200
