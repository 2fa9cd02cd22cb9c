"""Voters on single weights: masks, and nothing that gets smaller.

Here to be measured beside structured removal. The weight matrices of the layers take part, all
their weights being one group; a weight is zeroed when k of N voters nominate it.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from tqdm import tqdm

from prune_exp.model.architectures import layers_of
from prune_exp.pruning.consensus import needed_votes
from prune_exp.settings.choices import check_one_of
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import PruningSettings

WeightVoter = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
"""Weights, their gradients and a source of chance to scores of the same shape, higher = keep."""
SAMPLE = 1_000_000
"""About so many weights tell where a voter's ballot ends; all of them in a smaller model."""


def weight_magnitude(weight: Any, gradient: Any, chance: Any) -> torch.Tensor:
    """Absolute value."""
    del gradient, chance
    return weight.abs()


def weight_taylor(weight: Any, gradient: Any, chance: Any) -> torch.Tensor:
    """First-order change of the loss without the weight (arXiv:1611.06440)."""
    del chance
    return (weight * gradient).abs()


def random_score(weight: Any, gradient: Any, chance: Any) -> torch.Tensor:
    """A control: knows nothing."""
    del gradient
    return torch.rand(weight.shape, generator=chance).to(weight.device)


WEIGHT_VOTERS: dict[str, WeightVoter] = {
    "magnitude": weight_magnitude,
    "gradient": weight_taylor,
    "random": random_score,
}


def check_masks(pruning: PruningSettings, sparsity: float, maskable: float) -> None:
    """Raises SettingError when single weights cannot be voted on as asked.

    `maskable` is the share of the parameters that could be zeroed.
    """
    if pruning.method == "weight_masks":
        for name in pruning.voters:
            check_one_of("pruning.voters", name, tuple(WEIGHT_VOTERS))
    if sparsity >= maskable:
        raise SettingError(
            f"sparsity={sparsity:g} is more than the {maskable:.3f} of the parameters that lie in"
            f" the layers' matrices; use sparsity={int(100 * maskable) / 100:g} or less"
        )


def zero_weights(
    model: Any,
    ids: torch.Tensor,
    pruning: PruningSettings,
    *,
    sparsity: float,
    vote_threshold: float,
    seed: int,
) -> int:
    """Zeroes weights of `model` in place by the method of `pruning`; returns how many.

    `ids` [blocks, tokens] is the text that gradients and losses are taken on. Under the adaptive
    ballot `sparsity` of all parameters become zero, under the fixed one those that k voters agree
    on when each nominates that share.
    """
    ids = ids.to(model.device)
    share = sparsity * sum(p.numel() for p in model.parameters()) / _count_maskable(model)
    if pruning.method == "stochastic":
        return _mask_stochastically(model, ids, pruning, share, vote_threshold, seed)
    return _mask_by_votes(model, ids, pruning, share, vote_threshold, seed)


def _layer_matrices(model: Any) -> Iterator[torch.nn.Parameter]:
    for layer in layers_of(model):
        yield from (p for p in layer.module.parameters() if p.ndim == 2)


def _count_maskable(model: Any) -> int:
    return sum(p.numel() for p in _layer_matrices(model))


def _zero_masked(model: Any, masks: Iterable[torch.Tensor]) -> int:
    """Zeroes what is masked in every matrix; returns how many weights that is."""
    zeroed = 0
    for weight, mask in zip(_layer_matrices(model), masks, strict=True):
        weight.data[mask] = 0
        zeroed += int(mask.sum())
    return zeroed


def _mask_by_votes(
    model: Any,
    ids: torch.Tensor,
    pruning: PruningSettings,
    share: float,
    vote_threshold: float,
    seed: int,
) -> int:
    gradients = _mean_gradients(model, ids)
    needed = needed_votes(vote_threshold, len(pruning.voters))

    def scores() -> Iterator[torch.Tensor]:
        chance = torch.Generator().manual_seed(seed)
        for weight, grad in zip(_layer_matrices(model), gradients, strict=True):
            ballots = [WEIGHT_VOTERS[n](weight.data, grad, chance) for n in pruning.voters]
            yield torch.stack(ballots)

    step = max(_count_maskable(model) // SAMPLE, 1)
    sample = torch.cat([one.flatten(1)[:, ::step] for one in scores()], dim=1)
    depth = share
    if pruning.ballot == "adaptive":
        depth = _adaptive_depth(sample, share, needed)
    ends = sample.sort(dim=1).values[:, min(int(depth * sample.shape[1]), sample.shape[1] - 1)]
    return _zero_masked(model, ((one < ends[:, None, None]).sum(0) >= needed for one in scores()))


def _adaptive_depth(sample: torch.Tensor, share: float, needed: int) -> float:
    """Share that every voter nominates so that `share` of a sample [voters, weights] goes."""
    placed = sample.argsort(dim=1).argsort(dim=1)
    decisive = placed.sort(dim=0).values[needed - 1]
    last = decisive.kthvalue(max(int(share * decisive.numel()), 1)).values
    return (int(last) + 1) / sample.shape[1]


def _mean_gradients(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """Gradient of the mean loss by every matrix."""
    weights = list(_layer_matrices(model))
    for weight in weights:
        weight.requires_grad_(True)
    total = [torch.zeros_like(weight) for weight in weights]
    for block in tqdm(ids, "gradients", unit="block"):
        with torch.enable_grad():
            loss = model(input_ids=block[None], labels=block[None], use_cache=False).loss
            found = torch.autograd.grad(loss, weights)
        for sum_, one in zip(total, found, strict=True):
            sum_ += one / len(ids)
    for weight in weights:
        weight.requires_grad_(False)
    return total


def _mask_stochastically(
    model: Any,
    ids: torch.Tensor,
    pruning: PruningSettings,
    share: float,
    vote_threshold: float,
    seed: int,
) -> int:
    """Many random masks; the few with the least calibration loss vote."""
    losses = []
    originals = [weight.data.clone() for weight in _layer_matrices(model)]
    for number in tqdm(range(pruning.masks), "masks", unit="mask"):
        _zero_masked(model, _random_masks(model, share, seed, number))
        losses.append((_summed_loss(model, ids), number))
        for weight, original in zip(_layer_matrices(model), originals, strict=True):
            weight.data.copy_(original)
    best = [number for _, number in sorted(losses)[: pruning.elite]]
    needed = needed_votes(vote_threshold, len(best))
    voters = [_random_masks(model, share, seed, number) for number in best]
    ballots = zip(*voters, strict=True)
    return _zero_masked(model, (torch.stack(given).sum(0) >= needed for given in ballots))


def _random_masks(model: Any, share: float, seed: int, number: int) -> Iterator[torch.Tensor]:
    """A random mask of every matrix, the same ones whenever asked for."""
    chance = torch.Generator().manual_seed(seed * 1_000_003 + number)
    for weight in _layer_matrices(model):
        yield torch.rand(weight.shape, generator=chance).to(weight.device) < share


def _summed_loss(model: Any, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return sum(float(model(input_ids=one[None], labels=one[None]).loss) for one in ids)
