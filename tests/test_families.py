"""Every supported family goes the whole way: calibrate, vote, prune, judge."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GROUPED, MODEL_TYPES, make_tiny, make_tokenizer

from prune_exp.model import sources
from prune_exp.model.architectures import (
    check_variant,
    head_norms_sq,
    layers_of,
    shape_of,
    weight_matrix,
)
from prune_exp.pruning import surgery
from prune_exp.pruning.calibration import ReadingSettings, compute_statistics
from prune_exp.pruning.inputs import Inputs
from prune_exp.pruning.pruner import vote_on_plan
from prune_exp.settings.choices import UNITS
from prune_exp.settings.errors import SettingError
from prune_exp.settings.schema import Settings
from prune_exp.text.corpus import Corpus, TokenBlocks
from prune_exp.tracking.metrics import removed_by_kind
from prune_exp.trial.prepare import pruning_request

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
    achieved = 1 - shape_of(pruned).params_total / inputs.shape.params_total
    assert achieved == pytest.approx(0.3, abs=0.005)
    assert achieved * inputs.shape.params_total == pytest.approx(plan.allocation.params_removed)
    by_kind = removed_by_kind(inputs.shape, shape_of(pruned))
    assert sum(by_kind.values()) == pytest.approx(100 * achieved)
    assert all((by_kind[f"removed_pct/{kind}"] > 0) == (kind in plan.votes) for kind in UNITS)
    assert pruned(IDS).logits.isfinite().all()
    last = dense.base_model(input_ids=IDS, output_hidden_states=True).hidden_states[-2]
    assert torch.allclose(stream[3], last, atol=0.02 * float(last.abs().max()))


def test_voters_see_the_voting_blocks_alone_and_the_refit_all() -> None:
    model, frequency = make_tiny("llama"), torch.full((300,), 1 / 300)
    reading, stream = ReadingSettings(voting_blocks=2, gradient_blocks=1), {}
    both = compute_statistics(model, IDS, frequency, reading, stream.__setitem__)
    alone = compute_statistics(model, IDS[:2], frequency, reading, lambda *_: None)
    for one in fields(both):
        assert torch.equal(getattr(both, one.name), getattr(alone, one.name)), one.name
    states = model.model(IDS, output_hidden_states=True).hidden_states
    for index in range(4):
        assert torch.allclose(stream[index], states[index], atol=1e-5)
    assert len(stream) == 5


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_parts_add_up_to_a_layer(model_type: str) -> None:
    """Channels and heads hold all of a block but its norms and the biases of its outputs."""
    model = make_tiny(model_type)
    shape, block = shape_of(model), layers_of(model)[0]
    parts = (
        shape.width * shape.params_channel
        + shape.query_heads * shape.params_query_head
        + shape.kv_heads * shape.params_kv_head
    )
    rest = sum(p.numel() for name, p in block.module.named_parameters() if "norm" in name.lower())
    rest += sum(p.numel() for name, p in block.module.named_parameters() if "ln_" in name)
    for out in (block.heads_out, block.mlp_out):
        rest += 0 if out.bias is None else out.bias.numel()
    assert parts + rest == shape.params_layer


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_head_rows_are_the_whole_projections(model_type: str) -> None:
    from prune_exp.model.architectures import submodule_of

    block = layers_of(make_tiny(model_type))[0]
    whole = sum(
        weight_matrix(submodule_of(block.module, n)).square().sum() for n in block.family.qkv
    )
    rows = head_norms_sq(block)
    assert float(sum(one.sum() for one in rows.values())) == pytest.approx(float(whole), rel=1e-5)
    assert [len(rows[role]) for role in ("queries", "keys", "values")] == [
        block.heads.queries,
        block.heads.groups,
        block.heads.groups,
    ]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mamba"}, "supported are llama, mistral"),
        ({"model_type": "opt", "do_layer_norm_before": False}, "another size"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "not supported"),
    ],
)
def test_what_cannot_be_pruned_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        check_variant(config)
