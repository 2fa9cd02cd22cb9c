"""The terminal claims no more than the report, and says what to type next."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from prune_exp.reporting.terminal import print_summary
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking.read import TrackedTrial, choose_best
from support.made_up_runs import figures, interval, trial

Show = Callable[..., str]


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Show:
    """What a terminal of 80 columns is shown of some trials."""
    monkeypatch.setenv("COLUMNS", "80")

    def print_and_read(
        trials: list[TrackedTrial],
        registered: str | None = None,
        tracking: TrackingSettings | None = None,
    ) -> str:
        best = choose_best(trials, "quality")
        print_summary(trials, best, Path("out"), registered, tracking or TrackingSettings())
        return capsys.readouterr().out

    return print_and_read


def test_figures_come_with_their_intervals_and_warnings(show: Show) -> None:
    busy = figures(0.3) | interval("speedup", 2.9, 0.91) | {"machine/load_per_core_start": 2.46}
    busy |= interval("memory_reduction_pct", 9.2, 0.4)
    text = show([trial(0, 0.3, metrics=busy)])
    assert "speedup 2.90x, 1.99 to 3.81x" in text
    assert "memory saved 9.2 %, 8.8 to 9.6 %" in text
    assert "-9.2 %" in text, "in the table memory goes down"
    assert "Warning: the machine was busy" in text
    assert "did not keep its quality" in text


def test_the_run_and_the_next_commands_can_be_copied(show: Show) -> None:
    one = trial(3)
    text = show([one], registered="pruned-tiny")
    assert f"run {one.run_id}" in text
    assert f"python -m prune_exp.promote run_id={one.run_id}\n" in text
    elsewhere = TrackingSettings(root="my runs", experiment="e")
    text = show([one], registered="pruned-tiny", tracking=elsewhere)
    assert f"run_id={one.run_id} tracking.experiment=e 'tracking.root='" in text
    assert "my runs" in text
    assert "promote" not in show([one]).partition("Next:")[2]


def test_columns_that_nothing_measured_are_left_out(show: Show) -> None:
    untimed = trial(0, metrics=figures(0.5, speed=False))
    text = show([untimed])
    assert "Speed" not in text
    assert "not" not in text.partition("Kept")[0]
    assert "PPL: perplexity, times the dense model's" in text
    bare = show([trial(0, metrics=figures(0.5, speed=False, quality=False))])
    assert "PPL" not in bare
    assert "Kept" not in bare


def test_reasons_of_failures_stand_below_the_table(show: Show) -> None:
    why = "TrialDied: the trial's process was killed by SIGKILL; running out of memory is usual"
    lost = trial(1, status="FAILED", metrics={})
    lost = replace(lost, name="pruning=depth voters=[wanda,activation]")
    lost.tags["prune_exp.error"] = why
    text = show([trial(0), lost])
    assert f"{lost.name}: {why}" in text
    assert text.count("TrialDied") == 1


def test_who_breaks_a_constraint_is_said_to(show: Show) -> None:
    one = trial(0)
    one.params["search.constraints"] = '["perplexity_ratio:0.5"]'
    text = show([one])
    assert "infeasible" in text
    assert "no model is registered" in text


def test_a_verdict_is_that_of_the_report(show: Show) -> None:
    """By itself where the correction for several trials takes it away; no loss in doubt."""
    two = [trial(0, 0.3), trial(1, 0.5)]
    two[0].metrics.update({"quality_maintained": 1.0, "quality_p_value": 0.02})
    two[1].metrics.update({"quality_maintained": 0.0, "quality_p_value": 0.9})
    two[1].metrics.update(interval("perplexity_ratio", 1.09, 0.05) | {"max_perplexity_ratio": 1.1})
    text = show(two)
    flat = " ".join(text.split())
    table = text.partition("Pruned:")[0]
    assert "by" in table
    assert "itself" in table
    assert "shown" in table
    two[0].metrics.update(interval("perplexity_ratio", 1.05, 0.01))
    assert "With Holm's correction for the 2 trials" in " ".join(show(two).split())
    doubted = two[1:]
    assert "promote judges it on other documents" in " ".join(show(doubted).split())
    assert "did not keep" not in flat
