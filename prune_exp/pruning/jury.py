"""What is contested among the votes is settled layer by layer, by what it costs to take it out.

The cost is exact: the error of the layer once the weights that stay are solved again (Optimal Brain
Surgeon: Hassibi and Stork 1993; for many weights at once: Kurtic et al. 2022, arXiv:2203.07259).
Sets of channels are compared by errors on text that their weights were not solved on.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm import tqdm

from prune_exp.model.architectures import weight_matrix
from prune_exp.pruning.consensus import as_masks
from prune_exp.pruning.least_squares import LeastSquares
from prune_exp.pruning.plan import PruningPlan, Settled
from prune_exp.pruning.refit import RefitSettings, pair_kept_layers, refit_layer, sum_channels
from prune_exp.pruning.rehearsal import RehearsalText, start_rehearsal

BY_COST = "removal cost"
AT_ONCE = 8
"""Channels that are taken out before the costs of the others are looked at again."""


@dataclass(frozen=True, kw_only=True)
class LayerEvidence:
    """What two halves of a text say of a layer's MLP, all channels of it."""

    first: LeastSquares
    second: LeastSquares
    weights: torch.Tensor
    """What reads the channels, as it is in the dense model [hidden, width]."""
    damping: float
    """As `pruning.refit_damping`."""


def convene_jury(
    model: Any,
    plan: PruningPlan,
    sets: Mapping[str, Mapping[int, tuple[int, ...]]],
    text: RehearsalText,
    how: RefitSettings,
) -> tuple[dict[int, tuple[int, ...]], tuple[Settled, ...]]:
    """The channels that go in each layer that stays, and how that was settled.

    `sets` are the channels by layer that those would take out who stand for election, the vote
    first. Layers are refit in turn, so that each is judged on what it will have to live with. Only
    `text.fit` is read, which needs two blocks.
    """
    run = start_rehearsal(model, plan, text, how)
    half = len(text.fit) // 2
    channels = dict(plan.channels)
    found = []
    for index, following in tqdm(pair_kept_layers(plan, len(run.layers)), "jury", unit="layer"):
        layer = replace(run.layers[index], module=deepcopy(run.layers[index].module))
        first, second = (
            sum_channels(run, layer, index, following, blocks).to_cpu()
            for blocks in (slice(0, half), slice(half, None))
        )
        evidence = LayerEvidence(
            first=first,
            second=second,
            weights=weight_matrix(layer.mlp_out).cpu(),
            damping=how.damping,
        )
        masks = {name: as_masks({0: own[index]}, layer.width)[0] for name, own in sets.items()}
        gone, settled = settle_layer(index, evidence, masks)
        channels[index] = tuple(gone.nonzero()[:, 0].tolist())
        found.append(settled)
        run.plan = replace(run.plan, channels=dict(channels))
        refit_layer(run, layer, index, following)
    return channels, tuple(found)


def settle_layer(
    index: int, evidence: LayerEvidence, sets: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, Settled]:
    """Which channels of a layer go [width], and how that was settled.

    `sets` are masks [width] of equally many channels, the vote's first. Beside them stands what is
    left of the contested channels when those that cost least go one after another. The error on
    the other half decides, so that no set of `sets` would have done better by it; of equal ones the
    first is taken.
    """
    stacked = torch.stack([*sets.values()])
    agreed = stacked.all(0)
    contested = stacked.any(0) & ~agreed
    vote = stacked[0]
    by_cost = remove_cheapest(evidence, agreed, contested, count=int(vote.sum()))
    stands = {**sets, BY_COST: by_cost}
    errors = {name: cross_fitted_error(evidence, gone) for name, gone in stands.items()}
    best = min(errors, key=errors.__getitem__)
    settled = Settled(
        layer=index,
        agreed=int(agreed.sum()),
        contested=int(contested.sum()),
        changed=int((stands[best] & ~vote).sum()),
        by=best,
    )
    return stands[best], settled


def remove_cheapest(
    evidence: LayerEvidence, agreed: torch.Tensor, contested: torch.Tensor, *, count: int
) -> torch.Tensor:
    """A mask [width] of `count` channels: those agreed on, and the contested ones that cost least.

    A few go at a time; then the weights that are left are solved again, and the costs with them.
    """
    both = evidence.first.joined(evidence.second)
    kept = (~agreed).nonzero()[:, 0]
    inverse, weights = _solve(both.narrow(kept), evidence, kept)
    gone = agreed.clone()
    while int(gone.sum()) < count:
        costs = weights.square().sum(0) / inverse.diagonal()
        costs[~contested[kept]] = torch.inf
        some = costs.argsort(stable=True)[: min(AT_ONCE, count - int(gone.sum()))]
        gone[kept[some]] = True
        rest = (~torch.isin(torch.arange(len(kept)), some)).nonzero()[:, 0]
        share = torch.linalg.solve(inverse[some][:, some], inverse[some][:, rest])
        weights = weights[:, rest] - weights[:, some] @ share
        inverse = inverse[rest][:, rest] - inverse[rest][:, some] @ share
        kept = kept[rest]
    return gone


def _solve(
    fit: LeastSquares, evidence: LayerEvidence, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of the damped system [kept, kept], and the weights that solve it [m, kept]."""
    system, right = fit.damped(evidence.weights[:, kept], evidence.damping)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))
    return inverse, right @ inverse


def cross_fitted_error(evidence: LayerEvidence, gone: torch.Tensor) -> float:
    """Squared error without the channels `gone` [width]; each half judges the other's weights.

    Less what no channels at all would lose, which is the same for every set.
    """
    kept = (~gone).nonzero()[:, 0]
    prior = evidence.weights[:, kept]
    halves = [evidence.first.narrow(kept), evidence.second.narrow(kept)]
    solved = [half.solve(prior, evidence.damping) for half in halves]
    return sum(half.error_of(other) for half, other in zip(halves, reversed(solved), strict=True))
