"""Carry a plan out: a smaller model whose weights make up for what is gone.

Blocks are visited in order. Two streams of hidden states run side by side: the dense model's and
the pruned model's own, so each refit sees the inputs that it will have to live with and aims at
the dense residual stream, removed blocks included. One model in memory, changed in place.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune_exp.models import (
    attention_of,
    attention_output,
    keep_channels,
    keep_heads,
    layers_of,
    mlp_output,
    rebuild,
)
from prune_exp.records import PruningPlan
from prune_exp.refit import Regression
from prune_exp.streaming import LayerStream, watch

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass
class _Streams:
    """Hidden states [blocks, tokens, hidden] of both models at the present depth."""

    dense: "torch.Tensor"
    pruned: "torch.Tensor"


def prune(
    model: Any, plan: PruningPlan, ids: "torch.Tensor | None", *, damping: float = 1e-3
) -> Any:
    """Removes what `plan` names and returns a stock model of the new shape.

    `model` is used up. With calibration token ids [blocks, tokens] the weights that read the
    removed units are refit; with None they only lose columns, and the result computes exactly
    what the dense model does with those units silenced.
    """
    from tqdm import tqdm

    layers = layers_of(model)
    kept = [i for i in range(len(layers)) if i not in plan.layers]
    if ids is None:
        for index in kept:
            _cut(layers[index], plan, index)
        return rebuild(model, kept)
    stream = LayerStream(model, ids)
    states = _Streams(dense=stream.hidden, pruned=stream.hidden)
    for index in range(kept[0]):
        states.dense = stream.run(layers[index], index, states.dense)
    for place, index in enumerate(tqdm(kept, "refit", unit="layer")):
        following = kept[place + 1] if place + 1 < len(kept) else len(layers)
        _refit_layer(layers, index, following, plan, stream, states, damping)
    return rebuild(model, kept)


def _cut(layer: Any, plan: PruningPlan, index: int) -> None:
    gone_heads, gone_channels = plan.heads[index], plan.channels[index]
    heads = attention_output(layer).in_features // attention_of(layer).head_dim
    if gone_heads:
        keep_heads(layer, _others(heads, gone_heads))
    if gone_channels:
        keep_channels(layer, _others(mlp_output(layer).in_features, gone_channels))


def _others(count: int, gone: tuple[int, ...]) -> list[int]:
    without = set(gone)
    return [i for i in range(count) if i not in without]


def _refit_layer(
    layers: Any,
    index: int,
    following: int,
    plan: PruningPlan,
    stream: LayerStream,
    states: _Streams,
    damping: float,
) -> None:
    """Prunes and refits one block, and moves both streams to the next one that stays."""
    import torch

    layer = layers[index]
    update: list[torch.Tensor] = []
    with watch({}, {attention_output(layer): update.append}):
        dense = stream.run(layer, index, states.dense)
    middle = states.dense + torch.cat(update)
    for skipped in range(index + 1, following):
        dense = stream.run(layers[skipped], skipped, dense)
    _cut(layer, plan, index)
    _refit_linear(attention_output(layer), layer, index, stream, states.pruned, middle, damping)
    states.pruned = _refit_linear(
        mlp_output(layer), layer, index, stream, states.pruned, dense, damping
    )
    states.dense = dense


def _refit_linear(
    linear: "nn.Linear",
    layer: Any,
    index: int,
    stream: LayerStream,
    hidden: "torch.Tensor",
    target: "torch.Tensor",
    damping: float,
) -> "torch.Tensor":
    """Refits one output projection towards `target`, the residual stream right after it.

    Returns the block's output with the new weight, from one run: what the projection adds is
    linear in its weight. (That holds for the last projection of a block.)
    """
    import torch

    inputs: list[torch.Tensor] = []
    added: list[torch.Tensor] = []
    with watch({linear: inputs.append}, {linear: added.append}):
        output = stream.run(layer, index, hidden)
    x, old = torch.cat(inputs), torch.cat(added)
    before = output - old if linear is mlp_output(layer) else hidden
    fit = Regression(linear.in_features, linear.out_features)
    bias = 0 if linear.bias is None else linear.bias
    scale = _row_scale(target)
    for one_x, one_y in zip(x * scale, (target - before - bias) * scale, strict=True):
        fit.add(one_x, one_y)
    linear.weight.data = fit.solve(linear.weight, damping)
    return before + linear(x)


def _row_scale(target: "torch.Tensor") -> "torch.Tensor":
    """Weight of each token [blocks, tokens, 1]: its residual norm to the power -1/2.

    Blocks normalize what they read, so errors matter relative to the token's norm; unweighted, a
    few tokens with huge activations would decide every fit.
    """
    return target.square().mean(-1, keepdim=True).clamp_min(1e-12).pow(-0.25)
