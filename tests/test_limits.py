"""Bytes and operations by hand; what the machine and the memory accounting say."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import eager_serving, make_tiny, make_tokenizer

from prune_exp.measurement import bandwidth, conditions
from prune_exp.measurement.footprint import Footprint, footprint_of
from prune_exp.measurement.worker import Worker
from prune_exp.reporting.batches import batch_labels, batch_name
from prune_exp.reporting.plots.roofline import draw_roofline
from prune_exp.settings.checks import check_settings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import BenchmarkSettings, DataSettings, ModelSettings
from prune_exp.settings.schema import Settings
from prune_exp.tracking.metrics import metric_keys
from prune_exp.trial.prepare import check_lengths

LAYER = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
"""Queries and output, keys and values, three matrices of the MLP, two norms."""
MULTIPLIED = 4 * LAYER + 32
TABLE = 300 * 32
KV_OF_TOKEN = 2 * 2 * 8 * 4
"""Bytes of a layer's keys and values of two heads of eight fp32 numbers."""


def test_bytes_of_a_tied_model_count_the_head_and_all_matrices_once() -> None:
    found = footprint_of(make_tiny("llama"))
    assert found.weight_bytes == found.weight_bytes_read == 4 * (MULTIPLIED + TABLE)
    assert (found.weights_multiplied, found.head_params) == (MULTIPLIED, TABLE)


def test_bytes_of_an_untied_model_count_one_row_of_the_embedding() -> None:
    found = footprint_of(make_tiny("llama", tie=False))
    assert found.weight_bytes == 4 * (MULTIPLIED + 2 * TABLE)
    assert found.weight_bytes_read == 4 * (MULTIPLIED + TABLE + 32)
    assert found.weights_multiplied == MULTIPLIED


def test_positions_are_a_table_of_which_one_row_is_read() -> None:
    model = make_tiny("gpt2")
    found = footprint_of(model)
    positions = model.transformer.wpe.weight.numel()
    assert found.weight_bytes - found.weight_bytes_read == 4 * (positions - 32)


def test_keys_and_values_by_hand() -> None:
    found = footprint_of(make_tiny("llama"))
    assert found.kv_bytes(10) == 10 * 4 * KV_OF_TOKEN
    # two steps after the first token: they attend to 6 and 7 tokens
    assert found.kv_bytes_read(5, 3) == 6.5 * 4 * KV_OF_TOKEN
    assert found.decode_bytes(2, 5, 3) == 4 * (MULTIPLIED + TABLE) + 2 * 6.5 * 4 * KV_OF_TOKEN
    step = 2 * (MULTIPLIED + TABLE) + 4 * 4 * 8 * 6.5 * 4
    assert found.decode_flop(3, 5, 3) == 3 * step


def windowed(*windows: int) -> Footprint:
    return Footprint(
        weight_bytes=0,
        weight_bytes_read=0,
        weights_multiplied=0,
        head_params=0,
        query_heads=1,
        kv_heads=1,
        head_dim=1,
        windows=windows,
        element_bytes=1,
    )


@pytest.mark.parametrize("window", [0, 3, 4, 50])
def test_windows_limit_what_is_attended_to(window: int) -> None:
    found, most = windowed(window), window or 10**9
    assert found.prefill_flop(7) == 4 * sum(min(i, most) for i in range(1, 8))
    assert found.kv_bytes_read(7, 3) == 2 * (min(8, most) + min(9, most)) / 2


@pytest.mark.parametrize("window", [0, 3, 40])
def test_a_preallocated_cache_is_held_and_read_whole(window: int) -> None:
    found = replace(windowed(0, window), cache_tokens=20)
    inside = min(window or 20, 20)
    assert found.kv_bytes(7) == 2 * (20 + inside)
    assert found.kv_bytes_read(7, 3) == 2 * (20 + inside)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2"])
def test_the_cache_is_as_large_as_shapes_say(model_type: str, tmp_path: Path) -> None:
    make_tiny(model_type).save_pretrained(tmp_path)
    worker = Worker(eager_serving(tmp_path))
    worker.generate([list(range(1, 13))] * 3, 5)
    memory = worker.memory()
    assert memory["kv_cache_mib"] * 2**20 == 3 * worker.served.footprint.kv_bytes(16)


def test_the_peak_is_the_kernels_and_does_not_fall(tiny_folder: Path) -> None:
    worker = Worker(eager_serving(tiny_folder))
    before = worker.memory()["peak_memory_mib"]
    big = torch.ones(64 * 2**18)
    del big
    assert worker.memory()["peak_memory_mib"] > before + 50


def test_bandwidth_is_measured_in_a_fresh_process() -> None:
    found = bandwidth.measure_bandwidth(1, 120)
    assert found["read_bandwidth_gb_per_s"] > 0.1
    assert found["copy_bandwidth_gb_per_s"] > 0.1
    assert found["buffer_mib"] > 2 * found["last_level_cache_mib"]


