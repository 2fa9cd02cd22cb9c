"""Carry a plan out: a smaller model whose weights make up for what is gone.

Blocks are visited in order. Two streams of hidden states run side by side: the dense model's and
the pruned model's own, so each refit sees the inputs that it will have to live with and aims at
the dense residual stream, removed blocks included. One model in memory, changed in place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune_exp.models import (
    attention_of,
    attention_output,
    keep_channels,
    keep_heads,
    keep_tokens,
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


@dataclass(frozen=True, kw_only=True)
class _Refit:
    """What refitting a block needs to know."""

    layers: Any
    plan: PruningPlan
    stream: LayerStream
    states: _Streams
    damping: float
    towards_dense: float
    known: Callable[[int], "torch.Tensor"] | None


def prune(
    model: Any,
    plan: PruningPlan,
    ids: "torch.Tensor | None",
    *,
    damping: float = 3e-2,
    towards_dense: float = 0.1,
    known: Callable[[int], "torch.Tensor"] | None = None,
) -> Any:
    """Removes what `plan` names and returns a stock model of the new shape.

    `model` is used up. With calibration token ids [blocks, tokens] the weights that read the
    removed units are refit; with None they only lose columns, and the result computes exactly
    what the dense model does with those units silenced. Ids are the dense model's, also where
    tokens are removed. `damping` and `towards_dense` are `pruning.refit_damping` and
    `pruning.refit_towards_dense`. `known` gives the dense model's residual stream on `ids` before
    a block [blocks, tokens, hidden], and so saves computing it.
    """
    from tqdm import tqdm

    layers = layers_of(model)
    kept = [i for i in range(len(layers)) if i not in plan.layers]
    if ids is None:
        for index in kept:
            _cut(layers[index], plan, index)
        return _rebuild(model, plan, kept)
    stream = LayerStream(model, ids)
    run = _Refit(
        layers=layers,
        plan=plan,
        stream=stream,
        states=_Streams(dense=stream.hidden, pruned=stream.hidden),
        damping=damping,
        towards_dense=towards_dense,
        known=known,
    )
    for index in range(kept[0]):
        run.states.dense = stream.run(layers[index], index, run.states.dense)
    for place, index in enumerate(tqdm(kept, "refit", unit="layer")):
        following = kept[place + 1] if place + 1 < len(kept) else len(layers)
        _refit_layer(run, index, following)
    return _rebuild(model, plan, kept)


def _rebuild(model: Any, plan: PruningPlan, kept: list[int]) -> Any:
    pruned = rebuild(model, kept)
    if not plan.tokens:
        return pruned
    return keep_tokens(pruned, _others(pruned.config.vocab_size, plan.tokens))


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


def _refit_layer(run: _Refit, index: int, following: int) -> None:
    """Prunes and refits one block, and moves both streams to the next one that stays.

    The target is a blend. The dense stream alone asks the few weights left to undo all that went
    wrong before, and overfits; what the untouched block makes of the pruned stream alone lets the
    errors pile up.
    """
    layer, states, share = run.layers[index], run.states, run.towards_dense
    cut_heads, dense_middle = bool(run.plan.heads[index]), None
    if run.known is not None and not cut_heads:
        dense_end = run.known(following)
    else:
        dense = _through(run, index, following, states.dense)
        dense_middle, dense_end = dense.middle, dense.end
    own = _through(run, index, following, states.pruned)
    width = mlp_output(layer).in_features
    _cut(layer, run.plan, index)
    middle, channels = own.middle, own.channels[..., _others(width, run.plan.channels[index])]
    if cut_heads and dense_middle is not None:
        target = own.middle.lerp(dense_middle, share)
        heads = _inputs_of(run, attention_output(layer), index)
        middle = _refit_linear(run, attention_output(layer), heads, states.pruned, target)
        channels = _inputs_of(run, mlp_output(layer), index)
    target = own.end.lerp(dense_end, share)
    states.pruned = _refit_linear(run, mlp_output(layer), channels, middle, target)
    states.dense = dense_end


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """What one stream becomes on its way through a block and the removed ones after it."""

    middle: "torch.Tensor"
    """Residual stream between attention and MLP [blocks, tokens, hidden]."""
    channels: "torch.Tensor"
    """The MLP's channels [blocks, tokens, width]."""
    end: "torch.Tensor"
    """Residual stream before the next block that stays [blocks, tokens, hidden]."""


def _through(run: _Refit, index: int, following: int, hidden: "torch.Tensor") -> _Pass:
    import torch

    layer = run.layers[index]
    update: list[torch.Tensor] = []
    channels: list[torch.Tensor] = []
    with watch({mlp_output(layer): channels.append}, {attention_output(layer): update.append}):
        output = run.stream.run(layer, index, hidden)
    for skipped in range(index + 1, following):
        output = run.stream.run(run.layers[skipped], skipped, output)
    return _Pass(middle=hidden + torch.cat(update), channels=torch.cat(channels), end=output)


def _inputs_of(run: _Refit, linear: "nn.Linear", index: int) -> "torch.Tensor":
    """What one of a block's projections reads of the pruned stream [blocks, tokens, n]."""
    import torch

    inputs: list[torch.Tensor] = []
    with watch({linear: inputs.append}, {}):
        run.stream.run(run.layers[index], index, run.states.pruned)
    return torch.cat(inputs)


def _refit_linear(
    run: _Refit,
    linear: "nn.Linear",
    x: "torch.Tensor",
    before: "torch.Tensor",
    target: "torch.Tensor",
) -> "torch.Tensor":
    """Refits a projection of x so that, added to the stream `before`, it comes close to `target`.

    Returns the residual stream after it.
    """
    fit = Regression(linear.in_features, linear.out_features)
    bias = 0 if linear.bias is None else linear.bias
    scale = _row_scale(target)
    for one_x, one_y in zip(x * scale, (target - before - bias) * scale, strict=True):
        fit.add(one_x, one_y)
    linear.weight.data = fit.solve(linear.weight, run.damping)
    return before + linear(x)


def _row_scale(target: "torch.Tensor") -> "torch.Tensor":
    """Weight of each token [blocks, tokens, 1]: its residual norm to the power -1/2.

    Blocks normalize what they read, so errors matter relative to the token's norm; unweighted, a
    few tokens with huge activations would decide every fit.
    """
    return target.square().mean(-1, keepdim=True).clamp_min(1e-12).pow(-0.25)
