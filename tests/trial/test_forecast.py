"""A forecast is that of runs that did the same work, else that of sizes."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from prune_exp.settings.groups import TrackingSettings
from prune_exp.settings.params import flatten_settings
from prune_exp.settings.schema import Settings
from prune_exp.tracking.read import TrackedTrial
from prune_exp.trial.forecast import (
    PROCESS_S,
    Rates,
    forecast_points,
    forecast_trial,
    measure_reached,
)
from prune_exp.trial.prepare import prepare_trial
from support.made_up_runs import store_sweep, trial
from support.settings import settings_for

RATES = Rates(flop_per_s=50e9, judging_flop_per_s=50e9, bytes_per_s=8e9)


@pytest.fixture
def settings(tiny_folder: Path, text_file: Path, tmp_path: Path) -> Settings:
    return settings_for(tiny_folder, text_file, tmp_path / "cache", calibration="documents")


def ran(settings: Settings, seconds: float, mib: float = 500.0) -> TrackedTrial:
    metrics = {"seconds/load": 1.0, "seconds/prune": seconds - 1.0, "peak_memory_mib/prune": mib}
    return trial(params=flatten_settings(settings), metrics=metrics)


def test_runs_that_did_the_same_work_say_how_long_it_takes(settings: Settings) -> None:
    inputs = prepare_trial(settings, write=False)
    other = replace(settings, quality=replace(settings.quality, enabled=False))
    denser = replace(settings, sparsity=0.2, seed=3)
    past = [ran(denser, 30), ran(other, 9000), ran(settings, 50, 700.0), ran(settings, 400)]
    found = forecast_trial(settings, inputs, past, RATES)
    assert found.runs == 3
    assert found.seconds == PROCESS_S + 50
    assert found.memory_mib == 700
    assert forecast_trial(settings, inputs, [ran(other, 9000)], RATES).runs == 0
    before = ran(settings, 20)
    for name, without in (("reconstruct_epochs", 0), ("rehearse_layers", False)):
        older = replace(before, params={**before.params})
        del older.params[f"pruning.{name}"]
        assert forecast_trial(settings, inputs, [older], RATES).runs == 0, name
        pruning = replace(settings.pruning, **{name: without})  # pyright: ignore[reportArgumentType]
        assert forecast_trial(replace(settings, pruning=pruning), inputs, [older], RATES).runs == 1


def test_by_sizes_more_work_takes_longer(settings: Settings) -> None:
    inputs = prepare_trial(settings, write=False)

    def seconds(**changes: object) -> float:
        changed = replace(settings, **changes)  # pyright: ignore[reportArgumentType]
        return forecast_trial(changed, inputs, [], RATES).seconds

    plain = seconds()
    benchmark = replace(settings.benchmark, enabled=True)
    timed = seconds(benchmark=benchmark)
    assert timed > plain
    assert seconds(benchmark=replace(benchmark, max_rounds=50)) > timed
    trained = seconds(recovery=replace(settings.recovery, name="distill", minutes=15))
    assert trained == pytest.approx(plain + 900)
    both = replace(settings.recovery, name="distill", minutes=15, tokens=1000)
    assert plain < seconds(recovery=both) < trained
    assert seconds(data=replace(settings.data, calibration_blocks=10**6)) > plain
    assert seconds(pruning=replace(settings.pruning, refit=False)) < plain
    assert seconds(pruning=replace(settings.pruning, rehearse=[0.2])) > plain
    assert seconds(pruning=replace(settings.pruning, elect=True)) > plain
    assert seconds(pruning=replace(settings.pruning, rehearse_vocab=[0.0])) > plain
    voted = replace(settings.pruning, rehearse_layers=False)
    assert seconds(pruning=replace(voted, rehearse=[0.2])) > seconds(pruning=voted)
    assert seconds(pruning=voted) < plain
    deeper = replace(settings.pruning, depth_share=1.0)
    longer = seconds(pruning=replace(deeper, reconstruct_epochs=2000))
    assert longer > seconds(pruning=deeper) > seconds(pruning=replace(deeper, reconstruct_epochs=0))
    wide = replace(settings.pruning, depth_share=0.0)
    trained = replace(wide, reconstruct_epochs=2000)
    assert seconds(pruning=trained, sparsity=0.05) == seconds(pruning=wide, sparsity=0.05)


def test_a_machine_that_is_twice_as_fast_takes_half_as_long(settings: Settings) -> None:
    """All but starting processes, of which there are two."""
    inputs = prepare_trial(settings, write=False)
    fast = Rates(**{name: 2 * value for name, value in asdict(RATES).items()})
    slow, half = (forecast_trial(settings, inputs, [], rates) for rates in (RATES, fast))
    assert slow.seconds - 2 * PROCESS_S == pytest.approx(2 * (half.seconds - 2 * PROCESS_S))
    assert slow.shared_s == pytest.approx(2 * half.shared_s)


def test_this_machine_reaches_something() -> None:
    found = measure_reached("cpu")
    assert all(1e6 < value < 1e15 for value in asdict(found).values())


def test_what_is_said_is_what_will_be_done(settings: Settings) -> None:
    inputs = prepare_trial(settings, write=False)
    settings.benchmark.enabled = True
    settings.pruning.rehearse = [0.2]
    settings.recovery = replace(settings.recovery, name="distill", tokens=1000)
    found = forecast_trial(settings, inputs, [], RATES)
    assert found.steps == (
        "rehearse plans",
        "prune",
        "train for 1000 tokens",
        "judge 20 blocks",
        "time 20 prompts",
    )
    assert found.memory_mib > 1024


def test_the_stores_own_runs_are_asked_and_no_store_is_made(
    settings: Settings, tmp_path: Path
) -> None:
    root = tmp_path / "mlruns"
    settings.tracking = TrackingSettings(root=str(root))
    (alone,) = forecast_points([settings])
    assert alone.runs == 0
    assert not root.exists()
    store_sweep(root, [ran(settings, 60)])
    again, swept = forecast_points([settings, replace(settings, sparsity=0.3)])
    assert again.seconds == swept.seconds == PROCESS_S + 60
