"""Votes to decisions: scores in, a plan out. Pure tensors, no model.

A voter's rank of a unit is its place inside the unit's group, lowest score first.
"""

import math
from typing import TYPE_CHECKING

from prune_exp.records import Allocation, ModelShape, PruningPlan, Votes
from prune_exp.settings import PruningSettings

if TYPE_CHECKING:
    import torch

Scores = dict[str, "torch.Tensor"]
"""Voter to scores [groups, units], higher means keep."""


def needed_votes(vote_threshold: float, voters: int) -> int:
    """k of N: the number of voters that must agree, at least one."""
    return max(1, math.ceil(vote_threshold * voters - 1e-9))


def ranks(scores: Scores) -> "torch.Tensor":
    """Ranks [voters, groups, units] from 0 (first to go); equal scores go by index."""
    import torch

    stacked = torch.stack([scores[name] for name in sorted(scores)])
    return stacked.argsort(dim=-1, stable=True).argsort(dim=-1)


def removal_order(scores: Scores, vote_threshold: float) -> "torch.Tensor":
    """Units [groups, units] in the order in which a deepening ballot condemns them.

    A unit is condemned when k voters have nominated it, that is when the ballot is as deep as the
    k-th smallest of its ranks. Ties: more votes at that depth, then the lower mean rank, then the
    lower index.
    """
    import torch

    placed = ranks(scores)
    voters = placed.shape[0]
    depth = placed.sort(dim=0).values[needed_votes(vote_threshold, voters) - 1]
    votes = (placed <= depth).sum(0)
    mean = placed.double().mean(0)
    order = torch.arange(placed.shape[-1]).expand_as(depth)
    for key in (mean, -votes, depth):
        step = key.gather(-1, order).argsort(dim=-1, stable=True)
        order = order.gather(-1, step)
    return order


def votes_at(scores: Scores, depth: int) -> "torch.Tensor":
    """How many voters nominate each unit [groups, units] with a ballot of `depth` units."""
    return (ranks(scores) < depth).sum(0)


def condemn(scores: Scores, count: int, vote_threshold: float, ballot: str) -> "torch.Tensor":
    """Which units go, as a mask [groups, units] with equally many in every group.

    adaptive: `count` of them. fixed: everyone nominates `count`, those with k votes go, cut down
    to the group that agrees on the fewest, since all layers keep one shape.
    """
    import torch

    order = removal_order(scores, vote_threshold)
    assert 0 <= count < order.shape[-1], "at least one unit of a group stays"
    mask = torch.zeros_like(order, dtype=torch.bool)
    if ballot == "fixed":
        agreed = agreed_units(scores, count, vote_threshold)
        count = min(int(agreed.sum(-1).min()), order.shape[-1] - 1)
        order = _condemned_first(order, agreed)
    return mask.scatter(-1, order[:, :count], True)


def agreed_units(scores: Scores, count: int, vote_threshold: float) -> "torch.Tensor":
    """The fixed ballot's verdict, before shapes are made equal: mask [groups, units]."""
    return votes_at(scores, count) >= needed_votes(vote_threshold, len(scores))


def _condemned_first(order: "torch.Tensor", agreed: "torch.Tensor") -> "torch.Tensor":
    last = (~agreed.gather(-1, order)).int().argsort(dim=-1, stable=True)
    return order.gather(-1, last)


def agreement(scores: Scores) -> dict[str, dict[str, float]]:
    """Mean over groups of the Spearman rank correlation of every two voters."""
    import torch

    names = sorted(scores)
    placed = ranks(scores).double()
    if placed.shape[-1] < 2:
        return {a: dict.fromkeys(names, 1.0) for a in names}
    centred = placed - placed.mean(-1, keepdim=True)
    unit = centred / centred.norm(dim=-1, keepdim=True)
    matrix = torch.einsum("agu,bgu->abg", unit, unit).mean(-1)
    return {a: {b: float(matrix[i, j]) for j, b in enumerate(names)} for i, a in enumerate(names)}


def redundant(table: dict[str, dict[str, float]], at_least: float) -> list[tuple[str, str, float]]:
    """Pairs of voters that hold one opinion between them and so have two ballots for it."""
    names = sorted(table)
    return [
        (a, b, table[a][b])
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if table[a][b] >= at_least
    ]


