"""Sweeps as studies: what is enumerated, searched, resumed, refused and survived."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import command, runs_in

from prune_exp.search import study as studies
from prune_exp.search.space import SearchRange, Space, read_space
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import SearchSettings
from prune_exp.tracking.metrics import metric_keys
from prune_exp.trial.app import check_numbers

CHEAP = ("benchmark=off", "search.objectives=[weights_read_ratio,bits_per_byte_increase]")


def study_in(folder: Path, name: str) -> Any:
    import optuna

    storage = studies.storage_of(SearchSettings(), folder / "mlruns")
    return optuna.load_study(study_name=name, storage=storage)


def states(folder: Path, name: str) -> list[str]:
    return [trial.state.name for trial in study_in(folder, name).trials]


def sparsities(runs: Sequence[Any]) -> list[str]:
    return [run.data.params["sparsity"] for run in runs]


def space(listed: dict[str, tuple[str, ...]], *searched: str) -> Space:
    one = SearchRange(low=0.1, high=0.9, integer=False, log=False)
    return Space(fixed=(), listed=listed, searched=dict.fromkeys(searched, one))


def new_study(tmp_path: Path, name: str = "s", **settings: Any) -> Any:
    search = SearchSettings(study_name=name, **settings)
    return studies.open_study(search, tmp_path, name, {"cost": "minimize"}, {"a": "1"})


def test_lists_multiply_and_each_point_is_left_until_it_has_a_result(tmp_path: Path) -> None:
    grid = space({"sparsity": ("0.3", "0.5"), "seed": ("0", "1")})
    study = new_study(tmp_path)
    rows = studies.remaining_rows(study, grid, n_trials=1)
    assert [(row["sparsity"], row["seed"]) for row in rows] == [
        ("0.3", "0"),
        ("0.3", "1"),
        ("0.5", "0"),
        ("0.5", "1"),
    ]
    for trial in studies.ask_trials(study, grid, rows[:2]):
        studies.tell_trial(study, trial.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    (lost,) = studies.ask_trials(study, grid, rows[2:3])
    studies.tell_trial(study, lost.number, {"cost": float("nan")}, {"cost": "minimize"}, {})
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert "cost is nan" in study.trials[2].user_attrs[studies.ERROR]
    assert studies.remaining_rows(study, grid, n_trials=1) == rows[2:]


def test_a_search_counts_all_trials_but_interrupted_ones_and_deals_lists_in_turn(
    tmp_path: Path,
) -> None:
    mixed = space({"seed": ("0", "1")}, "sparsity")
    study = new_study(tmp_path)
    rows = studies.remaining_rows(study, mixed, n_trials=5)
    assert [row["seed"] for row in rows] == ["0", "1", "0", "1", "0"]
    first, second, third = studies.ask_trials(study, mixed, rows[:3])
    assert [t.params["seed"] for t in (first, second, third)] == ["0", "1", "0"]
    assert all(0.1 <= t.params["sparsity"] <= 0.9 for t in (first, second, third))
    studies.tell_trial(study, first.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    studies.tell_trial(study, second.number, None, {"cost": "minimize"}, {}, "it broke")
    studies.interrupt_trial(study, third.number)
    assert [row["seed"] for row in studies.remaining_rows(study, mixed, n_trials=5)] == [
        "0",
        "1",
        "0",
    ]


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii", "gp", "qmc"])
def test_every_sampler_keeps_to_the_space_and_does_not_repeat_itself(
    sampler: str, tmp_path: Path
) -> None:
    inside = space({}, "sparsity", "vote_threshold")
    seen = set()
    for _start in range(2):
        study = new_study(tmp_path, sampler=sampler)
        for trial in studies.ask_trials(study, inside, [{}, {}, {}]):
            seen.add(trial.params["sparsity"])
            assert all(0.1 <= value <= 0.9 for value in trial.params.values())
            studies.tell_trial(study, trial.number, {"cost": 1.0}, {"cost": "minimize"}, {})
    assert len(seen) == 6


def test_constraints_decide_what_is_feasible(tmp_path: Path) -> None:
    from prune_exp.search.summary import describe_trial

    study = new_study(tmp_path)
    inside = space({}, "sparsity")
    for cost, ratio in ((1.0, 9.0), (2.0, 3.0)):
        (trial,) = studies.ask_trials(study, inside, [{}])
        found = {"cost": cost, "ratio": ratio}
        studies.tell_trial(study, trial.number, found, {"cost": "minimize"}, {"ratio": 5.0})
    assert [studies.is_feasible(trial) for trial in study.trials] == [False, True]
    assert study.best_trial.number == 1
    assert "infeasible" in describe_trial(study, 0, ["cost"])
    assert "best so far: trial 1" in describe_trial(study, 1, ["cost"])


def test_a_study_of_other_settings_is_refused_with_the_difference(tmp_path: Path) -> None:
    new_study(tmp_path)
    with pytest.raises(SettingError, match="a was 1 and is 2"):
        studies.open_study(SearchSettings(), tmp_path, "s", {"cost": "minimize"}, {"a": "2"})


def test_one_driver_at_a_time(tmp_path: Path) -> None:
    with (
        studies.sole_driver(tmp_path, "s"),
        pytest.raises(SettingError, match="another process"),
        studies.sole_driver(tmp_path, "s"),
    ):
        pass


def test_metric_keys_are_known_before_any_trial() -> None:
    everything = metric_keys(speed=True, quality=True)
    assert {"latency_ratio", "bits_per_byte_increase", "speedup_ci95_low"} <= set(everything)
    assert "seconds/prune" in everything
    assert "latency_ratio" not in metric_keys(speed=False, quality=True)
    assert "perplexity_ratio" not in metric_keys(speed=True, quality=False)


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
        (["benchmark=off"], "search.objectives=latency_ratio is unknown"),
        (["search.sampler=tpa"], "did you mean tpe?"),
        (["sparsity=interval(0.3,1.2)"], "sparsity=1.2 is not between"),
        (["sparsity=interval(0.6,0.2)"], "low < high"),
        (["search.n_trials=0"], "use search.n_trials=1 or more"),
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
    parent, *children = runs_in(tmp_path)
    assert parent.info.run_id == first[0].info.run_id
    assert sparsities(children)[:2] == sparsities(first[1:])
    assert len(set(sparsities(children))) == 3
    assert states(tmp_path, "X") == ["COMPLETE"] * 3
    plots = {path.name for path in (tmp_path / "mlruns" / "sweeps").glob("*/*/optuna/*.png")}
    assert {"pareto_front.png", "history_weights_read_ratio.png"} <= plots
    done = command(*arguments, "search.n_trials=3", "seed=1", cwd=tmp_path)
    assert "seed was 0 and is 1" in done.stderr
    assert done.returncode == 1


def test_the_configured_space_is_searched_by_m_alone(tiny_args: list[str], tmp_path: Path) -> None:
    done = command("-m", *tiny_args, "experiment=search", "search.n_trials=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pruning.depth_share=" in done.stderr
    (_, child) = runs_in(tmp_path)
    assert 0.1 <= float(child.data.params["sparsity"]) <= 0.6


def test_a_value_on_the_command_line_is_never_searched_over() -> None:
    default = ["sparsity=interval(0.1,0.7)", "vote_threshold=interval(0.2,1.0)"]
    given = read_space(["model=folder", "sparsity=0.5"], default, None)
    assert given.rows == [{}]
    assert not given.searched
    assert given.fixed == ("model=folder", "sparsity=0.5")
    assert read_space(["model=folder"], default, None).searched.keys() == {
        "sparsity",
        "vote_threshold",
    }


KILLER = """
import importlib.abc, importlib.machinery, os, signal, sys
WHERE, WHOM, FLAG = (os.environ[name] for name in ("KILL_AT", "KILL_WHOM", "KILL_FLAG"))
MODULE, NAME = WHERE.split(":")

