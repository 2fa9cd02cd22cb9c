"""Every supported family goes the whole way: calibrate, vote, prune."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.model import sources
from prune_exp.model.architectures import (
    shape_of,
)
from prune_exp.pruning import surgery
from prune_exp.pruning.allocation import shape_after
from prune_exp.pruning.calibration import ReadingSettings, compute_statistics
from prune_exp.pruning.inputs import Inputs
from prune_exp.pruning.vote import vote_on_plan
from prune_exp.settings.choices import UNITS
from prune_exp.settings.schema import Settings
from prune_exp.text.corpus import Corpus, TokenBlocks
from prune_exp.tracking.metrics import removed_by_kind, size_metrics
from prune_exp.trial.prepare import pruning_request
from support.models import GROUPED, MODEL_TYPES, make_tiny
from support.tokenizers import make_tokenizer

IDS = torch.randint(1, 300, (4, 24), generator=torch.Generator().manual_seed(1))


VOTERS = ["magnitude", "gradient", "wanda", "fluctuation", "obs", "similarity", "random"]


def inputs_for(model: Any) -> Inputs:
    text = TokenBlocks(ids=IDS, bytes_scored=1, digest="d", source="s")
    return Inputs(
        source=sources.ModelSource(folder=Path(), digest="d"),
        tokenizer=make_tokenizer(),
        corpus=Corpus(calibration=text, heldout=text),
        shape=shape_of(model),
        cache_dir=Path(),
    )


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_calibrate_vote_and_prune(model_type: str) -> None:
    dense = make_tiny(model_type)
    stream: dict[int, torch.Tensor] = {}
    reading = ReadingSettings(voting_blocks=3, gradient_blocks=2)
    frequency = torch.full((300,), 1 / 300)
    statistics = compute_statistics(dense, IDS, frequency, reading, stream.__setitem__)
    settings = Settings(sparsity=0.3)
    settings.pruning.voters = VOTERS
    settings.pruning.depth_share = 0.3
    settings.pruning.heads_share = 0.9 if model_type in GROUPED else 0.0
    settings.pruning.units = ["layers", "heads", "mlp"]
    inputs = inputs_for(dense)
    plan = vote_on_plan(pruning_request(settings), inputs, statistics)
    assert bool(any(plan.heads.values())) == (model_type in GROUPED)
    assert plan.voters["mlp"] == tuple(sorted(set(VOTERS) - {"similarity"}))
    pruned = surgery.carry_out_plan(make_tiny(model_type), plan, IDS)
    foretold = shape_after(inputs.shape, plan.allocation)
    assert size_metrics(inputs.shape, foretold) == size_metrics(inputs.shape, shape_of(pruned))
    assert foretold == replace(shape_of(pruned), vocab_removable=0, accepted_heads=None)
    achieved = 1 - shape_of(pruned).params_total / inputs.shape.params_total
    assert achieved == pytest.approx(0.3, abs=0.005)
    assert achieved * inputs.shape.params_total == pytest.approx(plan.allocation.params_removed)
    by_kind = removed_by_kind(inputs.shape, shape_of(pruned))
    assert sum(by_kind.values()) == pytest.approx(100 * achieved)
    assert all((by_kind[f"removed_pct/{kind}"] > 0) == (kind in plan.votes) for kind in UNITS)
    assert pruned(IDS).logits.isfinite().all()
    last = dense.base_model(input_ids=IDS, output_hidden_states=True).hidden_states[-2]
    assert torch.allclose(stream[3], last, atol=0.02 * float(last.abs().max()))
