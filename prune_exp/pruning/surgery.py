"""Carry a plan out: a smaller model whose weights make up for what is gone.

Layers are visited in order, one model in memory, or only a layer of it, changed in place.
"""

from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm

from prune_exp.model.architectures import layers_of
from prune_exp.model.assembly import assemble_model, keep_tokens
from prune_exp.model.offload import at_hand
from prune_exp.model.shape import Heads
from prune_exp.pruning.layer_stream import LayerStream
from prune_exp.pruning.plan import PruningPlan, Reconstructed
from prune_exp.pruning.refit import (
    RefitRun,
    RefitSettings,
    StatesAt,
    cut_layer,
    kept_units,
    pair_kept_layers,
    refit_layer,
)
from prune_exp.settings.groups import PruningSettings

REFIT = RefitSettings(
    damping=PruningSettings.refit_damping, towards_dense=PruningSettings.refit_towards_dense
)
"""The default, but that no layer is trained to stand in for removed ones."""


def carry_out_plan(
    model: Any,
    plan: PruningPlan,
    ids: torch.Tensor | None,
    *,
    how: RefitSettings = REFIT,
    dense_states_at: StatesAt | None = None,
    note: Callable[[Reconstructed], None] = lambda _: None,
) -> Any:
    """Removes what `plan` names and returns a stock model of the new shape.

    `model` is used up. With calibration token ids [blocks, tokens] the weights that read the
    removed units are refit; with None they only lose columns, and the result computes exactly
    what the dense model does with those units silenced. Ids are the dense model's, also where
    tokens are removed. `dense_states_at` gives the dense model's residual stream on `ids`, and so
    saves computing it. `note` is told of every layer that was trained.
    """
    layers = layers_of(model)
    if ids is None:
        for index in kept_units(len(layers), plan.layers):
            with at_hand(layers[index].module):
                cut_layer(layers[index], plan, index)
    else:
        for one in _refit_layers(model, plan, ids, how, dense_states_at):
            note(one)
    return assemble_pruned(model, plan)


def _refit_layers(
    model: Any,
    plan: PruningPlan,
    ids: torch.Tensor,
    how: RefitSettings,
    dense_states_at: StatesAt | None,
) -> list[Reconstructed]:
    """Cuts and refits every layer that stays, in place; returns which were trained."""
    layers = layers_of(model)
    calls = LayerStream(model, ids)
    run = RefitRun(
        layers=layers,
        plan=plan,
        calls=calls,
        how=how,
        dense=calls.hidden,
        pruned=calls.hidden,
        dense_states_at=dense_states_at,
    )
    order = pair_kept_layers(plan, len(layers))
    first, _ = order[0]
    for index in range(first):
        run.dense = run.run_layer(layers[index], index, run.dense)
    for index, following in tqdm(order, "refit", unit="layer"):
        with at_hand(layers[index].module):
            refit_layer(run, layers[index], index, following)
    return run.reconstructed


def assemble_pruned(model: Any, plan: PruningPlan) -> Any:
    """A stock model of the layers that stay, without the plan's tokens."""
    layers = layers_of(model)
    kept = kept_units(len(layers), plan.layers)
    dense = layers[kept[0]].heads
    queries = kept_units(dense.queries, plan.heads[kept[0]])
    groups = len({head // dense.per_group for head in queries})
    pruned = assemble_model(model, kept, Heads(queries=len(queries), groups=groups, dim=dense.dim))
    if not plan.tokens:
        return pruned
    return keep_tokens(pruned, kept_units(pruned.config.vocab_size, plan.tokens))
