"""A look at part of the text is seldom wrong, and a whole judgement is the same with looks."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prune_exp.measurement import quality
from prune_exp.measurement.early_looks import LOOKS, SurelyBeyond, spread_rows, watch_limits
from prune_exp.text.corpus import Domain, TokenBlocks
from prune_exp.tracking.metrics import quality_metrics
from support.models import make_tiny

IDS = torch.randint(1, 300, (24, 20), generator=torch.Generator().manual_seed(3))


def blocks_of(ids: torch.Tensor, **changes: object) -> TokenBlocks:
    text = TokenBlocks(ids=ids, bytes_scored=3 * ids[:, 1:].numel(), digest="d", source="s")
    return replace(text, **changes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("count", [1, 5, 30, 32])
def test_every_beginning_of_the_order_is_spread_over_the_rows(count: int) -> None:
    order = spread_rows(range(100, 100 + count))
    assert sorted(order) == [*range(100, 100 + count)]
    for blocks in (4, 8, 16):
        parts = [(row - 100) * blocks // count for row in order[:blocks]]
        if blocks < count:
            fullest = max(parts.count(part) for part in parts)
            assert fullest <= 2, parts


@pytest.mark.parametrize("across", [False, True])
def test_a_model_that_meets_its_limits_is_judged_as_without_them(
    across: bool, tmp_path: Path
) -> None:
    model, other = make_tiny("llama"), make_tiny("llama", seed=1)
    text = blocks_of(IDS, documents=torch.arange(24 * 20).view(24, 20) // 23)
    base = quality.dense_baseline(model, "m", text, cache_dir=tmp_path)

    def judge(limits: dict[str, float]) -> quality.QualityComparison:
        return quality.compare_quality(
            other,
            base,
            text,
            max_perplexity_ratio=1.1,
            reencode=(lambda ids: ids) if across else None,
            limits=limits,
        )

    plain = quality_metrics(judge({}))
    loose = {key: value + 1e-6 * abs(value) + 1e-9 for key, value in plain.items()}
    assert quality_metrics(judge(loose)) == pytest.approx(plain, rel=1e-9, abs=1e-12)
    for metric in (
        "perplexity_ratio",
        "perplexity_ratio_ci95_high",
        "worst_perplexity_ratio_ci95_high",
        "domain/heldout/perplexity_ratio",
        "domain/heldout/pruned_bits_per_byte",
        "pruned/perplexity",
        "pruned/bits_per_byte",
        "bits_per_byte_increase",
    ):
        tight = plain[metric] / 1e5 if "bits" not in metric else plain[metric] - 6
        with pytest.raises(SurelyBeyond) as beyond:
            judge({metric: tight})
        assert beyond.value.metric == metric
        assert tight < beyond.value.at_least < plain[metric]
        assert beyond.value.blocks in LOOKS


def test_what_is_read_so_far_is_read_as_the_whole_is(tmp_path: Path) -> None:
    """At the true rise every watched metric has the value that the whole judgement gives it."""
    model, other = make_tiny("llama"), make_tiny("llama", seed=1)
    domains = tuple(
        Domain(name=name, blocks=12, bytes_scored=size, kept=kept)
        for name, size, kept in (("a", 700, True), ("b", 900, False))
    )
    text = blocks_of(IDS, domains=domains)
    base = quality.dense_baseline(model, "m", text, cache_dir=tmp_path)
    found = quality.compare_quality(other, base, text, max_perplexity_ratio=1.1)
    plain = quality_metrics(found)
    looks = watch_limits(plain, text, base.losses)
    assert {one.metric for one in looks.watched} >= {
        "pruned/perplexity",
        "domain/b/perplexity_ratio",
    }
    for one in looks.watched:
        name = "b" if "/b/" in one.metric else "a"
        rise = math.log(found.domains[name].perplexity_ratio.value)
        value = one.read(rise)
        if one.metric.endswith("_high"):
            assert value <= plain[one.metric]
        else:
            assert value == pytest.approx(plain[one.metric], rel=1e-4), one.metric
        assert set(one.rows) == {*range(12, 24)} if name == "b" else {*range(12)}


def test_looks_stop_hardly_any_trial_that_would_have_met_its_limit() -> None:
    """Models at the limit itself: documents of very unequal length, each with a loss of its own."""
    chance = torch.Generator().manual_seed(7)
    blocks, length, trials, stopped = 32, 64, 300, 0
    ids = torch.zeros(blocks, length + 1, dtype=torch.long)
    for _ in range(trials):
        ends = torch.rand(60, generator=chance).pow(2).cumsum(0)
        owners = torch.bucketize(torch.linspace(0, float(ends[-2]), ids.numel()), ends)
        owners = owners.unique(return_inverse=True)[1].view(ids.shape)
        text = blocks_of(ids, documents=owners)
        level = torch.randn(int(owners.max()) + 1, generator=chance)[owners[:, 1:]]
        gaps = level + torch.randn(blocks, length, generator=chance)
        looks = watch_limits(
            {"perplexity_ratio": math.exp(float(gaps.mean()))}, text, torch.zeros(blocks, length)
        )
        try:
            for row in looks.order:
                looks.note_block(row, owners[row, 1:], gaps[row])
        except SurelyBeyond:
            stopped += 1
    assert stopped <= 0.05 * trials, stopped


def test_a_text_of_one_document_says_nothing_early() -> None:
    owners = torch.zeros(20, 11, dtype=torch.long)
    text = blocks_of(torch.zeros(20, 11, dtype=torch.long), documents=owners)
    looks = watch_limits({"perplexity_ratio": 1.1}, text, torch.zeros(20, 10))
    for row in looks.order:
        looks.note_block(row, owners[row, 1:], torch.full((10,), 9.0))
