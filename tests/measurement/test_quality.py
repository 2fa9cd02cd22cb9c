"""Quality is that of the library, on the same text."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prune_exp.measurement import quality
from prune_exp.measurement.intervals import ratio_over_documents
from prune_exp.measurement.records import (
    FOUND_AGAIN,
    DomainQuality,
    Interval,
    QualityComparison,
)
from prune_exp.text.corpus import Domain, TokenBlocks
from prune_exp.tracking.metrics import make_up_result
from support.models import make_tiny


def blocks_of(ids: torch.Tensor) -> TokenBlocks:
    return TokenBlocks(ids=ids, bytes_scored=ids[:, 1:].numel(), digest="d", source="s")


IDS = torch.randint(1, 300, (14, 20), generator=torch.Generator().manual_seed(3))


def test_dense_against_itself_is_exactly_itself(tmp_path: Path) -> None:
    model, text = make_tiny("llama"), blocks_of(IDS)
    base = quality.dense_baseline(model, "m", text, cache_dir=tmp_path)
    found = quality.compare_quality(model, base, text, max_perplexity_ratio=1.1)
    assert found.perplexity_ratio.value == pytest.approx(1, abs=1e-5)
    assert found.kl_to_dense == pytest.approx(0, abs=1e-5)
    assert found.top1_agreement == 1
    assert found.maintained


def test_each_text_has_its_own_figures_and_kept_ones_make_the_whole(tmp_path: Path) -> None:
    model, other = make_tiny("llama"), make_tiny("llama", seed=1)
    spans = {"a": (0, 2, True), "b": (2, 4, False), "c": (4, 7, True)}
    ids = torch.cat([IDS[:5], IDS[:2].flip(0)])
    parts = {name: blocks_of(ids[start:stop]) for name, (start, stop, _) in spans.items()}
    domains = tuple(
        Domain(name=name, blocks=stop - start, bytes_scored=7 * (start + 1), kept=kept)
        for name, (start, stop, kept) in spans.items()
    )
    text = replace(blocks_of(ids), domains=domains)
    base = quality.dense_baseline(model, "m", text, cache_dir=tmp_path)
    found = quality.compare_quality(other, base, text, max_perplexity_ratio=1.1)
    assert {name: one.kept for name, one in found.domains.items()} == {
        "a": True,
        "b": False,
        "c": True,
    }
    for name, part in parts.items():
        alone = quality.compare_quality(
            other,
            quality.dense_baseline(model, "m", part, cache_dir=tmp_path / name),
            part,
            max_perplexity_ratio=1.1,
        )
        one = found.domains[name]
        assert one.perplexity_ratio.value == pytest.approx(alone.perplexity_ratio.value, rel=1e-5)
        assert one.pruned.perplexity == pytest.approx(alone.pruned.perplexity, rel=1e-5)
        scored = next(domain.bytes_scored for domain in domains if domain.name == name)
        bits = math.log2(one.pruned.perplexity) * part.ids[:, 1:].numel() / scored
        assert one.pruned.bits_per_byte == pytest.approx(bits, rel=1e-5)
    kept = blocks_of(torch.cat([ids[:2], ids[4:]]))
    whole = quality.compare_quality(
        other,
        quality.dense_baseline(model, "m", kept, cache_dir=tmp_path / "kept"),
        kept,
        max_perplexity_ratio=1.1,
    )
    assert found.perplexity_ratio.value == pytest.approx(whole.perplexity_ratio.value, rel=1e-5)
    assert found.kl_to_dense == pytest.approx(whole.kl_to_dense, rel=1e-5)
    assert found.top1_agreement == whole.top1_agreement
    assert found.dense.tokens == whole.dense.tokens


@pytest.mark.parametrize(
    ("highs", "lost", "maintained"),
    [
        ({"a": (1.05, True), "b": (1.09, True)}, [], True),
        ({"a": (1.05, True), "b": (1.11, True)}, ["b"], False),
        ({"a": (1.2, False), "b": (1.05, True)}, ["a"], True),
        ({"a": (1.2, False), "b": (1.15, True)}, ["b", "a"], False),
        ({"a": (math.nan, True)}, ["a"], False),
    ],
)
def test_maintained_means_on_every_text_to_be_kept(
    highs: dict[str, tuple[float, bool]], lost: list[str], maintained: bool
) -> None:
    made = make_up_result(QualityComparison)
    ratio = Interval(value=1.0, low=1.0, high=1.0)
    domains = {
        name: replace(
            make_up_result(DomainQuality),
            perplexity_ratio=replace(ratio, high=high),
            kept=kept,
            documents=12,
        )
        for name, (high, kept) in highs.items()
    }
    found = replace(
        made, perplexity_ratio=ratio, max_perplexity_ratio=1.1, domains=domains, documents=24
    )
    assert found.lost == lost
    kept = [high for high, to_keep in highs.values() if to_keep]
    worst = math.nan if any(map(math.isnan, kept)) else max([1.0, *kept])
    assert found.worst.high == pytest.approx(worst, nan_ok=True)
    assert found.maintained == maintained


def test_perplexity_and_bits_equal_the_librarys_own_loss(tmp_path: Path) -> None:
    model, text = make_tiny("llama"), blocks_of(IDS)
    other = make_tiny("llama", seed=1)
    base = quality.dense_baseline(model, "m", text, cache_dir=tmp_path)
    found = quality.compare_quality(other, base, text, max_perplexity_ratio=1.1)
    loss = float(other(IDS, labels=IDS).loss)
    assert found.pruned.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    assert found.pruned.bits_per_byte == pytest.approx(loss / math.log(2), rel=1e-4)
    p, q = (m(IDS).logits[:, :-1].double().log_softmax(-1) for m in (model, other))
    kl = float((p.exp() * (p - q)).sum(-1).mean())
    assert found.kl_to_dense == pytest.approx(kl, rel=1e-3)


def test_a_document_is_what_the_interval_counts(tmp_path: Path) -> None:
    """Losses of a document are summed wherever its tokens lie, and its first block has no say."""
    model, other = make_tiny("llama"), make_tiny("llama", seed=1)
    owners = torch.arange(14 * 20).view(14, 20) // 23
    text = replace(blocks_of(IDS), documents=owners)
    base = quality.dense_baseline(model, "m", text, cache_dir=tmp_path)
    found = quality.compare_quality(other, base, text, max_perplexity_ratio=1.1)
    assert found.documents == 13
    gaps = torch.zeros(13, dtype=torch.float64)
    tokens = torch.zeros(13)
    for side, sign in ((other, 1), (model, -1)):
        logits = side(IDS).logits[:, :-1].double().log_softmax(-1)
        losses = -logits.gather(-1, IDS[:, 1:, None])[..., 0].detach()
        for row in range(14):
            for column in range(19):
                gaps[owners[row, column + 1]] += sign * losses[row, column]
                tokens[owners[row, column + 1]] += sign > 0
    expected = ratio_over_documents(gaps.tolist(), tokens.tolist())
    assert found.perplexity_ratio.ends == pytest.approx(expected.ratio.ends, rel=1e-4)
    assert found.chance_beyond == pytest.approx(expected.chance_beyond(1.1), rel=1e-3)
    across = quality.compare_quality(
        other, base, text, max_perplexity_ratio=1.1, reencode=lambda ids: ids
    )
    assert across.perplexity_ratio.ends == pytest.approx(expected.ratio.ends, rel=1e-4)


def test_documents_are_told_one_by_one_and_add_up_to_their_text(tmp_path: Path) -> None:
    """Places begin at 0 in every text, wherever a document begins and ends."""
    model, other = make_tiny("llama"), make_tiny("llama", seed=1)
    owners = torch.arange(14 * 20).view(14, 20) // 23
    owners[8:] = owners[8:] + 2  # the second text begins with a document of its own
    domains = tuple(
        Domain(name=name, blocks=blocks, bytes_scored=1, kept=True)
        for name, blocks in (("a", 8), ("b", 6))
    )
    text = replace(blocks_of(IDS), documents=owners, domains=domains)
    base = quality.dense_baseline(model, "m", text, cache_dir=tmp_path)
    found = quality.compare_quality(other, base, text, max_perplexity_ratio=1.1)
    for name, rows in (("a", range(8)), ("b", range(8, 14))):
        first, domain = int(owners[rows[0], 0]), found.domains[name]
        each = [one for one in found.by_document if one.domain == name]
        assert [one.place + first for one in each] == owners[list(rows), 1:].unique().tolist()
        assert each[0].place == {"a": 0, "b": 1}[name]  # nothing is predicted of the one before
        assert sum(one.tokens for one in each) == domain.dense.tokens
        for side, losses in (
            (domain.dense, [one.dense_loss_nats for one in each]),
            (domain.pruned, [one.pruned_loss_nats for one in each]),
        ):
            mean = sum(losses) / domain.dense.tokens
            assert math.exp(mean) == pytest.approx(side.perplexity, rel=1e-6)


def test_too_few_documents_get_no_verdict(tmp_path: Path) -> None:
    """A model that is the dense one is not called maintained on eleven documents."""
    model = make_tiny("llama")
    for count, maintained in ((12, True), (11, False)):
        owners = torch.arange(14).clamp_max(count - 1)[:, None].expand(IDS.shape)
        text = replace(blocks_of(IDS), documents=owners)
        base = quality.dense_baseline(model, "m", text, cache_dir=tmp_path)
        found = quality.compare_quality(model, base, text, max_perplexity_ratio=1.1)
        assert found.documents == count
        assert found.perplexity_ratio.high < 1.1
        assert found.maintained is maintained
        assert (found.p_value < 1) is maintained
        assert bool(found.too_few) is not maintained


@given(tokens=st.integers(1, 200), room=st.integers(2, 60))
def test_windows_have_room_and_show_every_token_once(tokens: int, room: int) -> None:
    windows = quality.cut_windows(tokens, room)
    assert all(0 <= start < end <= start + room for start, end in windows)
    ends = [0, *(end for _, end in windows)]
    assert ends[-1] == tokens
    assert sorted(ends) == ends
    for known, (start, _) in zip(ends, windows, strict=False):
        assert start <= known
        assert known == 0 or known - start >= room // 2 or start == 0


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
def test_a_block_that_is_spelled_longer_than_the_model_reads_is_judged(kind: str) -> None:
    """Every token stands for three here, so 20 become 60, and the model has 24 positions."""
    model = make_tiny(kind, max_position_embeddings=24)
    found = quality.losses_by_document(model, blocks_of(IDS), lambda ids: ids.repeat_interleave(3))
    assert int(found.own_tokens.sum()) == 3 * IDS[:, 1:].numel()
    first = IDS[0].repeat_interleave(3)
    logits = []
    for start, end, known in ((0, 24, 0), (12, 36, 24), (24, 48, 36), (36, 60, 48)):
        with torch.no_grad():
            logits.append(model(input_ids=first[None, start:end]).logits[0, known - start :])
    wanted = torch.nn.functional.cross_entropy(torch.cat(logits)[2:-1], first[3:], reduction="sum")
    assert float(found.losses[0]) == pytest.approx(float(wanted), rel=1e-4)


def test_the_upper_end_on_other_documents_is_foreseen_in_nine_of_ten_cases() -> None:
    """Of cuts whose own upper end is at the limit, every other one would fail there."""
    chance = torch.Generator().manual_seed(4)
    count = 40
    found = {"foreseen": 0, "own": 0}
    for _ in range(2000):
        rises = 0.08 + 0.05 * torch.randn(2, count, generator=chance)
        means, errors = rises.mean(1), rises.std(1) / count**0.5
        first, other = (
            Interval(
                value=math.exp(mean), low=math.exp(mean - 2 * s), high=math.exp(mean + 1.96 * s)
            )
            for mean, s in zip(means.tolist(), errors.tolist(), strict=True)
        )
        found["foreseen"] += other.high <= first.widened(FOUND_AGAIN).high
        found["own"] += other.high <= first.high
    assert found["foreseen"] / 2000 == pytest.approx(0.9, abs=0.03)
    assert found["own"] / 2000 == pytest.approx(0.5, abs=0.04)


def test_what_is_foreseen_is_about_the_kept_text_where_it_is_worst() -> None:
    def ratio(value: float, half: float) -> Interval:
        return Interval(value=value, low=value / half, high=value * half)

    plain = make_up_result(QualityComparison)
    domain = make_up_result(DomainQuality)
    domains = {
        "sure": replace(domain, perplexity_ratio=ratio(1.09, 1.001), kept=True),
        "unsure": replace(domain, perplexity_ratio=ratio(1.05, 1.04), kept=True),
        "other": replace(domain, perplexity_ratio=ratio(3.0, 1.1), kept=False),
    }
    found = replace(plain, perplexity_ratio=ratio(1.07, 1.01), domains=domains)
    assert found.worst == domains["unsure"].perplexity_ratio
    assert found.foreseen == pytest.approx(1.05 * 1.04**FOUND_AGAIN)
    none = replace(found, perplexity_ratio=ratio(math.nan, 1.0))
    assert none.foreseen == math.inf
