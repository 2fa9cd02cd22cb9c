"""Try plans before one is carried out: refit each on a few blocks of text, judge it on others.

The votes know single units. What the model loses without several layers together, and how much of
the budget layers should bear, shows only once the weights that stay have been refit: on
SmolLM2-135M the loss without a set of layers does not rank sets as the loss after the refit does,
and a refit on few blocks does. Only one layer is copied at a time; the model stays as it is.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prune_exp.architectures import blocks_of, final_norm_of
from prune_exp.layerwise import Refit, Streams, refit_layer, steps
from prune_exp.models import head_of
from prune_exp.records import PruningPlan, Rehearsed
from prune_exp.settings import PruningSettings
from prune_exp.streaming import LayerStream

if TYPE_CHECKING:
    import torch

BLOCKS = 8
"""Blocks of text to refit on, and as many others to judge by."""

States = Callable[[int], "torch.Tensor"]
"""The dense residual stream before a block, or after the last [blocks, tokens, hidden]."""


def best_rehearsed(
    model: Any, plans: list[PruningPlan], ids: "torch.Tensor", states: States, how: PruningSettings
) -> PruningPlan:
    """The plan that loses least, with what was found of all.

    `ids` [blocks, tokens] and `states` are the calibration text's; removed tokens count as if they
    were still there.
    """
    from tqdm import tqdm

    tried = []
    for plan in tqdm(plans, "rehearse", unit="plan"):
        loss = rehearsed_loss(model, plan, ids[: 2 * BLOCKS], states, how)
        channels = plan.allocation.channels
        tried.append(Rehearsed(layers=plan.layers, channels=channels, loss_nats=loss))
    best = min(range(len(plans)), key=lambda place: tried[place].loss_nats)
    return replace(plans[best], rehearsed=tuple(tried))


def rehearsed_loss(
    model: Any, plan: PruningPlan, ids: "torch.Tensor", states: States, how: PruningSettings
) -> float:
    """Mean loss per token, in nats, on the second half of `ids` after a refit on the first.

    `model` is the dense one. ids [blocks, tokens] are the first blocks that `states` knows.
    """
    half, blocks = len(ids) // 2, blocks_of(model)
    assert half, "one block to refit on and one to judge by"
    stream = LayerStream(model, ids)
    run = Refit(
        blocks=list(blocks),
        plan=plan,
        stream=stream,
        states=Streams(dense=stream.hidden[:half], pruned=stream.hidden[:half]),
        damping=how.refit_damping,
        towards_dense=how.refit_towards_dense,
        known=lambda index: states(index)[:half],
        bfloat16=False,
    )
    judged = stream.hidden[half:]
    order = steps(plan, len(blocks))
    run.states.dense = states(order[0][0])[:half].to(judged.device)
    for index, following in order:
        run.blocks[index] = replace(blocks[index], module=deepcopy(blocks[index].module))
        refit_layer(run, index, following)
        judged = run.forward(index, judged)
        run.blocks[index] = blocks[index]
    return _loss(model, judged, ids[half:])


def _loss(model: Any, hidden: "torch.Tensor", ids: "torch.Tensor") -> float:
    """Mean cross-entropy of ids [blocks, tokens] given the last block's output, in nats."""
    import torch

    norm, head, total = final_norm_of(model), head_of(model), 0.0
    with torch.no_grad():
        for one, tokens in zip(hidden, ids.to(hidden.device), strict=True):
            total += float(torch.nn.functional.cross_entropy(head(norm(one[:-1])), tokens[1:]))
    return total / len(ids)


def closest_run(states: States, layers: int, count: int) -> tuple[int, ...]:
    """The `count` consecutive layers that turn the residual stream least (arXiv:2403.17887).

    Turned by the mean angle between the stream before and after them, on the first blocks.
    """
    import torch

    if not count:
        return ()
    angles = []
    for first in range(layers - count + 1):
        before, after = states(first)[:BLOCKS], states(first + count)[:BLOCKS]
        cosine = torch.cosine_similarity(before, after, dim=-1).clamp(-1, 1)
        angles.append(float(torch.arccos(cosine).mean()))
    first = min(range(len(angles)), key=angles.__getitem__)
    return tuple(range(first, first + count))
