"""Make a decoder block smaller, in place: fewer heads, fewer MLP channels."""

import copy
from collections.abc import Sequence
from typing import Any

import torch

from prune_exp.model.architectures import Block, matrix, part, set_matrix


def keep_heads(block: Block, kept: Sequence[int]) -> None:
    """Removes all query heads but `kept` from a block, in place.

    A key/value head goes when no query head of its group is left; groups that stay must be equal
    in size, or stock attention could not run the block.
    """
    heads, names = block.heads, block.family.qkv
    assert block.family.free_heads
    assert sorted(kept) == list(kept), kept
    groups = sorted({head // heads.per_group for head in kept})
    left = len(kept) // len(groups)
    assert all(sum(head // heads.per_group == g for head in kept) == left for g in groups), kept
    queries, keys = _slots(kept, heads.dim), _slots(groups, heads.dim)
    if len(names) == 3:
        for name, index in zip(names, (queries, keys, keys), strict=True):
            keep_rows(part(block.module, name), index)
    else:
        first, second = heads.queries * heads.dim, (heads.queries + heads.groups) * heads.dim
        rows = torch.cat([queries, first + keys, second + keys])
        keep_rows(part(block.module, names[0]), rows)
    keep_columns(block.heads_out, queries)
    _recount(part(block.module, block.family.attention), len(kept), len(groups))


def _recount(attention: Any, queries: int, groups: int) -> None:
    """Tells an attention module its new head counts; some read them from the config as they run."""
    attention.num_key_value_groups = queries // groups
    attention.config = copy.copy(attention.config)
    attention.config.num_attention_heads = queries
    attention.config.num_key_value_heads = groups
    if hasattr(attention, "num_key_value_heads"):
        attention.num_key_value_heads = groups


def keep_channels(block: Block, kept: Sequence[int]) -> None:
    """Removes all MLP channels but `kept` from a block, in place."""
    index, width = torch.tensor(kept, dtype=torch.long), block.width
    rows = torch.cat([index + width * gate for gate in range(block.family.gates)])
    for name in block.family.mlp_in:
        keep_rows(part(block.module, name), rows)
    keep_columns(block.mlp_out, index)


def _slots(heads: Sequence[int], dim: int) -> torch.Tensor:
    starts = torch.tensor(heads, dtype=torch.long) * dim
    return (starts[:, None] + torch.arange(dim)).flatten()


def keep_rows(linear: Any, index: torch.Tensor) -> None:
    """Keeps some outputs of a projection, in place."""
    bias = None if linear.bias is None else linear.bias[index]
    set_matrix(linear, matrix(linear)[index], bias)


def keep_columns(linear: Any, index: torch.Tensor) -> None:
    """Keeps some inputs of a projection, in place."""
    set_matrix(linear, matrix(linear)[:, index], linear.bias)