def test_buffers_exceed_the_cache_and_fit_the_memory(tmp_path: Path) -> None:
    (tmp_path / "index0").mkdir()
    (tmp_path / "index3").mkdir()
    (tmp_path / "index0" / "size").write_text("32K\n")
    (tmp_path / "index3" / "size").write_text("64M\n")
    assert bandwidth.last_level_cache_mib(tmp_path) == 64
    assert bandwidth.last_level_cache_mib(tmp_path / "none") == 0
    assert bandwidth.buffer_mib(64, 100_000) == 512
    assert bandwidth.buffer_mib(0, 100_000) == 256
    assert bandwidth.buffer_mib(64, 400) == 100


def test_rates_take_the_best_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 4.0, 10.0, 12.0, 20.0, 23.0])
    monkeypatch.setattr(bandwidth.time, "perf_counter", lambda: next(times))
    assert bandwidth.best_rate(lambda: None, 10.0, repetitions=3) == 5.0


def test_an_unreadable_governor_is_said_to_be_so(tmp_path: Path) -> None:
    assert conditions.read_governor(tmp_path / "nothing") == "not readable"
    (tmp_path / "governor").write_text("performance\n")
    assert conditions.read_governor(tmp_path / "governor") == "performance"


def test_load_is_given_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 2.0, 1.0))
    found = conditions.load_at_start(lambda interval: 40.0 + interval, seconds=1)
    assert found["load_per_core_start"] == 3.0 / conditions.available_threads()
    assert found["busy_pct_start"] == 41.0


def test_names_of_metrics_carry_batch_size_and_prompt_length() -> None:
    settings = BenchmarkSettings(batch_sizes=[1, 8], prompt_tokens=[16, 64])
    keys = metric_keys(speed=True, quality=False, batches=list(settings.batches))
    assert {"throughput_b8_p64_ratio", "dense/throughput_b1_p16_tokens_per_s"} <= set(keys)
    assert batch_labels(dict.fromkeys(keys, 1.0)) == [
        "b1_p16",
        "b1_p64",
        "b8_p16",
        "b8_p64",
    ]
    assert "throughput_b8_gain_pct" in metric_keys(speed=True, quality=False)
    assert batch_name("b8_p64") == "batch 8, 64-token prompts"


def test_prompts_that_the_model_has_no_room_for_are_refused() -> None:
    config = make_tiny("llama").config
    check_lengths(BenchmarkSettings(prompt_tokens=[250], new_tokens=6), config)
    with pytest.raises(SettingError, match=r"exceed the model's 256 positions"):
        check_lengths(BenchmarkSettings(prompt_tokens=[250], new_tokens=7), config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_sizes": []}, "batch_sizes is empty"),
        ({"batch_sizes": [8, 0]}, "batch_sizes=0 is too small"),
        ({"target_ci_pct": 0.0}, "target_ci_pct=0 is too small"),
        ({"budget_s": -1.0}, "budget_s=-1 is too small"),
    ],
)
def test_impossible_measurements_are_refused(change: dict[str, object], words: str) -> None:
    settings = Settings(model=ModelSettings(path="m"), data=DataSettings(path="t"))
    settings.pruning.voters = ["wanda"]
    check_settings(settings)
    for name, value in change.items():
        setattr(settings.benchmark, name, value)
    with pytest.raises(SettingError, match=words):
        check_settings(settings)


def test_the_self_check_goes_the_way_of_a_trial(tmp_path: Path) -> None:
    make_tiny("llama").save_pretrained(tmp_path / "m")
    make_tokenizer().save_pretrained(tmp_path / "m")
    arguments = ["--repetitions", "1", "model=folder", f"model.path={tmp_path / 'm'}"]
    arguments += [f"cache_dir={tmp_path}", "benchmark.prompts=4", "benchmark.new_tokens=3"]
    arguments += ["benchmark.max_rounds=2", "benchmark.min_pairs=6", "benchmark.threads=1"]
    done = subprocess.run(
        [sys.executable, "-m", "prune_exp.self_check", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1)
    first, last = done.stdout.strip().splitlines()
    assert first.startswith("1: ratio ")
    assert "95 % interval" in first
    assert any(f"stopped by {why}" in first for why in ("rounds", "target_ci"))
    assert last.startswith(("1 of 1 intervals", "0 of 1 intervals"))
    assert ("not passed" in last) == (done.returncode == 1)
    assert {path.name for path in tmp_path.iterdir()} <= {"m", "digests"}


def test_a_wrong_override_of_the_self_check_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prune_exp.self_check", "benchmark.thread=2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "did you mean benchmark.threads?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_roofline_is_drawn_from_metrics_alone(tmp_path: Path) -> None:
    keys = metric_keys(speed=True, quality=False, batches=["b1", "b8"])
    chosen = {key: 1.0 + place / 100 for place, key in enumerate(keys)}
    draw_roofline(json.loads(json.dumps(chosen)), tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
