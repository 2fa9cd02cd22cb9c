"""Cut and refit a decoder layer by layer.

Two streams of hidden states run side by side: the dense model's and the pruned model's own, so
each refit sees the inputs that it will have to live with and aims at a blend of both, removed
layers included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prune_exp.model.architectures import DecoderLayer, set_weight_matrix, weight_matrix
from prune_exp.pruning.cutting import keep_channels, keep_heads
from prune_exp.pruning.layer_stream import LayerStream, watch_modules
from prune_exp.pruning.plan import PruningPlan

StatesAt = Callable[[int], torch.Tensor]
"""The dense residual stream before a layer, or after the last [blocks, tokens, hidden]."""


def solve_least_squares(
    x: torch.Tensor, y: torch.Tensor, prior: torch.Tensor, damping: float
) -> torch.Tensor:
    """W [m, n] in y = x W^T for inputs x [.., n] and targets y [.., m], kept near `prior` [m, n].

    Minimizes |x W^T - y|^2 + damping * mean(diag(x^T x)) * |W - prior|^2. Products are taken in
    the inputs' precision, the system is solved in double.
    """
    x = x.flatten(0, -2)
    y = y.flatten(0, -2)
    system = (x.T @ x).double()
    cross = (y.T @ x).double()
    ridge = damping * system.diagonal().mean().clamp_min(1e-12)
    system.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(system)
    right = cross + ridge * prior.double()
    return torch.cholesky_solve(right.T, factor).T.to(prior.dtype).contiguous()


@dataclass(frozen=True, kw_only=True)
class RefitSettings:
    """How weights are refit."""

    damping: float
    """Ridge towards the original weights (`pruning.refit_damping`)."""
    towards_dense: float
    """The dense stream's share of the target (`pruning.refit_towards_dense`)."""
    bfloat16: bool = False
    """Whether the streams go through the layers in bfloat16; least squares never do."""


