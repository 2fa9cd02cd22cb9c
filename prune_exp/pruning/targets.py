"""What a layer does to a stream, and what it should do once units are gone from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from prune_exp.model.architectures import DecoderLayer
from prune_exp.pruning.layer_stream import watch_modules


@dataclass(frozen=True, kw_only=True)
class LayerTrace:
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


RunLayer = Callable[[DecoderLayer, int, torch.Tensor], torch.Tensor]
"""What a layer, called as some number, makes of a stream [blocks, tokens, hidden]."""


def trace_layer(
    run_layer: RunLayer,
    layer: DecoderLayer,
    index: int,
    removed: Sequence[tuple[int, DecoderLayer]],
    hidden: torch.Tensor,
) -> LayerTrace:
    """Follows a stream [blocks, tokens, hidden] through layer number `index`.

    And through the `removed` ones after it, each with its number.
    """
    heads: list[torch.Tensor] = []
    channels: list[torch.Tensor] = []
    mlp: list[torch.Tensor] = []
    outputs = {layer.heads_out: heads.append, layer.mlp_out: mlp.append}
    with watch_modules({layer.mlp_out: channels.append}, outputs):
        end = run_layer(layer, index, hidden)
    for number, other in removed:
        end = run_layer(other, number, end)
    attention = torch.cat(heads).view_as(hidden)
    return LayerTrace(
        middle=hidden + attention,
        channels=torch.cat(channels).view(*hidden.shape[:2], -1),
        attention=attention,
        mlp=torch.cat(mlp).view_as(hidden),
        end=end,
    )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a layer should come to on a span of text [blocks, tokens, hidden].

    The residual stream; of attention and the MLP what they add, where a layer normalizes that.
    """

    attention: torch.Tensor
    """After attention."""
    mlp: torch.Tensor
    """After the MLP and the removed layers."""
    end: torch.Tensor
    """The residual stream before the next layer that stays, whatever the MLP adds."""


def aim_at_dense(
    trace: LayerTrace, dense_middle: torch.Tensor | None, dense_end: torch.Tensor, share: float
) -> Wanted:
    """A blend of the dense stream and of what the untouched layer makes of the pruned one."""
    middle = trace.middle
    if dense_middle is not None:
        middle = middle.lerp(dense_middle, share)
    end = trace.end.lerp(dense_end, share)
    return Wanted(attention=middle, mlp=end, end=end)


def aim_normed(trace: LayerTrace, dense_end: torch.Tensor, share: float) -> Wanted:
    """For a layer that normalizes what it adds: what the untouched one would add.

    The residual stream is no linear function of these projections, so least squares can aim neither
    at the dense stream nor at what removed layers did.
    """
    end = trace.end.lerp(dense_end, share)
    return Wanted(attention=trace.attention, mlp=trace.mlp, end=end)


def weigh_tokens(target: torch.Tensor) -> torch.Tensor:
    """Weight of each token [blocks, tokens, 1]: its residual norm to the power -1/2.

    Layers normalize what they read, so errors matter relative to the token's norm; unweighted, a
    few tokens with huge activations would decide every fit.
    """
    return target.square().mean(-1, keepdim=True).clamp_min(1e-12).pow(-0.25)
