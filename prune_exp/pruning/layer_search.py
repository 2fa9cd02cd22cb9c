"""Which of the contested layers go: one after another, each time the one the model misses least.

What a layer costs is the loss of the whole plan without it, every other unit cut and refit as
planned (SLEB, arXiv:2402.09025, asks the dense model). A cost counts as no less than when fewer
layers were gone, so that few are asked again (lazy greedy: Minoux 1978); layers beside a gap are
always asked, since one layer may stand in for several.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from prune_exp.pruning.plan import PruningPlan
from prune_exp.pruning.refit import RefitSettings
from prune_exp.pruning.rehearsal import RehearsalText, Streams, as_cost, rehearse_plan

BLOCKS = 4
"""Blocks of text to refit on, and as many others to judge by."""

PlanFor = Callable[[tuple[int, ...]], PruningPlan]
"""The plan without these whole layers."""


def search_layers(
    model: Any,
    text: RehearsalText,
    how: RefitSettings,
    plan_for: PlanFor,
    *,
    agreed: Iterable[int],
    contested: Iterable[int],
    count: int,
) -> tuple[int, ...]:
    """The `count` layers that go: those `agreed` on, and of the `contested` ones the cheapest.

    `text` is spelled as the dense model spells it, and `model` is that one, which stays as it is.
    """
    sure = tuple(sorted(agreed))
    if len(sure) == count:
        return sure
    left = sorted(set(contested) - {*sure})
    search = LayerSearch(model=model, text=text, how=how, plan_for=plan_for, left=left)
    search.take_out(sure)
    for _ in tqdm(range(count - len(sure)), "search layers", unit="layer"):
        search.remove_cheapest()
    return search.gone


@dataclass(kw_only=True)
class LayerSearch:
    """What is known of a model without the layers that went so far."""

    model: Any
    text: RehearsalText
    how: RefitSettings
    plan_for: PlanFor
    left: list[int]
    """Contested layers that are still there."""
    gone: tuple[int, ...] = ()
    loss: float = math.nan
    """Without them, in nats a token."""
    streams: dict[int, Streams] = field(default_factory=dict)
    """Of the layers before those that are `left`, from which a run without these can go on."""
    costs: dict[int, float] = field(default_factory=dict)
    """By layer: how much the loss rose without it when that was last asked."""

    def take_out(self, layers: tuple[int, ...]) -> None:
        """Starts without these layers."""
        self.gone = layers
        self.loss, self.streams = self.try_without(layers)

    def remove_cheapest(self) -> None:
        """Takes out the one of the layers left that costs least."""
        for beside in self.left:
            if {beside - 1, beside + 1} & {*self.gone}:
                self.costs.pop(beside, None)
        asked: set[int] = set()
        best, loss, streams = self.left[0], math.inf, {}
        while (one := min(self.left, key=lambda i: self.costs.get(i, -math.inf))) not in asked:
            found = self.try_without((*self.gone, one))
            self.costs[one] = as_cost(found[0] - self.loss)
            if not asked or self.costs[one] < self.costs[best]:
                best, (loss, streams) = one, found
            asked.add(one)
        self.left.remove(best)
        self.gone = tuple(sorted((*self.gone, best)))
        self.loss = loss
        self.streams = {i: kept for i, kept in self.streams.items() if i < best} | streams

    def try_without(self, layers: tuple[int, ...]) -> tuple[float, dict[int, Streams]]:
        """The loss without `layers`, and the streams from where they differ from what is known."""
        plan = self.plan_for(tuple(sorted(layers)))
        change = min({*layers} - {*self.gone}, default=0)
        known = [i for i in self.streams if i < change and i not in layers]
        start = (max(known), self.streams[max(known)]) if known else None
        found: dict[int, Streams] = {}

        def see(index: int, following: int, streams: Streams) -> None:
            if any(index < one <= following for one in self.left):
                found[index] = streams

        losses = rehearse_plan(self.model, plan, self.text, self.how, start=start, see=see)
        return float(losses.mean()), found
