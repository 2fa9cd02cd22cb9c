"""Cut and refit a decoder block by block.

Two streams of hidden states run side by side: the dense model's and the pruned model's own, so
each refit sees the inputs that it will have to live with and aims at a blend of both, removed
blocks included.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune_exp.architectures import Block, matrix, set_matrix
from prune_exp.cutting import keep_channels, keep_heads
from prune_exp.records import PruningPlan
from prune_exp.refit import solve
from prune_exp.streaming import LayerStream, watch

if TYPE_CHECKING:
    import torch


@dataclass
class Streams:
    """Hidden states [blocks, tokens, hidden] of both models at the present depth."""

    dense: "torch.Tensor"
    pruned: "torch.Tensor"


@dataclass(frozen=True, kw_only=True)
class Refit:
    """What refitting a block needs to know."""

    blocks: list[Block]
    plan: PruningPlan
    stream: LayerStream
    states: Streams
    damping: float
    towards_dense: float
    known: Callable[[int], "torch.Tensor"] | None
    bfloat16: bool

    def forward(self, index: int, hidden: "torch.Tensor") -> "torch.Tensor":
        """What a block, as it is now, makes of a stream [blocks, tokens, hidden]."""
        return self.stream.run(self.blocks[index], index, hidden, bfloat16=self.bfloat16)


def steps(plan: PruningPlan, layers: int) -> list[tuple[int, int]]:
    """Each layer that stays with the next that does; the last with the number of `layers`."""
    kept = others(layers, plan.layers)
    return list(zip(kept, [*kept[1:], layers], strict=True))


def cut(block: Block, plan: PruningPlan, index: int) -> None:
    """Takes from a block what `plan` names of it."""
    gone_heads, gone_channels = plan.heads[index], plan.channels[index]
    if gone_heads:
        keep_heads(block, others(block.heads.queries, gone_heads))
    if gone_channels:
        keep_channels(block, others(block.width, gone_channels))


def others(count: int, gone: tuple[int, ...]) -> list[int]:
    """What is left of `count` units."""
    without = set(gone)
    return [i for i in range(count) if i not in without]


def refit_layer(run: Refit, index: int, following: int) -> None:
    """Prunes and refits one block, and moves both streams to the next one that stays.

    The target is a blend. The dense stream alone asks the few weights left to undo all that went
    wrong before, and overfits; what the untouched block makes of the pruned stream alone lets the
    errors pile up. The fewer channels are left, the less of the dense stream is asked of them.
    """
    block, states = run.blocks[index], run.states
    width, gone = block.width, run.plan.channels[index]
    share = run.towards_dense * (1 - len(gone) / width)
    cut_heads, dense_middle = bool(run.plan.heads[index]), None
    if run.known is not None and not cut_heads:
        dense_end = run.known(following).to(states.pruned.device)
    else:
        dense = _through(run, index, following, states.dense)
        dense_middle, dense_end = dense.middle, dense.end
    own = _through(run, index, following, states.pruned)
    cut(block, run.plan, index)
    if block.family.post_norm:
        _refit_normed(run, index, own)
        states.pruned = run.forward(index, states.pruned)
    else:
        middle, channels = own.middle, own.channels[..., others(width, gone)]
        if cut_heads and dense_middle is not None:
            target = own.middle.lerp(dense_middle, share)
            heads = _inputs_of(run, block.heads_out, index)
            middle = states.pruned + _refit_linear(
                run, block.heads_out, heads, target - states.pruned, _row_scale(target)
            )
            channels = _inputs_of(run, block.mlp_out, index)
        target = own.end.lerp(dense_end, share)
        added = _refit_linear(run, block.mlp_out, channels, target - middle, _row_scale(target))
        states.pruned = middle + added
    states.dense = dense_end


def _refit_normed(run: Refit, index: int, own: "_Pass") -> None:
    """Refits a block that normalizes what it adds: towards what the untouched block would add.

    The residual stream is no linear function of these projections, so neither the dense stream
    nor removed blocks can be aimed at.
    """
    block = run.blocks[index]
    if run.plan.heads[index]:
        heads = _inputs_of(run, block.heads_out, index)
        _refit_linear(run, block.heads_out, heads, own.attention, _row_scale(own.attention))
    channels = _inputs_of(run, block.mlp_out, index)
    _refit_linear(run, block.mlp_out, channels, own.mlp, _row_scale(own.mlp))


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """What one stream becomes on its way through a block and the removed ones after it."""

    middle: "torch.Tensor"
    """Residual stream between attention and MLP [blocks, tokens, hidden]."""
    channels: "torch.Tensor"
    """The MLP's channels [blocks, tokens, width]."""
    attention: "torch.Tensor"
    """What attention's output projection wrote [blocks, tokens, hidden]."""
    mlp: "torch.Tensor"
    """What the MLP's output projection wrote [blocks, tokens, hidden]."""
    end: "torch.Tensor"
    """Residual stream before the next block that stays [blocks, tokens, hidden]."""


def _through(run: Refit, index: int, following: int, hidden: "torch.Tensor") -> _Pass:
    import torch

    block = run.blocks[index]
    heads: list[torch.Tensor] = []
    channels: list[torch.Tensor] = []
    mlp: list[torch.Tensor] = []
    seen = {block.heads_out: heads.append, block.mlp_out: mlp.append}
    with watch({block.mlp_out: channels.append}, seen):
        output = run.forward(index, hidden)
    for skipped in range(index + 1, following):
        output = run.forward(skipped, output)
    attention = torch.cat(heads).view_as(hidden)
    return _Pass(
        middle=hidden + attention,
        channels=torch.cat(channels).view(*hidden.shape[:2], -1),
        attention=attention,
        mlp=torch.cat(mlp).view_as(hidden),
        end=output,
    )


def _inputs_of(run: Refit, linear: Any, index: int) -> "torch.Tensor":
    """What one of a block's projections reads of the pruned stream [blocks, tokens, n]."""
    import torch

    inputs: list[torch.Tensor] = []
    with watch({linear: inputs.append}, {}):
        run.forward(index, run.states.pruned)
    return torch.cat(inputs).view(*run.states.pruned.shape[:2], -1)


def _refit_linear(
    run: Refit, linear: Any, x: "torch.Tensor", target: "torch.Tensor", scale: "torch.Tensor"
) -> "torch.Tensor":
    """Refits a projection of x [blocks, tokens, n] towards `target`; returns what it now gives.

    `scale` weights the tokens [blocks, tokens, 1].
    """
    bias = 0 if linear.bias is None else linear.bias
    fitted = solve(x * scale, (target - bias) * scale, matrix(linear), run.damping)
    set_matrix(linear, fitted, linear.bias)
    return linear(x)


def _row_scale(target: "torch.Tensor") -> "torch.Tensor":
    """Weight of each token [blocks, tokens, 1]: its residual norm to the power -1/2.

    Blocks normalize what they read, so errors matter relative to the token's norm; unweighted, a
    few tokens with huge activations would decide every fit.
    """
    return target.square().mean(-1, keepdim=True).clamp_min(1e-12).pow(-0.25)
