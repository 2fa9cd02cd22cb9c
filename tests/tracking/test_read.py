"""The best trial is chosen by the rule, of those that meet the constraints."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import tags
from prune_exp.tracking.read import (
    Choice,
    TrackedTrial,
    choose_best,
    count_failed_points,
    describe_correction,
    find_latest,
    kept_after_correction,
    read_trials,
)
from support import made_up_runs
from support.made_up_runs import store_sweep


def trial(
    name: str, speedup: float, ratio: float, *, kept: bool, constraints: str = "[]"
) -> TrackedTrial:
    metrics = {"speedup": speedup, "perplexity_ratio": ratio, "quality_maintained": float(kept)}
    return TrackedTrial(
        run_id=name,
        name=name,
        status="FINISHED",
        number=0,
        metrics=metrics,
        params={"search.constraints": constraints},
        tags={},
    )


def best_of(trials: list[TrackedTrial], rule: str = "speedup_if_maintained") -> Choice:
    found = choose_best(trials, rule)
    assert found is not None
    return found


def test_best_is_fastest_of_the_maintained_else_best_quality() -> None:
    slow = trial("slow", 1.1, 1.02, kept=True)
    fast = trial("fast", 1.3, 1.08, kept=True)
    wild = trial("wild", 2.0, 9.0, kept=False)
    rule = "speedup_if_maintained"
    first = choose_best([slow, fast, wild], rule)
    assert first is not None
    assert first.trial is fast
    worse = trial("worse", 1.5, 3.0, kept=False)
    second = choose_best([wild, worse], rule)
    assert second is not None
    assert second.trial is worse
    assert "best quality" in second.rule
    assert choose_best([], rule) is None


def test_speed_is_that_for_equal_text() -> None:
    from support.made_up_runs import interval

    plain = trial("plain", 1.02, 1.0, kept=True)
    cut = trial("cut", 1.05, 1.0, kept=True)
    cut.metrics.update(interval("text_speedup", 0.97, 0.01))
    plain.metrics.update(interval("text_speedup", 1.02, 0.01))
    for rule in ("speedup", "speedup_if_maintained"):
        found = choose_best([plain, cut], rule)
        assert found is not None
        assert found.trial is plain
        assert "for equal text" in found.rule


@pytest.mark.parametrize("rule", ["speedup_if_maintained", "speedup", "quality"])
def test_who_breaks_a_constraint_is_not_the_best(rule: str) -> None:
    limits = '["perplexity_ratio:1.5", "latency_ratio:0.9"]'
    wild = trial("wild", 9.0, 1.6, kept=True, constraints=limits)
    slow = trial("slow", 1.1, 1.4, kept=True, constraints=limits)
    slow.metrics["latency_ratio"] = wild.metrics["latency_ratio"] = 0.9
    unmeasured = trial("unmeasured", 8.0, 1.0, kept=True, constraints=limits)
    no_number = trial("no number", 8.0, float("nan"), kept=True, constraints=limits)
    no_number.metrics["latency_ratio"] = 0.5
    found = best_of([wild, unmeasured, no_number, slow], rule)
    assert (found.trial, found.feasible) == (slow, True)
    assert found.rule.endswith("of those that met search.constraints")


def test_who_was_ended_early_has_no_result_but_was_judged() -> None:
    kept = judged("kept", 0.02)
    stopped = replace(trial("stopped", 9, 1.0, kept=False), tags={tags.STOPPED: "too large"})
    del stopped.metrics["quality_maintained"]
    assert kept_after_correction([kept, stopped]) == {"kept"}
    stopped.metrics["stopped/after_blocks"] = 8.0
    assert kept_after_correction([kept, stopped]) == set(), "one more was judged"
    assert best_of([kept, stopped]).trial is kept
    assert choose_best([stopped], "quality") is None
    assert count_failed_points([stopped]) == 0


def test_where_all_break_constraints_the_choice_says_so() -> None:
    limits = '["perplexity_ratio:0.5"]'
    trials = [trial("a", 1.1, 1.2, kept=False, constraints=limits)]
    found = best_of(trials)
    assert not found.feasible
    assert "no trial met search.constraints" in found.rule
    assert best_of([trial("a", 1.1, 1.2, kept=False)]).feasible


def test_where_nothing_is_timed_the_largest_cut_that_kept_quality_is_best() -> None:
    def untimed(name: str, cut: float, ratio: float, *, kept: bool) -> TrackedTrial:
        one = trial(name, 0.0, ratio, kept=kept)
        del one.metrics["speedup"]
        one.metrics["params_pruned_pct"] = cut
        return one

    small = untimed("small", 5.0, 1.01, kept=True)
    large = untimed("large", 20.0, 1.08, kept=True)
    lost = untimed("lost", 40.0, 1.9, kept=False)
    for rule in ("speedup_if_maintained", "speedup"):
        assert best_of([small, large, lost], rule).trial is large
    assert best_of([small, large, lost], "quality").trial is small
    assert "no trial kept it" in best_of([lost]).rule


def test_size_is_that_of_the_largest_cut_that_kept_quality() -> None:
    rule = "size_if_maintained"
    sure, lucky = judged("sure", 0.001, speedup=1.2), judged("lucky", 0.02, speedup=1.1)
    lost = [judged(f"lost {number}", 0.9, speedup=2.0) for number in range(3)]
    for size, one in enumerate([sure, lucky, *lost]):
        one.metrics["params_pruned_pct"] = 10.0 + size
    assert best_of([sure, lucky], rule).trial is lucky
    found = best_of([sure, lucky, *lost], rule)
    assert (found.trial, found.rule) == (
        sure,
        "the largest cut that kept quality (corrected for 5)",
    )
    alone = best_of([lucky, *lost], rule)
    assert alone.trial is lucky
    assert "though not for certain (corrected for 4)" in alone.rule
    assert best_of(lost, rule).rule == "the best quality, since no trial kept it"


def test_points_are_judged_and_not_attempts() -> None:
    def attempt(status: str, sparsity: str, *, study: str = "a", cut: bool = False) -> TrackedTrial:
        one = trial(f"{status} {sparsity} {study}", 1.0, 1.0, kept=True)
        params = {"sparsity": sparsity, "search.study_name": study, "cache_dir": study}
        given = {tags.INTERRUPTED: "true"} if cut else {}
        return replace(one, status=status, params=params, tags=given)

    done = attempt("FINISHED", "0.3", study="b")
    assert count_failed_points([done]) == 0
    assert count_failed_points([attempt("FAILED", "0.3"), done]) == 0, "a second try went well"
    assert count_failed_points([attempt("KILLED", "0.5"), done]) == 0, "Ctrl-C is no failure"
    assert count_failed_points([attempt("FAILED", "0.5", cut=True), done]) == 0
    twice = [attempt("FAILED", "0.5"), attempt("FAILED", "0.5", study="b"), done]
    assert count_failed_points(twice) == 1


def test_a_store_that_does_not_answer_is_not_taken_for_one_without_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    from prune_exp.tracking.store import open_store

    open_store(TrackingSettings(root=str(tmp_path)))
    for strange in ("0" * 32, "no run", "../x"):
        with pytest.raises(SettingError, match="is not in this store"):
            read_trials(strange)

    def fall_silent(*_: object) -> None:
        raise MlflowException("Connection refused", error_code=1)  # INTERNAL_ERROR

    monkeypatch.setattr(MlflowClient, "get_run", fall_silent)
    with pytest.raises(MlflowException, match="refused"):
        read_trials("0" * 32)


def test_the_latest_run_is_a_sweeps_own_or_a_trial_alone(tmp_path: Path) -> None:
    tracking = TrackingSettings(root=str(tmp_path))
    store_sweep(tmp_path, [made_up_runs.trial(0)])
    sweep, ids = store_sweep(tmp_path, [made_up_runs.trial(0), made_up_runs.trial(1)])
    assert find_latest(tracking) == sweep
    assert find_latest(tracking, trial=True) == ids[1]
    early = made_up_runs.trial(0)
    store_sweep(tmp_path, [replace(early, tags=early.tags | {tags.STOPPED: "too large"})])
    assert find_latest(tracking, trial=True) == ids[1]
    with pytest.raises(SettingError, match="experiment=other has no finished trial yet"):
        find_latest(replace(tracking, experiment="other"), trial=True)


def judged(name: str, p_value: float, *, speedup: float = 1.0) -> TrackedTrial:
    one = trial(name, speedup, 1.05, kept=p_value <= 0.025)
    one.metrics["quality_p_value"] = p_value
    return one


@pytest.mark.parametrize(
    ("p_values", "kept"),
    [
        ([0.025], 1),
        ([0.03], 0),
        ([0.0125, 0.9], 1),
        ([0.013, 0.9], 0),
        ([0.01, 0.02], 2),  # step by step: 0.0125 for the first, 0.025 for the second
        ([0.02, 0.02], 0),
        ([0.001, 0.02, 0.9], 1),
        ([1.0, 1.0, 0.008], 1),
        ([float("nan"), 0.001], 1),
    ],
)
def test_verdicts_are_corrected_for_the_trials_of_a_sweep(p_values: list[float], kept: int) -> None:
    trials = [judged(str(place), value) for place, value in enumerate(p_values)]
    found = kept_after_correction(trials)
    assert len(found) == kept
    first = sorted(range(len(trials)), key=lambda at: np.nan_to_num(p_values[at], nan=2))
    assert found == {str(at) for at in first[:kept]}
    assert kept_after_correction(trials[::-1]) == found


def test_twenty_trials_at_the_limit_seldom_pass_together() -> None:
    """With quality just beyond the limit, a p-value is uniform: any trial passes in 2.5 %."""
    chance = np.random.default_rng(0).random((2000, 20))
    passed = {
        "each": np.mean((chance <= 0.025).any(axis=1)),
        "corrected": np.mean(
            [
                bool(kept_after_correction([judged(str(i), p) for i, p in enumerate(row)]))
                for row in chance.tolist()
            ]
        ),
    }
    assert passed["each"] > 0.35
    assert passed["corrected"] < 0.035


def test_the_best_of_many_is_chosen_by_the_corrected_verdict() -> None:
    sure = judged("sure", 0.001, speedup=1.2)
    lucky = judged("lucky", 0.02, speedup=1.5)
    others = [judged(f"lost {number}", 0.9) for number in range(4)]
    best = choose_best([sure, lucky, *others], "speedup_if_maintained")
    assert best is not None
    assert best.trial is sure
    assert "corrected for 6" in best.rule
    said = describe_correction([sure, lucky, *others], lucky)
    assert said is not None
    assert "does not count as maintained" in said
    said = describe_correction([sure, lucky, *others], sure)
    assert said is not None
    assert "also with Holm's correction for 6 trials" in said
    assert describe_correction([lucky], lucky) is None
    failed = replace(lucky, run_id="failed", status="FAILED")
    assert kept_after_correction([lucky, failed]) == {"lucky"}
