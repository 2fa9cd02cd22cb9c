"""Sweeps go on where they stopped and say in one line what they cannot do."""

import sys
from pathlib import Path
from typing import Any

import pytest

from prune_exp.search.space import read_space
from prune_exp.settings.groups import SearchSettings
from prune_exp.trial.app import check_numbers
from support.cli import command, runs_in, slow_measured_processes
from support.studies import sparsities, states

CHEAP = ("benchmark=off", "search.objectives=[weights_read_ratio,bits_per_byte_increase]")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_objective_that_is_no_number_fails_the_trial(value: float) -> None:
    with pytest.raises(ValueError, match=r"speedup is (nan|inf)"):
        check_numbers({"speedup": value, "other": value}, ["speedup", "latency_ratio"])
    check_numbers({"speedup": 1.0, "other": value}, ["speedup"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search.objectives=[latency_ratoi]"], "did you mean latency_ratio?"),
        (["search.constraints=[perplexity_rato:2]"], "did you mean perplexity_ratio?"),
        (["search.constraints=[speedup]"], "is not metric:most"),
        (["search.objectives=[speedup:maximise]"], "did you mean maximize?"),
        (["benchmark=off"], "benchmark=off does not measure latency_ratio"),
        (["search.sampler=tpa"], "did you mean tpe?"),
        (["sparsity=interval(0.3,1.2)"], "sparsity=1.2 is not between"),
        (["sparsity=interval(0.6,0.2)"], "low < high"),
        (["sparsity=0.3,0.4", "goal.file_mib=0.01"], "goal.file_mib=0.01 is out of reach"),
        (["goal.file_mib=1,2"], "goal.file_mib is one goal for all trials"),
        (["optimized_metric=speedup"], "type search.objectives=[speedup]"),
        (["hydra/sweeper=basic", "sparsity=0.3", "optimized_metric=sped"], "optimized_metric=sped"),
        (["hydra/sweeper=basic", "sparsity=0.3", "plan=true"], "leave out the other sweeper"),
        (["search.n_trials=0"], "use search.n_trials=1 or more"),
        (["search.max_failures=0"], "use search.max_failures=1 or more"),
    ],
)
def test_bad_searches_are_one_line(
    arguments: list[str], words: str, tiny_args: list[str], tmp_path: Path
) -> None:
    done = command("-m", *tiny_args, "hydra.sweep.dir=out", *arguments, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 1
    assert len(lines) == 1, done.stderr
    assert words in lines[0]
    assert not (tmp_path / "mlruns").exists()


def test_a_search_goes_on_where_it_stopped(tiny_args: list[str], tmp_path: Path) -> None:
    arguments = ["-m", *tiny_args, *CHEAP, "search.study_name=X", "sparsity=interval(0.2,0.6)"]
    done = command(*arguments, "search.n_trials=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Pareto front" in done.stdout
    assert "trial 1: sparsity=" in done.stderr
    first = runs_in(tmp_path)
    done = command(*arguments, "search.n_trials=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nothing is left to run" not in done.stderr
    parent, *children = runs_in(tmp_path)
    assert parent.info.run_id == first[0].info.run_id
    assert sparsities(children)[:2] == sparsities(first[1:])
    assert len(set(sparsities(children))) == 3
    assert states(tmp_path, "X") == ["COMPLETE"] * 3
    assert parent.data.metrics["importance/weights_read_ratio/sparsity"] == 1.0
    plots = {path.name for path in (tmp_path / "mlruns" / "sweeps").glob("*/*/optuna/*.png")}
    assert {"pareto_front.png", "history_weights_read_ratio.png"} <= plots
    done = command(*arguments, "search.n_trials=3", cwd=tmp_path)
    assert "every point has a result; nothing is left to run" in done.stderr
    assert done.returncode == 0
    assert len(runs_in(tmp_path)) == 4
    done = command(*arguments, "search.n_trials=3", "seed=1", cwd=tmp_path)
    assert "seed was 0 and is 1" in done.stderr
    assert done.returncode == 1


def test_a_trial_that_cannot_meet_a_constraint_ends_early_and_once(
    tiny_args: list[str], tmp_path: Path
) -> None:
    limit = "search.constraints=[weights_read_ratio:0.7]"
    arguments = ["-m", *tiny_args, *CHEAP, limit, "search.study_name=X", "sparsity=0.2,0.5"]
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert states(tmp_path, "X") == ["PRUNED", "COMPLETE"]
    _, early, late = runs_in(tmp_path)
    assert early.info.status == late.info.status == "FINISHED"
    why = early.data.tags["prune_exp.stopped"]
    assert why.startswith("weights_read_ratio is 0.8")
    assert {"params_pruned_pct", "seconds/load"} <= early.data.metrics.keys()
    assert "seconds/export" not in early.data.metrics
    assert "prune_exp.stopped" not in late.data.tags
    assert "stopped" in done.stdout
    assert f"s=0.20 t=0.50: {why}" in done.stdout
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "every point has a result" in done.stderr
    assert len(runs_in(tmp_path)) == 3


def test_where_no_trial_can_meet_a_constraint_there_is_no_model_and_no_failure(
    tiny_args: list[str], tmp_path: Path
) -> None:
    limit = "search.constraints=[file_mib:0.001]"
    done = command("-m", *tiny_args, *CHEAP, limit, "sparsity=0.2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "No trial finished" in done.stdout


def test_the_configured_space_is_searched_by_m_alone(tiny_args: list[str], tmp_path: Path) -> None:
    done = command("-m", *tiny_args, "experiment=search", "search.n_trials=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pruning.depth_share=" in done.stderr
    (_, child) = runs_in(tmp_path)
    assert 0.1 <= float(child.data.params["sparsity"]) <= 0.6


def test_a_value_on_the_command_line_is_never_searched_over() -> None:
    default = ["sparsity=interval(0.1,0.7)", "vote_threshold=interval(0.2,1.0)"]
    given = read_space(["model=folder", "sparsity=0.5"], default, None)
    assert given.rows == [{"sparsity": "0.5"}]
    assert not given.searched
    assert given.fixed == ("model=folder",)
    both = read_space(["vote_threshold=0.4", "seed=1", "sparsity=0.5,0.3"], default, None)
    assert both.listed == {"sparsity": ("0.5", "0.3"), "vote_threshold": ("0.4",)}
    assert both.fixed == ("seed=1",)
    searched = read_space(["vote_threshold=0.4", "sparsity=interval(0.2,0.3)"], default, None)
    assert searched.fixed == ("vote_threshold=0.4",)
    assert read_space(["model=folder"], default, None).searched.keys() == {
        "sparsity",
        "vote_threshold",
    }


def test_a_sweep_stops_after_enough_failures(tiny_args: list[str], tmp_path: Path) -> None:
    arguments = ["benchmark.timeout_s=1", "search.max_failures=1", "sparsity=0.3,0.5,0.7"]
    done = command(
        "-m", *tiny_args, *arguments, cwd=tmp_path, env=slow_measured_processes(tmp_path)
    )
    assert done.returncode == 1
    assert "stopped after 1 failed trials" in done.stderr
    assert len(runs_in(tmp_path)) == 2
    assert not list((tmp_path / "mlruns").rglob("*.safetensors")), "a failed trial leaves no model"


@pytest.mark.parametrize(
    ("launcher", "free_mib", "expected"),
    [
        ("BasicLauncher", 1e6, 1),
        ("JoblibLauncher", 1e6, 64),
        ("JoblibLauncher", 32_000, 10),
        ("JoblibLauncher", 100, 1),
        ("RayLauncher", 32_000, 10),
    ],
)
def test_as_many_trials_at_a_time_as_fit_into_the_memory(
    launcher: str, free_mib: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prune_exp.search import sweep

    monkeypatch.setattr(sweep, "available_memory_mib", lambda: free_mib)
    monkeypatch.setattr(sweep, "available_threads", lambda: 64)
    hydra = sweep.HydraSide(config=None, context=None, launcher=type(launcher, (), {})())
    assert hydra.trials_at_a_time(3000) == expected


@pytest.mark.parametrize(
    ("launcher", "own", "expected"),
    [
        ("JoblibLauncher", {"joblib": {"n_jobs": 2}}, (2, 2)),
        ("JoblibLauncher", {"joblib": {"n_jobs": 1}}, (1, 1)),
        ("JoblibLauncher", {"joblib": {"n_jobs": 64}}, (3, 64)),
        ("SlurmLauncher", {"params": {"array_parallelism": 256}}, (3, 256)),
        ("SlurmLauncher", {"params": {"array_parallelism": 2}}, (2, 2)),
        ("LocalLauncher", {"params": {}}, (3, sys.maxsize)),
        ("RayLauncher", {}, (3, None)),
        ("SomebodysLauncher", {}, (3, None)),
    ],
)
def test_no_more_trials_run_than_the_launcher_has_workers_for(
    launcher: str, own: dict[str, Any], expected: tuple[int, int | None]
) -> None:
    from prune_exp.search import sweep

    hydra = sweep.HydraSide(config=None, context=None, launcher=type(launcher, (), own)())
    found = sweep._choose_number(hydra, SearchSettings(parallel=3), 3000)
    assert (found, hydra.most_side_by_side) == expected


@pytest.mark.parametrize(
    ("launcher", "wanted", "expected"),
    [("BasicLauncher", 2, 1), ("BasicLauncher", None, 1), ("RayLauncher", 2, 2)],
)
def test_what_the_basic_launcher_cannot_do_is_said(
    launcher: str, wanted: int | None, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    from prune_exp.search import sweep
    from prune_exp.settings.surroundings import forget_said

    forget_said()
    hydra = sweep.HydraSide(config=None, context=None, launcher=type(launcher, (), {})())
    found = sweep._choose_number(hydra, SearchSettings(parallel=wanted), 3000)
    assert found == expected
    said = capsys.readouterr().err
    assert ("hydra/launcher=joblib" in said) == (launcher == "BasicLauncher" and wanted == 2)