def ballots(
    scores: Scores, gone: "torch.Tensor", count: int, vote_threshold: float, ballot: str
) -> "tuple[torch.Tensor, torch.Tensor]":
    """What every voter's ballot held [voters, groups, units], and how deep it was [groups].

    An adaptive ballot is as deep as it took to condemn the last of the units that went, `gone`
    [groups, units]; a fixed one holds `count` units.
    """
    import torch

    placed = ranks(scores)
    depth = torch.full(gone.shape[:1], count)
    if ballot == "adaptive":
        kth = placed.sort(dim=0).values[needed_votes(vote_threshold, len(scores)) - 1]
        depth = torch.where(gone, kth, -1).max(-1).values + 1
    return placed < depth[:, None], depth


def votes_on(
    kind: str, scores: Scores, gone: "torch.Tensor", ballot: tuple[int, float, str], split: int
) -> Votes:
    """Sums up the ballots behind `gone` [groups, units]; a layer's `split` groups in one figure.

    `ballot` holds the arguments of `ballots` after `gone`.
    """
    held, depth = ballots(scores, gone, *ballot)
    shares = (held & gone).sum(-1) / gone.sum(-1)
    if kind == "layers":
        shares, split = held[:, 0], 1
    shares = shares.double().unflatten(-1, (-1, split)).mean(-1)
    deep = (depth / gone.shape[-1]).unflatten(-1, (-1, split)).mean(-1)
    return Votes(
        depth=_rounded(deep),
        nominated={name: _rounded(row) for name, row in zip(sorted(scores), shares, strict=True)},
    )


def _rounded(values: "torch.Tensor") -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in values)


def make_plan(
    scores: dict[str, Scores],
    shape: ModelShape,
    allocation: Allocation,
    *,
    sparsity: float,
    vote_threshold: float,
    pruning: PruningSettings,
    layers: tuple[int, ...] | None = None,
) -> PruningPlan:
    """Turns scores by kind of unit into a plan. Layers go first; the others vote in those left.

    With `layers` it is those that go, whatever the vote on layers says.
    """
    votes: dict[str, Votes] = {}

    def decide(
        kind: str, chosen: Scores, count: int, split: int = 1, gone: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        if gone is None:
            gone = condemn(chosen, count, vote_threshold, pruning.ballot)
        if gone.any():
            ballot = count, vote_threshold, pruning.ballot
            votes[kind] = votes_on(kind, chosen, gone, ballot, split)
        return gone

    given = None if layers is None else _mask(layers, shape.layers)
    removed = _places(decide("layers", scores["layers"], allocation.layers, gone=given)[0])
    stay = [i for i in range(shape.layers) if i not in removed]
    by_group = pruning.head_unit == "group"
    count = allocation.kv_groups if by_group else allocation.queries_per_group
    split = 1 if by_group else shape.kv_heads
    heads = decide("heads", _rows(scores["heads"], stay, split), count, split)
    if by_group:
        heads = heads.repeat_interleave(shape.queries_per_group, dim=-1)
    channels = decide("mlp", _rows(scores["mlp"], stay, 1), allocation.channels)
    tokens = ()
    if allocation.tokens:
        tokens = _places(decide("vocab", scores["vocab"], allocation.tokens)[0])
    return PruningPlan(
        sparsity_requested=sparsity,
        vote_threshold=vote_threshold,
        ballot=pruning.ballot,
        allocation=allocation,
        layers=removed,
        heads=_indices(heads.view(len(stay), shape.query_heads), stay),
        channels=_indices(channels, stay),
        tokens=tokens,
        voters={kind: tuple(sorted(table)) for kind, table in scores.items()},
        agreement={kind: agreement(table) for kind, table in scores.items()},
        votes=votes,
    )


def _rows(scores: Scores, layers: list[int], split: int) -> Scores:
    """The groups of some layers, where each layer has `split` groups."""
    import torch

    index = torch.tensor([layer * split + part for layer in layers for part in range(split)])
    return {name: values[index] for name, values in scores.items()}


def _indices(mask: "torch.Tensor", layers: list[int]) -> dict[int, tuple[int, ...]]:
    return {layer: _places(row) for layer, row in zip(layers, mask, strict=True)}


def _mask(places: tuple[int, ...], count: int) -> "torch.Tensor":
    import torch

    return torch.tensor([[i in places for i in range(count)]])


def _places(row: "torch.Tensor") -> tuple[int, ...]:
    return tuple(int(i) for i in row.nonzero().flatten())
