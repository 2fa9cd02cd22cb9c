"""Make a decoder layer smaller, in place: fewer heads, fewer MLP channels."""

import copy
from collections.abc import Sequence
from typing import Any

import torch

from prune_exp.model.architectures import (
    DecoderLayer,
    set_weight_matrix,
    weight_matrix,
)


def keep_heads(layer: DecoderLayer, kept: Sequence[int]) -> None:
    """Removes all query heads but `kept` from a layer, in place.

    A key/value head goes when no query head of its group is left; groups that stay must be equal
    in size, or stock attention could not run the layer.
    """
    heads = layer.heads
    names = layer.family.qkv
    assert layer.family.free_heads
    assert sorted(kept) == list(kept), kept
    groups = sorted({head // heads.per_group for head in kept})
    left = len(kept) // len(groups)
    assert all(sum(head // heads.per_group == g for head in kept) == left for g in groups), kept
    queries = _rows_of_heads(kept, heads.dim)
    keys = _rows_of_heads(groups, heads.dim)
    if len(names) == 3:
        for name, index in zip(names, (queries, keys, keys), strict=True):
            keep_rows(layer.part(name), index)
    else:
        first_key = heads.queries * heads.dim
        first_value = (heads.queries + heads.groups) * heads.dim
        rows = torch.cat([queries, first_key + keys, first_value + keys])
        keep_rows(layer.part(names[0]), rows)
    keep_columns(layer.heads_out, queries)
    _set_head_counts(layer.part(layer.family.attention), len(kept), len(groups))


def _set_head_counts(attention: Any, queries: int, groups: int) -> None:
    """Tells an attention module its new head counts; some read them from the config as they run."""
    attention.num_key_value_groups = queries // groups
    attention.config = copy.copy(attention.config)
    attention.config.num_attention_heads = queries
    attention.config.num_key_value_heads = groups
    if hasattr(attention, "num_key_value_heads"):
        attention.num_key_value_heads = groups


def keep_channels(layer: DecoderLayer, kept: Sequence[int]) -> None:
    """Removes all MLP channels but `kept` from a layer, in place."""
    index = torch.tensor(kept, dtype=torch.long)
    rows = torch.cat([index + layer.width * gate for gate in range(layer.family.gates)])
    for name in layer.family.mlp_in:
        keep_rows(layer.part(name), rows)
    keep_columns(layer.mlp_out, index)


def _rows_of_heads(heads: Sequence[int], dim: int) -> torch.Tensor:
    """Rows of a projection that make some heads [heads * dim]."""
    starts = torch.tensor(heads, dtype=torch.long) * dim
    return (starts[:, None] + torch.arange(dim)).flatten()


def keep_rows(linear: Any, index: torch.Tensor) -> None:
    """Keeps some outputs of a projection, in place."""
    bias = None if linear.bias is None else linear.bias[index]
    set_weight_matrix(linear, weight_matrix(linear)[index], bias)


def keep_columns(linear: Any, index: torch.Tensor) -> None:
    """Keeps some inputs of a projection, in place."""
    set_weight_matrix(linear, weight_matrix(linear)[:, index], linear.bias)
