"""Decoders of known sizes with random weights: time and memory depend on sizes alone."""

import copy
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from prune_exp.model.architectures import shape_of
from prune_exp.model.shape import ModelShape
from prune_exp.pruning.allocation import allocate_budget
from prune_exp.settings.groups import PruningSettings

SHAPES: dict[str, dict[str, Any]] = {
    "llama-1b": {"hidden": 2048, "width": 8192, "layers": 16, "heads": 32, "groups": 8},
    "llama-8b": {"hidden": 4096, "width": 14336, "layers": 32, "heads": 32, "groups": 8},
    "llama-70b": {"hidden": 8192, "width": 28672, "layers": 80, "heads": 64, "groups": 8},
    "smollm2-135m": {"hidden": 576, "width": 1536, "layers": 30, "heads": 9, "groups": 3},
    "tiny": {"hidden": 64, "width": 192, "layers": 4, "heads": 4, "groups": 2},
}
VOCABULARIES = {"smollm2-135m": 49152, "tiny": 512}
TIED = ("llama-1b", "smollm2-135m", "tiny")


def config_of(name: str) -> LlamaConfig:
    """A stock Llama's config of one of the `SHAPES`."""
    sizes = SHAPES[name]
    return LlamaConfig(
        hidden_size=sizes["hidden"],
        intermediate_size=sizes["width"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["groups"],
        head_dim=sizes["hidden"] // sizes["heads"],
        vocab_size=VOCABULARIES.get(name, 128256),
        tie_word_embeddings=name in TIED,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )


def random_model(config: Any, device: str, dtype: str = "bfloat16", seed: int = 0) -> Any:
    """A model of a config, drawn where it is to run."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    return model.eval().requires_grad_(False)


def widen(model: Any) -> Any:
    """The model in float32, as pruning has it, weight by weight."""
    for weight in model.parameters():
        weight.data = weight.data.float()
    return model


def shape_of_config(config: Any) -> ModelShape:
    """The sizes of a model of this config, which is not made."""
    return shape_of(random_model(config, "meta"))


def pruned_config(config: Any, sparsity: float) -> Any:
    """The config that is left when `sparsity` of the parameters goes by the default settings."""
    gone = allocate_budget(shape_of_config(config), sparsity, PruningSettings())
    left = copy.deepcopy(config)
    left.num_hidden_layers -= gone.layers
    left.intermediate_size -= gone.channels
    left.num_key_value_heads -= gone.kv_groups
    each = config.num_attention_heads // config.num_key_value_heads - gone.queries_per_group
    left.num_attention_heads = each * left.num_key_value_heads
    return left
