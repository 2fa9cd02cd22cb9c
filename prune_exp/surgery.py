"""Carry a plan out: a smaller model whose weights make up for what is gone.

Blocks are visited in order. Two streams of hidden states run side by side: the dense model's and
the pruned model's own, so each refit sees the inputs that it will have to live with and aims at a
blend of both, removed blocks included. One model in memory, changed in place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune_exp.architectures import Block, Heads, blocks_of, matrix, set_matrix
from prune_exp.assembly import keep_tokens, rebuild
from prune_exp.cutting import keep_channels, keep_heads
from prune_exp.records import PruningPlan
from prune_exp.refit import solve
from prune_exp.settings import PruningSettings
from prune_exp.streaming import LayerStream, watch

if TYPE_CHECKING:
    import torch


@dataclass
class _Streams:
    """Hidden states [blocks, tokens, hidden] of both models at the present depth."""

    dense: "torch.Tensor"
    pruned: "torch.Tensor"


@dataclass(frozen=True, kw_only=True)
class _Refit:
    """What refitting a block needs to know."""

    blocks: list[Block]
    plan: PruningPlan
    stream: LayerStream
    states: _Streams
    damping: float
    towards_dense: float
    known: Callable[[int], "torch.Tensor"] | None
    bfloat16: bool

    def forward(self, index: int, hidden: "torch.Tensor") -> "torch.Tensor":
        """What a block, as it is now, makes of a stream [blocks, tokens, hidden]."""
        return self.stream.run(self.blocks[index], index, hidden, bfloat16=self.bfloat16)


def prune(
    model: Any,
    plan: PruningPlan,
    ids: "torch.Tensor | None",
    *,
    damping: float = PruningSettings.refit_damping,
    towards_dense: float = PruningSettings.refit_towards_dense,
    known: Callable[[int], "torch.Tensor"] | None = None,
    bfloat16: bool = False,
) -> Any:
    """Removes what `plan` names and returns a stock model of the new shape.

    `model` is used up. With calibration token ids [blocks, tokens] the weights that read the
    removed units are refit; with None they only lose columns, and the result computes exactly
    what the dense model does with those units silenced. Ids are the dense model's, also where
    tokens are removed. `damping` and `towards_dense` are `pruning.refit_damping` and
    `pruning.refit_towards_dense`. `known` gives the dense model's residual stream on `ids` before
    a block [blocks, tokens, hidden], and so saves computing it. With `bfloat16` the streams go
    through the blocks in that precision; the least squares do not.
    """
    from tqdm import tqdm

    blocks = blocks_of(model)
    kept = [i for i in range(len(blocks)) if i not in plan.layers]
    if ids is None:
        for index in kept:
            _cut(blocks[index], plan, index)
        return _rebuild(model, plan, kept)
    stream = LayerStream(model, ids)
    run = _Refit(
        blocks=blocks,
        plan=plan,
        stream=stream,
        states=_Streams(dense=stream.hidden, pruned=stream.hidden),
        damping=damping,
        towards_dense=towards_dense,
        known=known,
        bfloat16=bfloat16,
    )
    for index in range(kept[0]):
        run.states.dense = run.forward(index, run.states.dense)
    for place, index in enumerate(tqdm(kept, "refit", unit="layer")):
        following = kept[place + 1] if place + 1 < len(kept) else len(blocks)
        _refit_layer(run, index, following)
    return _rebuild(model, plan, kept)


def _rebuild(model: Any, plan: PruningPlan, kept: list[int]) -> Any:
    dense = blocks_of(model)[kept[0]].heads
    left = _others(dense.queries, plan.heads[kept[0]])
    groups = len({head // dense.per_group for head in left})
    pruned = rebuild(model, kept, Heads(queries=len(left), groups=groups, dim=dense.dim))
    if not plan.tokens:
        return pruned
    return keep_tokens(pruned, _others(pruned.config.vocab_size, plan.tokens))


def _cut(block: Block, plan: PruningPlan, index: int) -> None:
    gone_heads, gone_channels = plan.heads[index], plan.channels[index]
    if gone_heads:
        keep_heads(block, _others(block.heads.queries, gone_heads))
    if gone_channels:
        keep_channels(block, _others(block.width, gone_channels))


def _others(count: int, gone: tuple[int, ...]) -> list[int]:
    without = set(gone)
    return [i for i in range(count) if i not in without]


def _refit_layer(run: _Refit, index: int, following: int) -> None:
    """Prunes and refits one block, and moves both streams to the next one that stays.

    The target is a blend. The dense stream alone asks the few weights left to undo all that went
    wrong before, and overfits; what the untouched block makes of the pruned stream alone lets the
    errors pile up.
    """
    block, states, share = run.blocks[index], run.states, run.towards_dense
    cut_heads, dense_middle = bool(run.plan.heads[index]), None
    if run.known is not None and not cut_heads:
        dense_end = run.known(following).to(states.pruned.device)
    else:
        dense = _through(run, index, following, states.dense)
        dense_middle, dense_end = dense.middle, dense.end
    own = _through(run, index, following, states.pruned)
    width = block.width
    _cut(block, run.plan, index)
    if block.family.post_norm:
        _refit_normed(run, index, own)
        states.pruned = run.forward(index, states.pruned)
    else:
        middle, channels = own.middle, own.channels[..., _others(width, run.plan.channels[index])]
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


def _refit_normed(run: _Refit, index: int, own: "_Pass") -> None:
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


def _through(run: _Refit, index: int, following: int, hidden: "torch.Tensor") -> _Pass:
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


def _inputs_of(run: _Refit, linear: Any, index: int) -> "torch.Tensor":
    """What one of a block's projections reads of the pruned stream [blocks, tokens, n]."""
    import torch

    inputs: list[torch.Tensor] = []
    with watch({linear: inputs.append}, {}):
        run.forward(index, run.states.pruned)
    return torch.cat(inputs).view(*run.states.pruned.shape[:2], -1)


def _refit_linear(
    run: _Refit, linear: Any, x: "torch.Tensor", target: "torch.Tensor", scale: "torch.Tensor"
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
