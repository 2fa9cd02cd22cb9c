"""Every family keeps its parts where the table says."""

from typing import Any

import pytest

from prune_exp.model.architectures import (
    check_variant,
    head_norms_sq,
    layers_of,
    shape_of,
    weight_matrix,
)
from prune_exp.settings.errors import SettingError
from support.models import MODEL_TYPES, make_tiny


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
        ({"model_type": "opt", "_remove_final_layer_norm": True}, "without a last norm"),
        (
            {"model_type": "opt", "word_embed_proj_dim": 8, "hidden_size": 16},
            "embeddings of another size",
        ),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "softcapping"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "not supported"),
    ],
)
def test_what_cannot_be_pruned_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        check_variant(config)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "opt", "word_embed_proj_dim": 16, "hidden_size": 16},
        {"model_type": "opt", "_remove_final_layer_norm": False},
        {"model_type": "gemma3_text", "final_logit_softcapping": None},
    ],
)
def test_what_can_be_pruned_is_not_refused(config: dict[str, Any]) -> None:
    check_variant(config)
