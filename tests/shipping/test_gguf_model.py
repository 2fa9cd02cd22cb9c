"""What llama.cpp has other words or no words for."""

from typing import Any

import pytest
import torch

from prune_exp.settings.errors import SettingError
from prune_exp.shipping.gguf_model import ARCHITECTURES, check_config, period_of, tensors_of
from support.models import MODEL_TYPES, make_tiny


def kinds(pattern: str) -> list[str]:
    return [{"f": "full_attention", "s": "sliding_attention"}[one] for one in pattern]


@pytest.mark.parametrize(
    ("pattern", "period"),
    [("sssssf", 6), ("sssssfs", 6), ("sfsf", 2), ("ff", 1), ("sss", 6), ("ssssssss", 0)],
)
def test_layers_that_see_all_come_at_equal_distances(pattern: str, period: int) -> None:
    assert period_of(kinds(pattern)) == period


@pytest.mark.parametrize("pattern", ["fs", "sffs", "sssfsssssf"])
def test_other_orders_are_refused(pattern: str) -> None:
    with pytest.raises(SettingError, match="layers were removed"):
        period_of(kinds(pattern))


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_every_family_is_written_or_refused_by_name(kind: str) -> None:
    own_head = kind in ("qwen2", "gpt_neox")
    model = make_tiny(kind, tie=not own_head, query_pre_attn_scalar=8)
    if kind not in ARCHITECTURES:
        with pytest.raises(SettingError, match=f"GGUF cannot hold {kind}: llama.cpp has no such"):
            check_config(model.config)
        return
    check_config(model.config)
    found = dict(tensors_of(model))
    assert sum(one.size for one in found.values()) == sum(p.numel() for p in model.parameters())
    assert ("output.weight" in found) == own_head


@pytest.mark.parametrize(
    ("kind", "changed", "words"),
    [
        ("llama", {"hidden_act": "gelu"}, "llama with the activation gelu"),
        ("gpt2", {"activation_function": "relu"}, "gpt2 with the activation relu"),
        ("gemma3_text", {"query_pre_attn_scalar": 9}, "query_pre_attn_scalar"),
        ("gpt_neox", {"tie_word_embeddings": True}, "gpt_neox with tied embeddings"),
        ("gpt_neox", {"tie_word_embeddings": False, "attention_bias": False}, "without biases"),
        ("qwen3", {"attention_bias": True}, "qwen3 with biases in its attention"),
        (
            "llama",
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "turns a part of each head",
        ),
        ("gemma3_text", {"final_logit_softcapping": 3.0}, "capped logits"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(
    kind: str, changed: dict[str, Any], words: str
) -> None:
    config = make_tiny(kind, query_pre_attn_scalar=8).config
    for name, value in changed.items():
        setattr(config, name, value)
    with pytest.raises(SettingError, match=words):
        check_config(config)


def test_scaled_positions_are_refused_where_llamacpp_does_not_scale_them() -> None:
    config = make_tiny("qwen2").config
    config.rope_parameters = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(SettingError, match="qwen2 with positions of type yarn"):
        check_config(config)


def test_scaled_frequencies_become_factors() -> None:
    """llama.cpp divides the plain frequencies by them."""
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    model = make_tiny("llama", rope_parameters=rope)  # pyright: ignore[reportArgumentType]
    check_config(model.config)
    factors = torch.from_numpy(dict(tensors_of(model))["rope_freqs.weight"])
    assert torch.allclose(factors, torch.full((4,), 4.0))
