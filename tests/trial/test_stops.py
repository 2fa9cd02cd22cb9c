"""A trial that cannot meet a constraint ends before it costs more, and says what is known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prune_exp.model import loading
from prune_exp.settings.groups import SearchSettings
from prune_exp.settings.schema import Settings
from prune_exp.tracking.metrics import describe_stop, flatten_result, flatten_stopped, is_stopped
from prune_exp.tracking.result import StoppedTrial, TrialResult
from prune_exp.trial import run
from support.lessons import make_settings
from support.models import count_loads
from support.settings import settings_for


@pytest.fixture
def settings(tiny_folder: Path, text_file: Path, tmp_path: Path) -> Settings:
    made = settings_for(tiny_folder, text_file, tmp_path / "cache", calibration="documents")
    return replace(made, sparsity=0.4)


def never(*_: object, **__: object) -> Any:
    raise AssertionError("this trial has nothing left to learn")


def test_sizes_end_a_trial_before_its_model_is_loaded(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = count_loads(monkeypatch, loading)
    found = run.run_within(settings, tmp_path, {"weights_read_ratio": 0.5, "file_mib": 1e9})
    assert isinstance(found, StoppedTrial)
    assert not loads
    assert not (tmp_path / "model").exists()
    flat = flatten_stopped(found)
    assert is_stopped(flat)
    assert describe_stop(flat, {"weights_read_ratio": 0.5}) == (
        f"weights_read_ratio is {flat['weights_read_ratio']:.4g} and may be at most 0.5"
    )


def test_what_was_foretold_is_what_a_whole_trial_finds(settings: Settings, tmp_path: Path) -> None:
    plain = run.run_trial(settings, tmp_path / "plain")
    whole = run.run_within(settings, tmp_path / "whole", {"perplexity_ratio": 1e9, "file_mib": 1e9})
    assert isinstance(whole, TrialResult)
    assert whole.quality == plain.quality
    assert whole.weights_sha256 == plain.weights_sha256
    flat = flatten_result(plain)
    least = flat["params_active"] * 4 / 2**20
    assert least <= flat["file_mib"] <= least + 0.1
    early = run.run_within(settings, tmp_path / "early", {"file_mib": 0.9 * least})
    assert isinstance(early, StoppedTrial)
    assert early.at_least == pytest.approx(least)
    assert early.known == {key: flat[key] for key in early.known}
    assert early.known.keys() >= {"params_pruned_pct", "pruned/mlp_width", "removed_pct/mlp"}


@pytest.mark.parametrize("early", [True, False])
def test_quality_ends_a_trial_before_its_clocks(
    early: bool, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run.run_trial(settings, tmp_path / "plain")
    assert plain.quality is not None
    ratio = plain.quality.perplexity_ratio.value
    settings.benchmark.enabled = True
    monkeypatch.setattr(run, "measure_pair", never)
    limit = ratio / 1e4 if early else 0.999 * ratio
    found = run.run_within(settings, tmp_path / "stopped", {"perplexity_ratio": limit})
    assert isinstance(found, StoppedTrial)
    flat = flatten_stopped(found)
    assert limit < found.at_least <= ratio
    assert (found.blocks > 0) is early
    assert ("perplexity_ratio" in flat) is not early
    assert "seconds/quality" in flat


@pytest.mark.parametrize("limits", [{"perplexity_ratio": 1e-4}, {}])
def test_a_training_is_dropped_once_nobody_needs_it(
    limits: dict[str, float], settings: Settings, tmp_path: Path
) -> None:
    settings.recovery = make_settings(context_tokens=32, tokens=20 * 32)
    if limits:
        assert isinstance(run.run_within(settings, tmp_path, limits), StoppedTrial)
    else:
        kept = run.run_within(settings, tmp_path / "kept", limits)
        assert isinstance(kept, TrialResult)
        assert kept.training_kept is not None
        assert list(kept.training_kept.glob("step-*")), "the result is not in the store yet"
        again = run.run_trial(settings, tmp_path / "again")
        assert again.weights_sha256 == kept.weights_sha256
    assert not list((tmp_path / "cache").glob("recovery/*/step-*"))


def test_a_rehearsed_plan_is_looked_at_once_it_is_chosen(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.pruning.rehearse = [0.0]
    monkeypatch.setattr("prune_exp.pruning.surgery.carry_out_plan", never)
    found = run.run_within(settings, tmp_path, {"params_active_pct": 10.0})
    assert isinstance(found, StoppedTrial)
    assert found.seconds.keys() >= {"vote", "rehearse"}


def test_sizes_that_a_fixed_ballot_need_not_come_to_end_no_trial(
    settings: Settings, tmp_path: Path
) -> None:
    settings.pruning.ballot = "fixed"
    found = run.run_within(settings, tmp_path, {"params_active_pct": 10.0})
    assert not isinstance(found, StoppedTrial)


def test_who_wants_every_trial_whole_gets_it() -> None:
    search = SearchSettings(constraints=["file_mib:5"])
    assert search.stopping_limits == {"file_mib": 5.0}
    assert not replace(search, stop=False).stopping_limits
    assert not replace(search, sampler="largest_kept").stopping_limits
    assert not SearchSettings().stopping_limits
