"""What the gates ask for does not depend on how easy a run made it for itself."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prune_exp.measurement.quality import split_block
from prune_exp.measurement.records import Interval
from prune_exp.model.loading import load_tokenizer
from prune_exp.model.sources import ModelSource
from prune_exp.registry import evidence as module
from prune_exp.registry.candidates import Candidate
from prune_exp.registry.evidence import Evidence, begin_as
from prune_exp.registry.gates import memory, speedup
from prune_exp.settings.command_schemas import LimitSettings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.params import flatten_settings
from prune_exp.text.corpus import all_blocks
from prune_exp.text.token_bytes import make_reencoder, recoder_of
from support.made_up_runs import interval, trial
from support.settings import settings_for
from support.tokenizers import make_bpe_tokenizer, make_fallback_tokenizer


def evidence(params: dict[str, str], **limits: Any) -> Evidence:
    one = trial()
    one.params.update(params)
    candidate = Candidate(name="m", version="1", trial=one, folder=Path("/models/candidate"))
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


def time_models(
    case: Evidence,
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[str, float],
    tokens: dict[str, list[int]],
) -> Evidence:
    """Models that take so long for a request, and texts of so many of their tokens by document."""

    def measure(dense: Path, pruned: Path, prompts: Any, *_: Any, **__: Any) -> Any:
        assert prompts == {"dense": dense.name, "pruned": pruned.name}
        ratio = seconds[dense.name] / seconds[pruned.name]
        memory = seconds[pruned.name] / seconds[dense.name]
        return SimpleNamespace(
            speedup=Interval(value=ratio, low=0.95 * ratio, high=1.05 * ratio),
            memory_ratio=Interval(value=memory, low=0.95 * memory, high=1.05 * memory),
        )

    def load(folder: Path) -> Any:
        return SimpleNamespace(name=folder.name, get_vocab=lambda: {"a": tokens[folder.name]})

    monkeypatch.setattr(module, "measure_pair", measure)
    monkeypatch.setattr(module.loading, "load_tokenizer", load)
    monkeypatch.setattr(
        module,
        "tokenize_prompts",
        lambda _, own, **__: {side: one.name for side, one in own.items()},
    )
    monkeypatch.setattr(Evidence, "_count_tokens", lambda _, own: torch.tensor(tokens[own.name]))
    source = ModelSource(folder=Path("/models/dense"), digest="d")
    case.__dict__["source"] = source
    return case


@pytest.mark.parametrize(
    ("seconds", "tokens", "passed"),
    [
        (1.0, 100, True),
        (1.95, 100, False),
        (2.0, 100, False),
        (4.0, 100, False),
        (1.5, 120, True),
        (1.5, 130, False),
        (2.0, 60, True),
        (float("nan"), 100, False),
    ],
)
def test_speed_is_judged_anew_and_for_equal_text(
    seconds: float, tokens: int, passed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dense model takes 2 s a request and 100 tokens; what the trial found does not count."""
    for tracked in (0.5, 50.0):
        case = evidence({})
        for key in ("speedup", "text_speedup", "memory_reduction_pct"):
            case.candidate.trial.metrics.update(interval(key, tracked, 0.01))
        times = {"dense": 2.0, "candidate": seconds}
        counts = {"dense": [100] * 12, "candidate": [tokens] * 12}
        case = time_models(case, monkeypatch, times, counts)
        found = speedup(case)
        assert found.name == "speedup"
        assert found.passed is passed
        assert found.figures["tracked"] == tracked
        assert memory(case).passed is (seconds < 1.9)


def test_speed_is_no_surer_than_how_many_tokens_texts_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """1.1 times faster for equal text on the whole, but documents differ too much to say so."""
    times = {"dense": 2.0, "candidate": 1.5}
    alike, unlike = [121] * 12, [71, 171] * 6
    for tokens, passed in ((alike, True), (unlike, False)):
        counts = {"dense": [100] * 12, "candidate": tokens}
        found = speedup(time_models(evidence({}), monkeypatch, times, counts))
        assert found.passed is passed
        assert found.figures["value"] == pytest.approx(200 / 1.5 / 121)


@pytest.mark.parametrize(
    ("seconds", "tokens", "expected"), [(2.5, 100, 1.2), (2.5, 150, 0.8), (6.0, 100, 0.5)]
)
def test_the_champion_is_compared_on_equal_text(
    seconds: float, tokens: int, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The champion takes 3 s a request; above 1 means that the candidate is faster than it."""
    case = evidence({})
    case = replace(case, champion=replace(case.candidate, folder=Path("/models/champion")))
    times = {"champion": 3.0, "candidate": seconds}
    counts = {"champion": [100] * 12, "candidate": [tokens] * 12}
    case = time_models(case, monkeypatch, times, counts)
    found = case.champion_speedup()
    assert found.value == pytest.approx(expected)
    assert found.low == pytest.approx(0.95 * expected)


def test_a_run_does_not_loosen_what_promotion_measures() -> None:
    easy = {
        "benchmark.prompts": "2",
        "benchmark.new_tokens": "2",
        "benchmark.min_pairs": "2",
        "benchmark.budget_s": "1.0",
        "benchmark.bootstrap_resamples": "100",
    }
    found = evidence(easy, pairs=24, new_tokens=8).benchmark
    assert (found.prompts, found.max_rounds, found.min_pairs) == (20, 2, 24)
    assert (found.new_tokens, found.bootstrap_resamples) == (8, 5000)


def test_text_of_few_documents_is_no_evidence(
    tiny_folder: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(tiny_folder)
    one = settings_for(tiny_folder, text_file, text_file.parent, calibration="documents")
    monkeypatch.setattr(module, "check_judged_text", lambda *_: None)
    for blocks, said in ((20, ""), (2, "limits.blocks=2 blocks of text are of . reserved doc")):
        case = evidence(flatten_settings(one), blocks=blocks)
        case.__dict__["tokenizer"] = tokenizer
        if not said:
            assert case.documents >= 12
            continue
        with pytest.raises(SettingError, match=said):
            _ = case.text


def test_a_champion_of_another_family_begins_a_text_as_it_was_trained_to() -> None:
    """Gemma is lost without its first token, which a dense model of another family has not."""
    gemma, plain = make_fallback_tokenizer("gemma"), make_bpe_tokenizer(300)
    text = "The old river ran by the mill, and the mill ran on. " * 8
    reencode = make_reencoder(plain, gemma)
    start = begin_as(gemma, plain, reencode)
    for block in all_blocks([text], plain, 24):
        first, ids, of = split_block(block, torch.zeros_like(block), reencode, start)
        assert int(ids[0]) == gemma.bos_token_id
        assert first == 1 + len(reencode(block[:1])) == len(ids) - len(of)
        said = recoder_of(gemma).bytes_of(ids[1:].tolist())
        assert said == recoder_of(plain).bytes_of(block.tolist())
    same = begin_as(gemma, gemma, make_reencoder(gemma, gemma))
    assert same is not None
    assert same(torch.tensor([gemma.bos_token_id])).tolist() == [gemma.bos_token_id]
    assert begin_as(plain, gemma, make_reencoder(gemma, plain)) is None