def deadly(function):
    def call(*args, **kwargs):
        after = WHOM.endswith("after")
        answer = function(*args, **kwargs) if after else None
        try:
            os.close(os.open(FLAG, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return answer if after else function(*args, **kwargs)
        os.kill(os.getppid() if WHOM.startswith("driver") else os.getpid(), signal.SIGKILL)
        signal.pause()
    return call

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            setattr(module, NAME, deadly(getattr(module, NAME)))
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def start(arguments: list[str], folder: Path, where: str, whom: str) -> tuple[int, str]:
    """Runs the command; the first call of a function kills a process, by SIGKILL, once."""
    (folder / "killer").mkdir(exist_ok=True)
    (folder / "killer" / "sitecustomize.py").write_text(KILLER, encoding="utf-8")
    path = os.pathsep.join([str(folder / "killer"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, "-m", "prune_exp", *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ
        | {
            "PYTHONPATH": path,
            "KILL_AT": where,
            "KILL_WHOM": whom,
            "KILL_FLAG": str(folder / "killed"),
        },
        check=False,
        timeout=300,
    )
    assert (folder / "killed").exists(), "nothing was killed"
    return process.returncode, process.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        "prune_exp.pruning.calibration:compute_statistics",
        "prune_exp.pruning.surgery:carry_out_plan",
        "prune_exp.model.loading:save_model",
        "prune_exp.measurement.benchmark:measure_pair",
    ],
)
def test_a_killed_trial_fails_in_both_stores_and_the_others_go_on(
    where: str, tiny_args: list[str], tmp_path: Path
) -> None:
    arguments = ["-m", *tiny_args, "search.study_name=X", "sparsity=0.3,0.5"]
    if where != "prune_exp.measurement.benchmark:measure_pair":
        arguments.append("benchmark=off")
    code, errors = start(arguments, tmp_path, where, "self")
    assert code == 1, errors
    parent, first, second = runs_in(tmp_path)
    assert (first.info.status, second.info.status) == ("FAILED", "FINISHED")
    assert "SIGKILL" in first.data.tags["prune_exp.error"]
    assert parent.info.status == "FAILED"
    assert states(tmp_path, "X") == ["FAIL", "COMPLETE"]
    assert not list((tmp_path / "mlruns").rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "whom", "finished"),
    [
        ("prune_exp.pruning.surgery:carry_out_plan", "driver", 0),
        ("prune_exp.tracking.runs:end_trial", "self after", 1),
        ("prune_exp.search.study:tell_trial", "self after", 1),
        ("prune_exp.reporting.write:write_report", "self", 2),
    ],
)
def test_a_killed_driver_loses_nothing_that_had_finished(
    where: str, whom: str, finished: int, tiny_args: list[str], tmp_path: Path
) -> None:
    arguments = ["-m", *tiny_args, "benchmark=off", "search.study_name=X", "sparsity=0.3,0.5"]
    code, _ = start(arguments, tmp_path, where, whom)
    assert code == -signal.SIGKILL
    time.sleep(1)
    before = {run.info.run_id: run for run in runs_in(tmp_path)}
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    parent, *children = runs_in(tmp_path)
    assert parent.info.run_id in before
    assert "RUNNING" not in {run.info.status for run in (parent, *children)}
    assert parent.info.status == "FINISHED"
    good = [run for run in children if run.info.status == "FINISHED"]
    assert sparsities(good) == ["0.3", "0.5"]
    kept = [run for run in good if run.info.run_id in before]
    assert len(kept) == finished
    assert "RUNNING" not in states(tmp_path, "X")
    assert states(tmp_path, "X").count("COMPLETE") == 2
    assert list((tmp_path / "mlruns" / "sweeps").glob("*/*/report.md"))


def test_a_sweep_stops_after_enough_failures(tiny_args: list[str], tmp_path: Path) -> None:
    arguments = ["benchmark.timeout_s=1", "search.max_failures=1", "sparsity=0.3,0.5,0.7"]
    done = command("-m", *tiny_args, *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "stopped after 1 failed trials" in done.stderr
    assert len(runs_in(tmp_path)) == 2
