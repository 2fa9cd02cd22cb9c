"""Stock models made anew: around other tensors, of fewer tokens, of fewer and smaller layers."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from prune_exp.model.architectures import head_of, layers_of, submodule_of
from prune_exp.model.loading import silence_transformers
from prune_exp.model.offload import pass_on, weights_left
from prune_exp.model.shape import Heads, heads_of

TOKENS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
)
"""Settings that name one token, or a list of them."""


def from_state(config: Any, state: dict[str, torch.Tensor], like: Any) -> Any:
    """Builds a model around existing tensors, without a second copy of them.

    Buffers that checkpoints do not hold (rotary frequencies, scales) come from `like`, a model
    of the same family; layers that stay on disk lie where its layers do.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    pass_on(like, model)
    left = weights_left(model)
    assert not left, left
    _copy_buffers(model, like)
    return model.eval().requires_grad_(False)


def _copy_buffers(model: Any, like: Any) -> None:
    known = dict(like.named_buffers())
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta:
            owner, _, last = name.rpartition(".")
            submodule_of(model, owner)._buffers[last] = known[name].clone()


def keep_tokens(model: Any, kept: Sequence[int]) -> Any:
    """A stock model that knows only the tokens `kept`, whose ids are their places in it."""
    state = model.state_dict()
    config = copy.deepcopy(model.config)
    index = torch.tensor(kept, dtype=torch.long)
    for weight in {id(m.weight): m.weight for m in _token_modules(model)}.values():
        rows = weight.detach()[index]
        for name, value in state.items():
            if value.data_ptr() == weight.data_ptr():
                state[name] = rows
    config.vocab_size = len(kept)
    generation = copy.deepcopy(model.generation_config)
    for settings in (config, generation):
        _renumber_special(settings, {old: place for place, old in enumerate(kept)})
    trimmed = from_state(config, state, model)
    trimmed.generation_config = generation
    return trimmed


def _token_modules(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), head_of(model)


def _renumber_special(settings: Any, new: dict[int, int]) -> None:
    """Gives the tokens that a config names their new ids; those that went are named no more."""
    for name in TOKENS:
        value = getattr(settings, name, None)
        if isinstance(value, list):
            setattr(settings, name, [new[i] for i in value if i in new] or None)
        elif value is not None:
            setattr(settings, name, new.get(value))
    banned = getattr(settings, "bad_words_ids", None)
    if banned:
        whole = [word for word in banned if all(i in new for i in word)]
        settings.bad_words_ids = [[new[i] for i in word] for word in whole] or None
    bias = getattr(settings, "sequence_bias", None)
    if bias:
        pairs = bias.items() if isinstance(bias, dict) else bias
        whole = [(word, value) for word, value in pairs if all(i in new for i in word)]
        settings.sequence_bias = [[[new[i] for i in word], value] for word, value in whole] or None


def accepted_heads(config: Any) -> frozenset[Heads]:
    """The head counts that a model may be left with: those that its stock config takes.

    Some configs want a hidden size that the heads divide, or derive other sizes from their number.
    """
    dense = heads_of(config)
    fewer_groups = (
        Heads(queries=dense.per_group * groups, groups=groups, dim=dense.dim)
        for groups in range(1, dense.groups)
    )
    fewer_queries = (
        Heads(queries=queries * dense.groups, groups=dense.groups, dim=dense.dim)
        for queries in range(1, dense.per_group)
    )
    with silence_transformers():
        return frozenset(one for one in (*fewer_groups, *fewer_queries) if _takes(config, one))


def _takes(config: Any, heads: Heads) -> bool:
    changed = copy.deepcopy(config)
    _set_heads(changed, heads)
    try:
        changed.validate()
    except Exception:  # each rule of each family has its own words and kinds
        return False
    return True


def _set_heads(config: Any, heads: Heads) -> None:
    config.head_dim = heads.dim
    config.num_attention_heads = heads.queries
    config.num_key_value_heads = heads.groups


def assemble_model(model: Any, kept_layers: Sequence[int], heads: Heads) -> Any:
    """A stock model of the kept layers, whose config says their (equal) new shape.

    `heads` is what every layer that stays has left.
    """
    config = copy.deepcopy(model.config)
    layers = layers_of(model)
    first = layers[kept_layers[0]]
    config.num_hidden_layers = len(kept_layers)
    setattr(config, first.family.width, first.width)
    if first.family.free_heads:
        _set_heads(config, heads)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in kept_layers]
    owner, _, name = first.family.layers.rpartition(".")
    holder = submodule_of(model.base_model, owner) if owner else model.base_model
    setattr(holder, name, nn.ModuleList(layers[i].module for i in kept_layers))
    pruned = from_state(config, model.state_dict(), model)
    pruned.generation_config = model.generation_config
    return pruned
