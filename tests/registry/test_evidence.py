"""What the gates ask for does not depend on how easy a run made it for itself."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prune_exp.measurement.records import Interval
from prune_exp.registry import evidence as module
from prune_exp.registry.candidates import Candidate
from prune_exp.registry.evidence import Evidence
from prune_exp.registry.gates import speedup
from prune_exp.settings.command_schemas import LimitSettings
from support.made_up_runs import interval, trial


def evidence(params: dict[str, str], **limits: Any) -> Evidence:
    one = trial()
    one.params.update(params)
    candidate = Candidate(name="m", version="1", trial=one, folder=Path("/nowhere"))
    return Evidence(
        candidate=candidate,
        champion=None,
        limits=LimitSettings(**limits),
        cache_dir=Path("/nowhere"),
    )


@pytest.mark.parametrize(
    ("own", "given", "limit"),
    [
        ("100.0", None, 1.1),
        ("1.1", None, 1.1),
        ("1.02", None, 1.02),
        ("nan", None, 1.1),
        ("100.0", 1.5, 1.5),
        ("1.02", 1.5, 1.5),
    ],
)
def test_a_run_may_only_make_the_quality_limit_stricter(
    own: str, given: float | None, limit: float
) -> None:
    case = evidence({"quality.max_perplexity_ratio": own}, max_perplexity_ratio=given)
    assert case.quality_limit == limit


def test_a_short_benchmark_of_the_runs_is_lengthened_against_the_champion() -> None:
    params = {
        "benchmark.prompts": "2",
        "benchmark.new_tokens": "2",
        "benchmark.max_rounds": "1",
        "benchmark.min_pairs": "2",
        "benchmark.budget_s": "1.0",
        "benchmark.bootstrap_resamples": "100",
    }
    found = evidence(params).champion_benchmark
    assert (found.prompts, found.max_rounds, found.min_pairs) == (20, 1, 20)
    assert (found.new_tokens, found.bootstrap_resamples) == (32, 5000)


def test_a_longer_benchmark_of_the_runs_stays(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"prompt {number}" for number in range(30)))
    params = {
        "benchmark.prompts": "30",
        "benchmark.prompts_path": str(file),
        "benchmark.new_tokens": "64",
        "benchmark.max_rounds": "3",
    }
    found = evidence(params).champion_benchmark
    assert (found.prompts, found.max_rounds, found.new_tokens) == (30, 3, 64)


def test_few_prompts_are_asked_more_often(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\ntwo\nthree\n")
    params = {"benchmark.prompts": "2", "benchmark.prompts_path": str(file)}
    found = evidence(params).champion_benchmark
    assert (found.prompts, found.max_rounds) == (3, 7)


@pytest.mark.parametrize(
    ("text_speedup", "passed"), [(0.97, False), (1.04, True), (None, True), (float("nan"), False)]
)
def test_the_speed_gate_asks_for_equal_text(text_speedup: float | None, passed: bool) -> None:
    case = evidence({})
    metrics = case.candidate.trial.metrics
    metrics.update(interval("speedup", 1.05, 0.01))
    for key in [key for key in metrics if key.startswith("text_speedup")]:
        del metrics[key]
    if text_speedup is not None:
        metrics.update(interval("text_speedup", text_speedup, 0.01))
    found = speedup(case)
    assert found.name == "speedup"
    assert found.passed is passed
    assert ("text_speedup is" in found.sentence) is (text_speedup is not None)


@pytest.mark.parametrize(("tokens", "expected"), [(100, 1.2), (150, 0.8)])
def test_the_champion_is_compared_on_equal_text(
    tokens: int, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A candidate that is 1.2 times as fast a token and needs more of them."""
    case = evidence({})
    case = replace(case, champion=case.candidate)
    measured = SimpleNamespace(speedup=Interval(value=1.2, low=1.14, high=1.26))
    monkeypatch.setattr(module, "measure_pair", lambda *_, **__: measured)
    monkeypatch.setattr(module.loading, "load_tokenizer", lambda _: None)
    monkeypatch.setattr(module, "tokenize_prompts", lambda *_: {})
    judged = {"_candidate_judged": ([], tokens), "_champion_judged": ([], 100)}
    case.__dict__.update(judged)
    found = case.champion_speedup()
    assert found.value == pytest.approx(expected)
    assert found.low == pytest.approx(0.95 * expected)
