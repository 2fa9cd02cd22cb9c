"""What the gates ask for does not depend on how easy a run made it for itself."""

from pathlib import Path
from typing import Any

import pytest

from prune_exp.registry.candidates import Candidate
from prune_exp.registry.evidence import Evidence
from prune_exp.settings.command_schemas import LimitSettings
from support.made_up_runs import trial


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