@dataclass(kw_only=True)
class RefitRun:
    """A refit under way: both streams move down the layers with it."""

    layers: list[DecoderLayer]
    """The decoder's layers; those that were refit have their new weights."""
    plan: PruningPlan
    calls: LayerStream
    how: RefitSettings
    dense: torch.Tensor
    """The dense model's stream before the present layer [blocks, tokens, hidden]."""
    pruned: torch.Tensor
    """The pruned model's own, likewise."""
    dense_states_at: StatesAt | None
    """The dense stream from the cache; None where it has to be computed."""

    def run_layer(self, layer: DecoderLayer, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """What `layer`, called as number `index`, makes of a stream [blocks, tokens, hidden]."""
        return self.calls.run(layer, index, hidden, bfloat16=self.how.bfloat16)


def pair_kept_layers(plan: PruningPlan, layers: int) -> list[tuple[int, int]]:
    """Each layer that stays with the next that does; the last with the number of `layers`."""
    kept = kept_units(layers, plan.layers)
    return list(zip(kept, [*kept[1:], layers], strict=True))


def kept_units(count: int, gone: Sequence[int]) -> list[int]:
    """What is left of `count` units."""
    removed = set(gone)
    return [i for i in range(count) if i not in removed]


def cut_layer(layer: DecoderLayer, plan: PruningPlan, index: int) -> None:
    """Takes from a layer, in place, what `plan` names of it."""
    if plan.heads[index]:
        keep_heads(layer, kept_units(layer.heads.queries, plan.heads[index]))
    if plan.channels[index]:
        keep_channels(layer, kept_units(layer.width, plan.channels[index]))


def refit_layer(run: RefitRun, layer: DecoderLayer, index: int, following: int) -> None:
    """Cuts and refits one layer, in place, and moves both streams to the next one that stays.

    `following` is that one's index. The layer is run.layers[index], or a copy of it.
    """
    trace = _trace_layer(run, layer, index, following, run.pruned)
    dense_middle, dense_end = _dense_streams(run, layer, index, following)
    share = _dense_share(run, layer, index)
    kept = kept_units(layer.width, run.plan.channels[index])
    cut_layer(layer, run.plan, index)
    if layer.family.post_norm:
        _refit_normed(run, layer, index, trace)
        run.pruned = run.run_layer(layer, index, run.pruned)
    else:
        middle = trace.middle
        channels = trace.channels[..., kept]
        if dense_middle is not None:
            middle = _refit_attention(run, layer, index, middle.lerp(dense_middle, share))
            channels = _inputs_of(run, layer, index, layer.mlp_out)
        target = trace.end.lerp(dense_end, share)
        run.pruned = middle + _refit_projection(
            run, layer.mlp_out, channels, target - middle, _token_weights(target)
        )
    run.dense = dense_end


def _dense_share(run: RefitRun, layer: DecoderLayer, index: int) -> float:
    """The dense stream's share of the target, which falls with the channels that stay.

    The dense stream alone asks the few weights left to undo all that went wrong before, and
    overfits; what the untouched layer makes of the pruned stream alone lets the errors pile up.
    """
    gone = len(run.plan.channels[index])
    return run.how.towards_dense * (1 - gone / layer.width)


def _dense_streams(
    run: RefitRun, layer: DecoderLayer, index: int, following: int
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """The dense stream between attention and MLP where heads go, and before the next layer.

    Both [blocks, tokens, hidden].
    """
    cuts_heads = bool(run.plan.heads[index])
    if run.dense_states_at is not None and not cuts_heads:
        return None, run.dense_states_at(following).to(run.pruned.device)
    trace = _trace_layer(run, layer, index, following, run.dense)
    return trace.middle if cuts_heads else None, trace.end


def _refit_attention(
    run: RefitRun, layer: DecoderLayer, index: int, target: torch.Tensor
) -> torch.Tensor:
    """Refits what reads the heads towards a stream after attention [blocks, tokens, hidden].

    Returns the stream that it now gives.
    """
    heads = _inputs_of(run, layer, index, layer.heads_out)
    added = _refit_projection(
        run, layer.heads_out, heads, target - run.pruned, _token_weights(target)
    )
    return run.pruned + added


def _refit_normed(run: RefitRun, layer: DecoderLayer, index: int, untouched: "_LayerTrace") -> None:
    """Refits a layer that normalizes what it adds: towards what the untouched layer would add.

    The residual stream is no linear function of these projections, so neither the dense stream
    nor removed layers can be aimed at.
    """
    if run.plan.heads[index]:
        heads = _inputs_of(run, layer, index, layer.heads_out)
        target = untouched.attention
        _refit_projection(run, layer.heads_out, heads, target, _token_weights(target))
    channels = _inputs_of(run, layer, index, layer.mlp_out)
    target = untouched.mlp
    _refit_projection(run, layer.mlp_out, channels, target, _token_weights(target))


@dataclass(frozen=True, kw_only=True)
class _LayerTrace:
    """What one stream becomes on its way through a layer and the removed ones after it."""

    middle: torch.Tensor
    """Residual stream between attention and MLP [blocks, tokens, hidden]."""
    channels: torch.Tensor
    """The MLP's channels [blocks, tokens, width]."""
    attention: torch.Tensor
    """What attention's output projection wrote [blocks, tokens, hidden]."""
    mlp: torch.Tensor
    """What the MLP's output projection wrote [blocks, tokens, hidden]."""
    end: torch.Tensor
    """Residual stream before the next layer that stays [blocks, tokens, hidden]."""


def _trace_layer(
    run: RefitRun, layer: DecoderLayer, index: int, following: int, hidden: torch.Tensor
) -> _LayerTrace:
    heads: list[torch.Tensor] = []
    channels: list[torch.Tensor] = []
    mlp: list[torch.Tensor] = []
    outputs = {layer.heads_out: heads.append, layer.mlp_out: mlp.append}
    with watch_modules({layer.mlp_out: channels.append}, outputs):
        end = run.run_layer(layer, index, hidden)
    for removed in range(index + 1, following):
        end = run.run_layer(run.layers[removed], removed, end)
    attention = torch.cat(heads).view_as(hidden)
    return _LayerTrace(
        middle=hidden + attention,
        channels=torch.cat(channels).view(*hidden.shape[:2], -1),
        attention=attention,
        mlp=torch.cat(mlp).view_as(hidden),
        end=end,
    )


def _inputs_of(run: RefitRun, layer: DecoderLayer, index: int, projection: Any) -> torch.Tensor:
    """What one of a layer's projections reads of the pruned stream [blocks, tokens, n]."""
    inputs: list[torch.Tensor] = []
    with watch_modules({projection: inputs.append}, {}):
        run.run_layer(layer, index, run.pruned)
    return torch.cat(inputs).view(*run.pruned.shape[:2], -1)


def _refit_projection(
    run: RefitRun, projection: Any, x: torch.Tensor, target: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Refits a projection of x [blocks, tokens, n] towards `target` [blocks, tokens, hidden].

    `weights` weights the tokens [blocks, tokens, 1]. Returns what the projection now gives.
    """
    bias = 0 if projection.bias is None else projection.bias
    y = (target - bias) * weights
    fitted = solve_least_squares(x * weights, y, weight_matrix(projection), run.how.damping)
    set_weight_matrix(projection, fitted, projection.bias)
    return projection(x)


def _token_weights(target: torch.Tensor) -> torch.Tensor:
    """Weight of each token [blocks, tokens, 1]: its residual norm to the power -1/2.

    Layers normalize what they read, so errors matter relative to the token's norm; unweighted, a
    few tokens with huge activations would decide every fit.
    """
    return target.square().mean(-1, keepdim=True).clamp_min(1e-12).pow(-0.25)
