"""Hand-computed quality and ratios; the worker answers what it is asked."""

import math
import sys
from pathlib import Path

import pytest
import torch
from conftest import eager_serving, make_tiny

from prune_exp.measurement import benchmark, quality
from prune_exp.measurement.intervals import exp_mean_difference, middle_ratio
from prune_exp.measurement.worker_client import MeasurementError, ModelProcess
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import BenchmarkSettings, DataSettings
from prune_exp.text.corpus import TokenBlocks, load_corpus


def blocks_of(ids: torch.Tensor) -> TokenBlocks:
    return TokenBlocks(ids=ids, bytes_scored=ids[:, 1:].numel(), digest="d", source="s")


IDS = torch.randint(1, 300, (5, 20), generator=torch.Generator().manual_seed(3))


def test_dense_against_itself_is_exactly_itself(tmp_path: Path) -> None:
    model, text = make_tiny("llama"), blocks_of(IDS)
    base = quality.dense_baseline(model, "m", text, cache_dir=tmp_path)
    found = quality.compare_quality(model, base, text, max_perplexity_ratio=1.1, resamples=200)
    assert found.perplexity_ratio.value == pytest.approx(1, abs=1e-5)
    assert found.kl_to_dense == pytest.approx(0, abs=1e-5)
    assert found.top1_agreement == 1
    assert found.maintained


def test_perplexity_and_bits_equal_the_librarys_own_loss(tmp_path: Path) -> None:
    model, text = make_tiny("llama"), blocks_of(IDS)
    other = make_tiny("llama", seed=1)
    base = quality.dense_baseline(model, "m", text, cache_dir=tmp_path)
    found = quality.compare_quality(other, base, text, max_perplexity_ratio=1.1, resamples=200)
    loss = float(other(IDS, labels=IDS).loss)
    assert found.pruned.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    assert found.pruned.bits_per_byte == pytest.approx(loss / math.log(2), rel=1e-4)
    p, q = (m(IDS).logits[:, :-1].double().log_softmax(-1) for m in (model, other))
    kl = float((p.exp() * (p - q)).sum(-1).mean())
    assert found.kl_to_dense == pytest.approx(kl, rel=1e-3)


def test_constant_ratio_has_an_interval_of_no_width() -> None:
    for pairs in (3, 30):
        found = middle_ratio([2.0] * pairs, [1.0] * pairs, resamples=200)
        assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))
    same = exp_mean_difference([1.0, 2.0], [1.0, 2.0], resamples=200)
    assert same.value == 1.0


def test_the_middle_of_ratios_by_hand() -> None:
    # of five pairs one is cut on either side, and 2, 4, 8 have the geometric mean 4
    found = middle_ratio([1000.0, 2.0, 4.0, 8.0, 0.001], [1.0] * 5, resamples=200)
    assert found.value == pytest.approx(4.0)
    back = middle_ratio([1.0] * 5, [1000.0, 2.0, 4.0, 8.0, 0.001], resamples=200)
    assert back.value == pytest.approx(1 / 4)
    same = middle_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], resamples=200)
    assert (same.value, same.low, same.high) == pytest.approx((2, 2, 2))


@pytest.mark.parametrize("pairs", [2, 3, 5, 12])
def test_few_pairs_claim_no_more_than_they_can(pairs: int) -> None:
    """Of 300 nominal 95 % intervals of pure noise, at least 88 % contain 1."""
    chance = torch.Generator().manual_seed(pairs)
    noise = torch.randn(300, pairs, generator=chance, dtype=torch.float64).mul(0.1).exp()
    found = [middle_ratio(row, [1.0] * pairs, resamples=300) for row in noise.tolist()]
    assert sum(one.low <= 1 <= one.high for one in found) >= 264


def test_interval_of_noise_around_one_contains_one() -> None:
    chance = torch.Generator().manual_seed(0)
    a, b = (torch.rand(50, generator=chance) + 1 for _ in range(2))
    found = middle_ratio(a.tolist(), b.tolist(), resamples=500)
    assert found.low < 1 < found.high


@pytest.mark.parametrize("turns", ["token", "request"])
def test_measured_processes_answer_and_alternate(tiny_folder: Path, turns: str) -> None:
    settings = BenchmarkSettings(
        turns=turns,
        new_tokens=4,
        batch_rounds=2,
        batch_sizes=[2],
        memory_rounds=2,
        bootstrap_resamples=100,
    )
    prompts = [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11, 12]]
    found = benchmark.measure_pair(
        tiny_folder, tiny_folder, dict.fromkeys(benchmark.SIDES, prompts), settings
    )
    order = [sample["model"] for sample in found.samples]
    assert order == ["dense", "pruned", "pruned", "dense", "dense", "pruned"]
    ids = {(s["prompt"], s["model"]): s["ids"] for s in found.samples}
    assert all(
        ids[i, "dense"] == ids[i, "pruned"] and len(ids[i, "dense"][0]) == 4 for i in (0, 1, 2)
    )
    assert found.bandwidth_limit_speedup == 1.0
    assert found.dense.weights_mib == found.pruned.weights_mib
    assert found.dense.latency_ms_p50 <= found.dense.latency_ms_p90 <= found.dense.latency_ms_p99


def test_a_dead_process_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    with (
        ModelProcess(eager_serving(tmp_path / "nothing"), 60) as process,
        pytest.raises(MeasurementError, match="ended with code"),
    ):
        process.receive()
    assert sys.executable


def test_corpus_splits_by_document_and_counts_bytes(tiny_folder: Path, text_file: Path) -> None:
    from prune_exp.model.loading import load_tokenizer

    tokenizer = load_tokenizer(tiny_folder)
    data = DataSettings(path=str(text_file), context_tokens=32, calibration_blocks=8)
    data.heldout_blocks = 8
    corpus = load_corpus(data, tokenizer, seed=0)
    assert corpus.calibration.ids.shape == (8, 32)
    # one token is one byte with this tokenizer
    assert corpus.heldout.bytes_scored == 8 * 31
    other = load_corpus(data, tokenizer, seed=1)
    assert other.heldout.digest == corpus.heldout.digest
    assert other.calibration.digest != corpus.calibration.digest


@pytest.mark.parametrize(("text", "words"), [("", "holds no text"), ("short", "blocks of 32")])
def test_too_little_text_is_refused(
    tiny_folder: Path, tmp_path: Path, text: str, words: str
) -> None:
    from prune_exp.model.loading import load_tokenizer

    path = tmp_path / "t.txt"
    path.write_text(text, encoding="utf-8")
    data = DataSettings(path=str(path), context_tokens=32)
    with pytest.raises(SettingError, match=words):
        load_corpus(data, load_tokenizer(tiny_folder), seed=0)
