"""Cut and refit a decoder layer by layer.

Two streams of hidden states run side by side: the dense model's and the pruned model's own, so
each refit sees the inputs that it will have to live with and aims at a blend of both, removed
layers included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from prune_exp.machine.device import autocast, choose_dtype
from prune_exp.model.architectures import DecoderLayer, set_weight_matrix, weight_matrix
from prune_exp.pruning.cutting import keep_channels, keep_heads
from prune_exp.pruning.layer_stream import LayerStream, watch_modules
from prune_exp.pruning.least_squares import LeastSquares
from prune_exp.pruning.plan import PruningPlan, Reconstructed
from prune_exp.pruning.reconstruction import ReconstructionSettings, train_layer
from prune_exp.pruning.targets import (
    LayerTrace,
    Wanted,
    aim_at_dense,
    aim_normed,
    trace_layer,
    weigh_tokens,
)
from prune_exp.settings.groups import PruningSettings

StatesAt = Callable[[int], torch.Tensor]
"""The dense residual stream before a layer, or after the last [blocks, tokens, hidden]."""
SPAN_BYTES = 2**30
"""Most that one layer's channels take at once; longer texts go through it in several spans."""


@dataclass(frozen=True, kw_only=True)
class RefitSettings:
    """How weights are refit."""

    damping: float
    """Ridge towards the original weights (`pruning.refit_damping`)."""
    towards_dense: float
    """The dense stream's share of the target (`pruning.refit_towards_dense`)."""
    dtype: str = "float32"
    """In what the streams go through the layers, float32 or bfloat16; least squares never do the
    latter."""
    reconstruction: ReconstructionSettings | None = None
    """How the layers before removed ones are trained; None where they are not."""


