"""What is contested among the votes is settled layer by layer, by what it costs to take it out.

The cost is exact: how much more the layer is wrong once the weights that stay are solved again
(Optimal Brain Surgeon: Hassibi and Stork 1993; for structures: arXiv:2203.07259). Sets of channels
are compared by errors on text that neither their weights nor they themselves were found on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm import tqdm

from prune_exp.model.architectures import weight_matrix
from prune_exp.pruning.consensus import as_masks
from prune_exp.pruning.least_squares import LeastSquares
from prune_exp.pruning.plan import PruningPlan, Settled
from prune_exp.pruning.refit import (
    RefitSettings,
    StatesAt,
    pair_kept_layers,
    refit_layer,
    sum_channels,
)
from prune_exp.pruning.rehearsal import as_cost, copy_layer, start_rehearsal

BY_COST = "removal cost"


@dataclass(frozen=True, kw_only=True)
class LayerEvidence:
    """What two halves of a text say of a layer's MLP, all channels of it."""

    halves: tuple[LeastSquares, LeastSquares]
    weights: torch.Tensor
    """What reads the channels, as it is in the dense model [hidden, width]."""
    damping: float
    """As `pruning.refit_damping`."""


def convene_jury(
    model: Any,
    plan: PruningPlan,
    sets: Mapping[str, Mapping[int, tuple[int, ...]]],
    ids: torch.Tensor,
    states_at: StatesAt | None,
    how: RefitSettings,
) -> tuple[dict[int, tuple[int, ...]], tuple[Settled, ...]]:
    """The channels that go in each layer that stays, and how that was settled.

    `sets` are the channels by layer that those would take out who stand for election, the vote
    first. Layers are refit in turn, so that each is judged by the stream that it will have to live
    with; where heads go as well, its channels are still those of all heads. `ids` [blocks, tokens]
    are two blocks at least; `states_at` is the dense model's stream on them, None where it has to
    be computed.
    """
    run = start_rehearsal(model, plan, ids, states_at, how)
    width = run.layers[0].width
    device = run.pruned.device
    masks = {name: as_masks(own, width).to(device) for name, own in sets.items()}
    channels = dict(plan.channels)
    found = []
    order = tqdm(pair_kept_layers(plan, len(run.layers)), "jury", unit="layer")
    for row, (index, following) in enumerate(order):
        layer = copy_layer(run.layers[index])
        halves = (slice(0, len(ids) // 2), slice(len(ids) // 2, None))
        first, second = (sum_channels(run, layer, index, following, half) for half in halves)
        evidence = LayerEvidence(
            halves=(first, second),
            weights=weight_matrix(layer.mlp_out),
            damping=how.damping,
        )
        gone, settled = settle_layer(index, evidence, {name: m[row] for name, m in masks.items()})
        channels[index] = tuple(gone.nonzero()[:, 0].tolist())
        found.append(settled)
        run.plan = replace(run.plan, channels=dict(channels))
        refit_layer(run, layer, index, following)
    return channels, tuple(found)


def settle_layer(
    index: int, evidence: LayerEvidence, sets: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, Settled]:
    """Which channels of a layer go [width], and how that was settled.

    `sets` are masks [width] of equally many channels, the vote's first. Beside them stand those of
    the contested channels that cost least, taken out one after another. Who has the least error on
    the halves that were left out wins, the first of equal ones.
    """
    stacked = torch.stack([*sets.values()])
    agreed = stacked.all(0)
    contested = stacked.any(0) & ~agreed
    vote = stacked[0]
    best, gone = next(iter(sets)), vote
    if contested.any():
        errors = {name: cross_fitted_error(evidence, own, own) for name, own in sets.items()}
        how = (agreed, contested, int(vote.sum()), evidence.weights, evidence.damping)
        first, second = evidence.halves
        by_half = [remove_cheapest(half, *how) for half in (first, second)]
        errors[BY_COST] = cross_fitted_error(evidence, *by_half)
        best = min(errors, key=lambda name: as_cost(errors[name]))
        gone = sets[best] if best in sets else remove_cheapest(first.joined(second), *how)
    settled = Settled(
        layer=index,
        agreed=int(agreed.sum()),
        contested=int(contested.sum()),
        changed=int((gone & ~vote).sum()),
        by=best,
    )
    return gone, settled


def remove_cheapest(
    fit: LeastSquares,
    agreed: torch.Tensor,
    contested: torch.Tensor,
    count: int,
    weights: torch.Tensor,
    damping: float,
) -> torch.Tensor:
    """A mask [width] of `count` channels: those agreed on, and the contested ones that cost least.

    They go one at a time; then the weights that are left are solved again, and the costs with them.
    `weights` [m, width] are the dense model's, near which solutions are kept.
    """
    kept = (~agreed).nonzero()[:, 0]
    system, right, ridge = fit.narrow(kept).damped(weights[:, kept], damping)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))
    at = contested[kept]
    places = kept[at]
    solved = (right @ inverse)[:, at]
    # a channel that is gone is not held to its dense weights any more
    held = ridge * weights[:, places].double().square().sum(0)
    inverse = inverse[at][:, at]
    gone = agreed.clone()
    for _ in range(count - int(agreed.sum())):
        costs = solved.square().sum(0) / inverse.diagonal() - held
        costs[gone[places]] = torch.inf
        one = int(costs.argmin())
        gone[places[one]] = True
        share = inverse[one] / inverse[one, one]
        solved -= solved[:, one, None] * share
        inverse -= inverse[:, one, None] * share
        inverse[one, one] = 1.0  # no division by 0; it is not asked again
    return gone


def cross_fitted_error(evidence: LayerEvidence, first: torch.Tensor, second: torch.Tensor) -> float:
    """Squared error where each half judges what the other has taught.

    `first` and `second` are the channels [width] that go by the first and by the second half. Less
    what no channels at all would lose, which is the same for every set.
    """
    total = 0.0
    for gone, half, other in zip(
        (first, second), evidence.halves, evidence.halves[::-1], strict=True
    ):
        kept = (~gone).nonzero()[:, 0]
        solved = half.narrow(kept).solve(evidence.weights[:, kept], evidence.damping)
        total += other.narrow(kept).error_of(solved)
    return total
