"""A sweep's own run says what it has come to."""

import math
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from prune_exp.tracking import runs, tags
from prune_exp.tracking.outcome import hypervolume, sweep_outcome
from prune_exp.tracking.read import choose_best, read_trials
from support.made_up_runs import store_sweep, trial

RULE = "speedup_if_maintained"


def point(speedup: float, ratio: float, **more: float) -> dict[str, float]:
    return {"speedup": speedup, "perplexity_ratio": ratio} | more


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([point(1.5, 1.0)], 0.5),
        ([point(1.5, 2.0)], 0.25),
        ([point(1.5, 1.0), point(2.0, 2.0)], 0.5 + 0.5 * 0.5),
        ([point(1.5, 1.0), point(1.4, 1.1)], 0.5),
        ([point(0.8, 1.0)], 0.0),
        ([point(1.5, math.nan), point(math.nan, 1.0), point(1.5, math.inf)], 0.0),
        ([point(1.5, 1.0), point(math.nan, 1.0)], 0.5),
        ([{"speedup": 2.0}, {"perplexity_ratio": 1.0}], None),
        ([], None),
    ],
)
def test_the_hypervolume_counts_each_part_once(points: Any, area: float | None) -> None:
    for order in (points, points[::-1]):
        found = hypervolume(order)
        assert found == (None if area is None else pytest.approx(area))


def test_the_hypervolume_takes_the_speed_for_equal_text() -> None:
    equal = {"text_speedup": 1.2, "text_speedup_ci95_low": 1.1, "text_speedup_ci95_high": 1.3}
    assert hypervolume([point(1.5, 1.0, **equal)]) == pytest.approx(0.2)


def test_how_trials_ended_is_counted() -> None:
    trials = [
        trial(0, 0.3),
        trial(1, 0.5),
        trial(2, status="FAILED", metrics={}),
        trial(3, status="FAILED", metrics={}, tags={tags.INTERRUPTED: "true"}),
        trial(4, status="KILLED", metrics={}),
        trial(5, status="RUNNING", metrics={}),
        trial(6, metrics={}, tags={tags.STOPPED: "perplexity_ratio is at least 9"}),
    ]
    found = sweep_outcome(trials, choose_best(trials, RULE))
    counts = {key: value for key, value in found.items() if key.startswith("trials_")}
    ended = {"trials_failed": 1, "trials_interrupted": 2, "trials_stopped": 1}
    assert counts == {"trials_finished": 2, **ended}
    assert found["speedup"] in (1.3, 1.5)
    assert found["memory_reduction_pct"] > 0
    nothing = sweep_outcome(trials[2:], None)
    assert nothing == {"trials_finished": 0, **ended}


def test_a_sweep_shows_its_outcome_while_it_goes_on(tmp_path: Path) -> None:
    root, (first, _) = store_sweep(tmp_path, [trial(0, 0.3), trial(1, 0.5, status="FAILED")])
    runs.show_outcome(root, RULE)
    client = MlflowClient()
    data = client.get_run(root).data
    assert data.metrics["trials_finished"] == 1
    assert data.metrics["speedup"] == client.get_run(first).data.metrics["speedup"]
    assert data.tags[tags.BEST_RUN] == first
    runs.show_outcome(root, RULE)
    assert [m.step for m in client.get_metric_history(root, "hypervolume")] == [2], "said once"
    trials = read_trials(root)
    runs.log_outcome(root, [*trials, trial(2, 0.6)], choose_best(trials, RULE))
    history = client.get_metric_history(root, "trials_finished")
    assert [(m.step, m.value) for m in history] == [(2, 1.0), (3, 2.0)]


def test_a_store_that_does_not_answer_hears_of_the_outcome_later(tmp_path: Path) -> None:
    root, _ = store_sweep(tmp_path, [trial()])
    runs.show_outcome("0" * 32, RULE)
    assert "trials_finished" not in MlflowClient().get_run(root).data.metrics
