"""Quality is that of the library, on the same text."""

import math
from pathlib import Path

import pytest
import torch

from prune_exp.measurement import quality
from prune_exp.text.corpus import TokenBlocks
from support.models import make_tiny


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
