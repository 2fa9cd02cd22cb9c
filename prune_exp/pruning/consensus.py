"""Votes to decisions: scores in, a plan out. Pure tensors, no model.

A voter's rank of a unit is its place inside the unit's group, lowest score first. A ballot holds a
voter's lowest-ranked units; a unit that k of N ballots hold is condemned.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from prune_exp.model.shape import ModelShape
from prune_exp.pruning.plan import Allocation, PruningPlan, Votes

Scores = dict[str, torch.Tensor]
"""Voter to scores [groups, units], higher means keep."""


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """How the voters are asked, and what share of them must agree."""

    kind: str
    """adaptive: ballots deepen until enough units are condemned. fixed: all are equally deep."""
    vote_threshold: float
    """Share of the voters that must nominate a unit, in (0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Which units of one kind go, and the ballots behind that."""

    gone: torch.Tensor
    """[groups, units]"""
    votes: Votes | None
    """None where nothing goes."""


def needed_votes(vote_threshold: float, voters: int) -> int:
    """k of N: the number of voters that must agree, at least one."""
    return max(1, math.ceil(vote_threshold * voters - 1e-9))


def rank_units(scores: Scores) -> torch.Tensor:
    """Ranks [voters, groups, units] from 0 (first to go); equal scores go by index."""
    stacked = torch.stack([scores[name] for name in sorted(scores)])
    return stacked.argsort(dim=-1, stable=True).argsort(dim=-1)


def condemning_depth(ranks: torch.Tensor, vote_threshold: float) -> torch.Tensor:
    """The k-th smallest of each unit's ranks [voters, groups, units] -> [groups, units].

    A ballot one deeper than that makes the k-th voter nominate the unit, and so condemns it.
    """
    needed = needed_votes(vote_threshold, len(ranks))
    return ranks.sort(dim=0).values[needed - 1]


def removal_order(scores: Scores, vote_threshold: float) -> torch.Tensor:
    """Units [groups, units] in the order in which a deepening ballot condemns them.

    Ties: more votes at that depth, then the lower mean rank, then the lower index.
    """
    ranks = rank_units(scores)
    depth = condemning_depth(ranks, vote_threshold)
    votes = (ranks <= depth).sum(0)
    mean_rank = ranks.double().mean(0)
    order = torch.arange(ranks.shape[-1]).expand_as(depth)
    for key in (mean_rank, -votes, depth):  # stable sorts: the last key decides first
        place = key.gather(-1, order).argsort(dim=-1, stable=True)
        order = order.gather(-1, place)
    return order


def count_votes(scores: Scores, depth: int) -> torch.Tensor:
    """How many voters nominate each unit [groups, units] with a ballot of `depth` units."""
    return (rank_units(scores) < depth).sum(0)


def agreed_units(scores: Scores, depth: int, vote_threshold: float) -> torch.Tensor:
    """Units that k ballots of `depth` units hold, as a mask [groups, units].

    That is the fixed ballot's verdict, before shapes are made equal.
    """
    return count_votes(scores, depth) >= needed_votes(vote_threshold, len(scores))


def condemn(
    scores: Scores, count: int, ballot: Ballot, may_lose: Callable[[int], bool] = lambda _: True
) -> torch.Tensor:
    """Which units go, as a mask [groups, units] with equally many in every group.

    adaptive: `count` of them. fixed: everyone nominates `count`, those with k votes go, cut down
    to the group that agrees on the fewest, since all layers keep one shape, and to a number that a
    group may lose.
    """
    order = removal_order(scores, ballot.vote_threshold)
    assert 0 <= count < order.shape[-1], "at least one unit of a group stays"
    if ballot.kind == "fixed":
        agreed = agreed_units(scores, count, ballot.vote_threshold)
        most = min(int(agreed.sum(-1).min()), order.shape[-1] - 1)
        count = next(number for number in range(most, -1, -1) if may_lose(number))
        order = _agreed_first(order, agreed)
    mask = torch.zeros_like(order, dtype=torch.bool)
    return mask.scatter(-1, order[:, :count], True)


def _agreed_first(order: torch.Tensor, agreed: torch.Tensor) -> torch.Tensor:
    """The order [groups, units] with the agreed units in front, each part as it was."""
    contested = ~agreed.gather(-1, order)
    return order.gather(-1, contested.int().argsort(dim=-1, stable=True))


def correlate_voters(scores: Scores) -> dict[str, dict[str, float]]:
    """Mean over groups of the Spearman rank correlation of every two voters."""
    names = sorted(scores)
    ranks = rank_units(scores).double()
    if ranks.shape[-1] < 2:
        return {a: dict.fromkeys(names, 1.0) for a in names}
    centred = ranks - ranks.mean(-1, keepdim=True)
    unit = centred / centred.norm(dim=-1, keepdim=True)
    matrix = torch.einsum("agu,bgu->abg", unit, unit).mean(-1)
    return {a: {b: float(matrix[i, j]) for j, b in enumerate(names)} for i, a in enumerate(names)}


def redundant_pairs(
    agreement: dict[str, dict[str, float]], at_least: float
) -> list[tuple[str, str, float]]:
    """Pairs of voters that hold one opinion between them and so have two ballots for it."""
    names = sorted(agreement)
    return [
        (a, b, agreement[a][b])
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if agreement[a][b] >= at_least
    ]


def cast_ballots(
    scores: Scores, gone: torch.Tensor, count: int, ballot: Ballot
) -> tuple[torch.Tensor, torch.Tensor]:
    """What every voter's ballot held [voters, groups, units], and how deep it was [groups].

    An adaptive ballot is as deep as it took to condemn the last of the units that went, `gone`
    [groups, units]; a fixed one holds `count` units.
    """
    ranks = rank_units(scores)
    depth = torch.full(gone.shape[:1], count)
    if ballot.kind == "adaptive":
        condemned_at = condemning_depth(ranks, ballot.vote_threshold)
        depth = torch.where(gone, condemned_at, -1).max(-1).values + 1
    return ranks < depth[:, None], depth


def count_nominations(
    kind: str,
    scores: Scores,
    gone: torch.Tensor,
    count: int,
    ballot: Ballot,
    groups_per_layer: int = 1,
) -> Votes:
    """Sums up the ballots behind `gone` [groups, units]; a layer's groups in one figure.

    Of whole layers, what each ballot held is told layer by layer.
    """
    held, depth = cast_ballots(scores, gone, count, ballot)
    if kind == "layers":
        nominated = held[:, 0].double()
    else:
        nominated = _mean_by_layer((held & gone).sum(-1) / gone.sum(-1), groups_per_layer)
    by_voter = zip(sorted(scores), nominated, strict=True)
    return Votes(
        depth=_round_values(_mean_by_layer(depth / gone.shape[-1], groups_per_layer)),
        nominated={voter: _round_values(shares) for voter, shares in by_voter},
    )


def _mean_by_layer(values: torch.Tensor, groups_per_layer: int) -> torch.Tensor:
    """Values of groups [.., groups] as means of the groups of each layer [.., layers]."""
    return values.double().unflatten(-1, (-1, groups_per_layer)).mean(-1)


def _round_values(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in values)


def decide_on_kind(
    kind: str,
    scores: Scores,
    count: int,
    ballot: Ballot,
    *,
    groups_per_layer: int = 1,
    given: torch.Tensor | None = None,
    may_lose: Callable[[int], bool] = lambda _: True,
) -> Decision:
    """Condemns `count` units of every group, unless what goes is `given` [groups, units]."""
    gone = condemn(scores, count, ballot, may_lose) if given is None else given
    votes = None
    if gone.any():
        votes = count_nominations(kind, scores, gone, count, ballot, groups_per_layer)
    return Decision(gone=gone, votes=votes)


def make_plan(
    scores: dict[str, Scores],
    shape: ModelShape,
    allocation: Allocation,
    *,
    sparsity: float,
    ballot: Ballot,
    token_ballot: Ballot,
    head_unit: str,
    layers: tuple[int, ...] | None = None,
) -> PruningPlan:
    """Turns scores by kind of unit into a plan. Layers go first; the others vote in those left.

    With `layers` it is those that go, whatever the vote on layers says, and ballots on layers hold
    as many. Tokens have a ballot of their own. `head_unit` is `pruning.head_unit`.
    """
    given = None if layers is None else _mask_of(layers, shape.layers)
    own = ballot if layers is None else replace(ballot, kind="fixed")
    by_kind = {
        "layers": decide_on_kind("layers", scores["layers"], allocation.layers, own, given=given)
    }
    removed = _indices_of(by_kind["layers"].gone[0])
    kept = [i for i in range(shape.layers) if i not in removed]
    by_kind["heads"] = _decide_heads(scores["heads"], shape, allocation, ballot, head_unit, kept)
    in_kept = _select_layers(scores["mlp"], kept)
    by_kind["mlp"] = decide_on_kind("mlp", in_kept, allocation.channels, ballot)
    if allocation.tokens:
        by_kind["vocab"] = decide_on_kind("vocab", scores["vocab"], allocation.tokens, token_ballot)
    heads = _query_heads(by_kind["heads"].gone, shape, head_unit)
    return PruningPlan(
        sparsity_requested=sparsity,
        vote_threshold=ballot.vote_threshold,
        ballot=ballot.kind,
        allocation=allocation,
        layers=removed,
        heads=_indices_by_layer(heads, kept),
        channels=_indices_by_layer(by_kind["mlp"].gone, kept),
        tokens=_indices_of(by_kind["vocab"].gone[0]) if "vocab" in by_kind else (),
        voters={kind: tuple(sorted(table)) for kind, table in scores.items()},
        agreement={
            kind: correlate_voters(table)
            for kind, table in scores.items()
            if all(units.shape[-1] > 1 for units in table.values())
        },
        votes={kind: one.votes for kind, one in by_kind.items() if one.votes is not None},
    )


def vote_on_channels(
    plan: PruningPlan, scores: Scores, ballot: Ballot, given: torch.Tensor | None = None
) -> PruningPlan:
    """A plan whose MLP channels are voted on anew, in the layers that stay.

    `scores` are those of all layers; as many channels go as before, and all else stays. With
    `given` [layers that stay, channels] these go, whatever the vote says.
    """
    kept = sorted(plan.channels)
    in_kept = _select_layers(scores, kept)
    decision = decide_on_kind("mlp", in_kept, plan.allocation.channels, ballot, given=given)
    votes = {} if decision.votes is None else {"mlp": decision.votes}
    return replace(
        plan,
        channels=_indices_by_layer(decision.gone, kept),
        voters=plan.voters | {"mlp": tuple(sorted(scores))},
        votes=plan.votes | votes,
    )


def as_masks(channels: Mapping[int, tuple[int, ...]], width: int) -> torch.Tensor:
    """The units of each layer, in the order of the layers, as masks [layers, units]."""
    return torch.cat([_mask_of(own, width) for _, own in sorted(channels.items())])


def _decide_heads(
    scores: Scores,
    shape: ModelShape,
    allocation: Allocation,
    ballot: Ballot,
    head_unit: str,
    kept: list[int],
) -> Decision:
    """Heads of the kept layers: groups in each layer, or query heads in each group.

    No ballot leaves a number of them that the model's config refuses.
    """
    whole = head_unit == "group"
    in_layer = 1 if whole else shape.kv_heads

    def may_lose(gone: int) -> bool:
        groups = shape.kv_heads - gone * whole
        queries = shape.queries_per_group - gone * (not whole)
        return gone == 0 or shape.can_have(queries=groups * queries, groups=groups)

    return decide_on_kind(
        "heads",
        _select_layers(scores, kept, in_layer),
        allocation.kv_groups if whole else allocation.queries_per_group,
        ballot,
        groups_per_layer=in_layer,
        may_lose=may_lose,
    )


def _query_heads(gone: torch.Tensor, shape: ModelShape, head_unit: str) -> torch.Tensor:
    """Heads that go, of either unit, as a mask of query heads [layers, query heads]."""
    if head_unit == "group":
        gone = gone.repeat_interleave(shape.queries_per_group, dim=-1)
    return gone.reshape(-1, shape.query_heads)


def _select_layers(scores: Scores, layers: list[int], groups_per_layer: int = 1) -> Scores:
    """The groups of some layers."""
    parts = range(groups_per_layer)
    index = torch.tensor([layer * groups_per_layer + part for layer in layers for part in parts])
    return {name: values[index] for name, values in scores.items()}


def _indices_by_layer(mask: torch.Tensor, layers: list[int]) -> dict[int, tuple[int, ...]]:
    """The units in each row of a mask [layers, units], by layer."""
    return {layer: _indices_of(row) for layer, row in zip(layers, mask, strict=True)}


def _mask_of(indices: tuple[int, ...], count: int) -> torch.Tensor:
    """Indices as a mask of one group [1, count]."""
    mask = torch.zeros(1, count, dtype=torch.bool)
    mask[0, torch.tensor(indices, dtype=torch.long)] = True
    return mask


def _indices_of(row: torch.Tensor) -> tuple[int, ...]:
    """Where a mask [units] is true."""
    return tuple(int(i) for i in row.nonzero().flatten())