def refit_settings(pruning: PruningSettings, device: Any, seed: int) -> RefitSettings:
    """What the settings say, on a device."""
    reconstruction = ReconstructionSettings(
        epochs=pruning.reconstruct_epochs, step=pruning.reconstruct_step, seed=seed
    )
    return RefitSettings(
        damping=pruning.refit_damping,
        towards_dense=pruning.refit_towards_dense,
        dtype=choose_dtype(device, pruning.refit_dtype),
        reconstruction=reconstruction if pruning.reconstruct_epochs else None,
    )


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
    reconstructed: list[Reconstructed] = field(default_factory=list)
    """Layers that were trained so far."""

    def run_layer(self, layer: DecoderLayer, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """What `layer`, called as number `index`, makes of a stream [blocks, tokens, hidden]."""
        return self.calls.run(layer, index, hidden, dtype=self.how.dtype)

    def trace(
        self, layer: DecoderLayer, index: int, following: int, hidden: torch.Tensor
    ) -> LayerTrace:
        """A stream on its way through a layer, up to the next one that stays."""
        removed = [(number, self.layers[number]) for number in range(index + 1, following)]
        return trace_layer(self.run_layer, layer, index, removed, hidden)

    def list_spans(self, layer: DecoderLayer) -> list[slice]:
        """The blocks of text in spans whose channels fit in memory together."""
        blocks, tokens, _ = self.pruned.shape
        at_once = max(1, SPAN_BYTES // (4 * tokens * layer.width))
        return [slice(start, start + at_once) for start in range(0, blocks, at_once)]


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

    `following` is that one's index. The layer is run.layers[index], or a copy of it. Only streams
    [blocks, tokens, hidden] exist for the whole text, channels for a span of it.
    """
    fit = _start_fit(run, layer, index, following, run.list_spans(layer))
    dense = [fit.see_untouched(span) for span in fit.spans]
    cut_layer(layer, run.plan, index)
    if run.plan.heads[index]:
        fit.refit_attention()
        fit.see_channels()
    fit.refit_mlp()
    if fit.ends:
        fit.reconstruct()
    run.pruned = fit.run_on()
    run.dense = torch.cat(dense)


def sum_channels(
    run: RefitRun, layer: DecoderLayer, index: int, following: int, blocks: slice
) -> LeastSquares:
    """What some blocks say of a layer that is still whole: all its channels, and the MLP's target.

    Nothing is changed; `following` is as for `refit_layer`.
    """
    within = range(*blocks.indices(len(run.pruned)))
    parts = [within[one] for one in run.list_spans(layer)]
    spans = [slice(part[0], part[-1] + 1) for part in parts if part]
    fit = _start_fit(run, layer, index, following, spans)
    for span in spans:
        fit.see_untouched(span, every=True)
    return fit.mlp


def _start_fit(
    run: RefitRun, layer: DecoderLayer, index: int, following: int, spans: list[slice]
) -> "_LayerFit":
    fit = _LayerFit(run=run, layer=layer, index=index, following=following, spans=spans)
    if run.dense_states_at is not None and not run.plan.heads[index]:
        fit.dense_end = run.dense_states_at(following)
    return fit


@dataclass(kw_only=True)
class _LayerFit:
    """One layer's refit under way."""

    run: RefitRun
    layer: DecoderLayer
    index: int
    following: int
    """The next layer that stays."""
    spans: list[slice]
    dense_end: torch.Tensor | None = None
    """The dense stream before the next layer [blocks, tokens, hidden]; None where it has to be
    computed."""
    wanted: list[Wanted] = field(default_factory=list)
    """Of every span, where heads go; elsewhere a span has been counted once it was seen."""
    mlp: LeastSquares = field(default_factory=LeastSquares)
    ends: list[torch.Tensor] = field(default_factory=list)
    """What every span's stream should be before the next layer, where the layer is trained."""
    seen: tuple[torch.Tensor, torch.Tensor] | None = None
    """The last span's channels that stay, and what joins what the MLP makes of them; None once the
    layer was trained."""

    @property
    def stands_in(self) -> bool:
        """Whether the layer is to be trained to do what removed ones after it did."""
        return self.run.how.reconstruction is not None and self.following > self.index + 1

    def see_untouched(self, span: slice, *, every: bool = False) -> torch.Tensor:
        """Notes what the layer should do on a span; returns the dense stream after it.

        Where no heads go, attention stays as it is, and the channels that stay are known as well.
        With `every` all channels are counted, with attention as it is.
        """
        run = self.run
        trace = run.trace(self.layer, self.index, self.following, run.pruned[span])
        dense_middle, dense_end = self._follow_dense(span)
        share = _dense_share(run, self.layer, self.index)
        if self.layer.family.post_norm:
            wanted = aim_normed(trace, dense_end, share)
        else:
            wanted = aim_at_dense(trace, dense_middle, dense_end, share)
        if self.stands_in and not every:
            self.ends.append(wanted.end)
        if every:
            self._add_channels(wanted, trace.channels, trace.middle)
        elif run.plan.heads[self.index]:
            self.wanted.append(wanted)
        else:
            kept = kept_units(self.layer.width, run.plan.channels[self.index])
            self._add_channels(wanted, trace.channels[..., kept], trace.middle)
        return dense_end

    def _follow_dense(self, span: slice) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The dense stream between attention and MLP where heads go, and before the next layer.

        Both [blocks, tokens, hidden], of a span of blocks.
        """
        run = self.run
        if self.dense_end is not None:
            return None, self.dense_end[span].to(run.pruned.device)
        trace = run.trace(self.layer, self.index, self.following, run.dense[span])
        return trace.middle if run.plan.heads[self.index] else None, trace.end

    def _add_channels(self, wanted: Wanted, channels: torch.Tensor, middle: torch.Tensor) -> None:
        """Counts a span's channels [blocks, tokens, width], with the stream that they add to."""
        self._add(self.mlp, self.layer.mlp_out, channels, wanted.mlp, middle)
        self.seen = (channels, middle)

    def _add(
        self,
        fit: LeastSquares,
        projection: Any,
        x: torch.Tensor,
        aim: torch.Tensor,
        before: torch.Tensor,
    ) -> None:
        """Counts what a projection reads on a span, `before` being the stream that it adds to."""
        target = aim if self.layer.family.post_norm else aim - before
        if projection.bias is not None:
            target = target - projection.bias
        weights = weigh_tokens(aim)
        fit.add(x * weights, target * weights)

    def refit_attention(self) -> None:
        """Solves what reads the heads again."""
        fit = LeastSquares()
        for span, wanted in zip(self.spans, self.wanted, strict=True):
            heads, _, _ = self._inputs_on(span)
            before = self.run.pruned[span]
            self._add(fit, self.layer.heads_out, heads, wanted.attention, before)
        self._solve(fit, self.layer.heads_out)

    def see_channels(self) -> None:
        """Counts the channels that follow from attention as it is now."""
        for span, wanted in zip(self.spans, self.wanted, strict=True):
            _, channels, attention = self._inputs_on(span)
            self._add_channels(wanted, channels, self.run.pruned[span] + attention)

    def refit_mlp(self) -> None:
        """Solves what reads the channels again."""
        self._solve(self.mlp, self.layer.mlp_out)

    def run_on(self) -> torch.Tensor:
        """The pruned model's stream after the layer as it is now [blocks, tokens, hidden]."""
        run = self.run
        if len(self.spans) == 1 and not self.layer.family.post_norm and self.seen is not None:
            channels, middle = self.seen
            return middle + self.layer.mlp_out(channels)
        after = [run.run_layer(self.layer, self.index, run.pruned[span]) for span in self.spans]
        return torch.cat(after)

    def reconstruct(self) -> None:
        """Trains the layer to do what removed ones did too."""
        run = self.run
        assert run.how.reconstruction is not None

        def call(block: torch.Tensor) -> torch.Tensor:
            with autocast(block.device, run.how.dtype):
                return run.calls.call(self.layer, self.index, block)

        self.seen = None  # they are the untrained layer's
        left = train_layer(
            self.layer.module, call, run.pruned, torch.cat(self.ends), run.how.reconstruction
        )
        gone = self.following - self.index - 1
        run.reconstructed.append(
            Reconstructed(layer=self.index, removed_after=gone, error_left=left)
        )

    def _solve(self, fit: LeastSquares, projection: Any) -> None:
        fitted = fit.solve(weight_matrix(projection), self.run.how.damping)
        set_weight_matrix(projection, fitted, projection.bias)

    def _inputs_on(self, span: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the two projections read on a span [blocks, tokens, n], and attention's output."""
        hidden = self.run.pruned[span]
        heads: list[torch.Tensor] = []
        channels: list[torch.Tensor] = []
        attention: list[torch.Tensor] = []
        inputs = {self.layer.heads_out: heads.append, self.layer.mlp_out: channels.append}
        with watch_modules(inputs, {self.layer.heads_out: attention.append}):
            self.run.run_layer(self.layer, self.index, hidden)
        shape = hidden.shape[:2]
        return (
            torch.cat(heads).view(*shape, -1),
            torch.cat(channels).view(*shape, -1),
            torch.cat(attention).view_as(hidden),
        )


def _dense_share(run: RefitRun, layer: DecoderLayer, index: int) -> float:
    """The dense stream's share of the target, which falls with the channels that stay.

    The dense stream alone asks the few weights left to undo all that went wrong before, and
    overfits; what the untouched layer makes of the pruned stream alone lets the errors pile up.
    """
    gone = len(run.plan.channels[index])
    return run.how.towards_dense * (1 - gone / layer.width)
