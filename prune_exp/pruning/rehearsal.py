"""Try plans before one is carried out: refit each on a few blocks of text, judge it on others.

The votes know single units. What the model loses without several layers together, and how much of
the budget layers should bear, shows only once the weights that stay have been refit. Only one layer
is copied at a time; the model stays as it is.
"""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from prune_exp.model.architectures import final_norm_of, head_of, layers_of
from prune_exp.pruning.layer_stream import LayerStream
from prune_exp.pruning.plan import PruningPlan, Rehearsed
from prune_exp.pruning.refit import (
    RefitRun,
    RefitSettings,
    StatesAt,
    pair_kept_layers,
    refit_layer,
)

BLOCKS = 8
"""Blocks of text to refit on, and as many others to judge by."""


def best_rehearsed(
    model: Any,
    plans: list[PruningPlan],
    ids: torch.Tensor,
    states_at: StatesAt,
    how: RefitSettings,
) -> PruningPlan:
    """The plan that loses least, with what was found of all.

    `ids` [blocks, tokens] and `states_at` are the calibration text's; removed tokens count as if
    they were still there.
    """
    tried = []
    for plan in tqdm(plans, "rehearse", unit="plan"):
        loss = rehearse_plan(model, plan, ids[: 2 * BLOCKS], states_at, how)
        channels = plan.allocation.channels
        tried.append(Rehearsed(layers=plan.layers, channels=channels, loss_nats=loss))
    best = min(range(len(plans)), key=lambda place: tried[place].loss_nats)
    return replace(plans[best], rehearsed=tuple(tried))


def rehearse_plan(
    model: Any, plan: PruningPlan, ids: torch.Tensor, states_at: StatesAt, how: RefitSettings
) -> float:
    """Mean loss per token, in nats, on the second half of `ids` after a refit on the first.

    `model` is the dense one. ids [blocks, tokens] are the first blocks that `states_at` knows.
    """
    half = len(ids) // 2
    assert half, "one block to refit on and one to judge by"
    layers = layers_of(model)
    calls = LayerStream(model, ids)
    order = pair_kept_layers(plan, len(layers))
    first, _ = order[0]
    run = RefitRun(
        layers=layers,
        plan=plan,
        calls=calls,
        how=replace(how, bfloat16=False),
        dense=states_at(first)[:half].to(calls.hidden.device),
        pruned=calls.hidden[:half],
        dense_states_at=lambda index: states_at(index)[:half],
    )
    judged = calls.hidden[half:]
    for index, following in order:
        copied = replace(layers[index], module=deepcopy(layers[index].module))
        refit_layer(run, copied, index, following)
        judged = run.run_layer(copied, index, judged)
    return _mean_loss(model, judged, ids[half:])


def _mean_loss(model: Any, hidden: torch.Tensor, ids: torch.Tensor) -> float:
    """Mean cross-entropy of ids [blocks, tokens] given the last layer's output, in nats.

    `hidden` is that output [blocks, tokens, hidden].
    """
    norm = final_norm_of(model)
    head = head_of(model)
    total = 0.0
    with torch.no_grad():
        for states, tokens in zip(hidden, ids.to(hidden.device), strict=True):
            logits = head(norm(states[:-1]))
            total += float(torch.nn.functional.cross_entropy(logits, tokens[1:]))
    return total / len(ids)


def closest_run(states_at: StatesAt, layers: int, count: int) -> tuple[int, ...]:
    """The `count` consecutive layers that turn the residual stream least (arXiv:2403.17887).

    Turned by the mean angle between the stream before and after them, on the first blocks.
    """
    if not count:
        return ()
    angles = []
    for first in range(layers - count + 1):
        before = states_at(first)[:BLOCKS]
        after = states_at(first + count)[:BLOCKS]
        cosine = torch.cosine_similarity(before, after, dim=-1).clamp(-1, 1)
        angles.append(float(torch.arccos(cosine).mean()))
    first = min(range(len(angles)), key=angles.__getitem__)
    return tuple(range(first, first + count))
