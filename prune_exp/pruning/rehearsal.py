"""Try plans before one is carried out: refit each on a few blocks of text, judge it on others.

The votes know single units. What the model loses without several layers together, and how much of
the budget layers should bear, shows only once the weights that stay have been refit. Only one layer
is copied at a time; the model stays as it is.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm import tqdm

from prune_exp.model.architectures import DecoderLayer, final_norm_of, head_of, layers_of
from prune_exp.pruning.layer_stream import LayerStream
from prune_exp.pruning.plan import PruningPlan, Rehearsed
from prune_exp.pruning.refit import (
    RefitRun,
    RefitSettings,
    StatesAt,
    pair_kept_layers,
    refit_layer,
)
from prune_exp.text.token_bytes import Reencode, reencode_blocks

BLOCKS = 8
"""Blocks of text to refit on, and as many others to judge by."""
Streams = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Before a layer: the dense and the pruned stream on the text to refit on, and the pruned one on
the text to judge by, each [blocks, tokens, hidden]."""
See = Callable[[int, int, Streams], None]


@dataclass(frozen=True, kw_only=True)
class RehearsalText:
    """What a plan is refit on and judged by, spelled as the plan's vocabulary spells it.

    All ids are the dense model's.
    """

    fit: torch.Tensor
    """[blocks, tokens]"""
    judged: torch.Tensor
    """[blocks, tokens], rows filled up to the longest."""
    scored: torch.Tensor
    """Which of those tokens' losses count [blocks, tokens]."""
    dense_tokens: int
    """How many tokens of the dense model's what is scored is: losses are a mean over these, so that
    plans with different vocabularies can be compared."""
    kept: torch.Tensor | None = None
    """Ids of the tokens that are left; None where all are."""
    states_at: StatesAt | None = None
    """The dense model's residual stream on `fit`; None where it has to be computed."""


def plain_text(
    ids: torch.Tensor, states_at: StatesAt, judged: torch.Tensor | None = None
) -> RehearsalText:
    """Text for plans that leave every token: half of ids [blocks, tokens] to refit on.

    The other half judges, unless other blocks `judged` [blocks, tokens] do. `states_at` is the
    dense model's stream on `ids`.
    """
    half = len(ids) // 2
    assert half, "one block to refit on and one to judge by"
    judged = ids[half:] if judged is None else judged
    return RehearsalText(
        fit=ids[:half],
        judged=judged,
        scored=_all_but_first(judged),
        dense_tokens=judged[:, 1:].numel(),
        states_at=lambda index: states_at(index)[:half],
    )


def respelled_text(
    fit: torch.Tensor,
    dense: torch.Tensor,
    respell: Reencode,
    kept: Sequence[int],
    *,
    room: int | None = None,
) -> RehearsalText:
    """Text for plans that leave the tokens `kept` alone.

    `fit` [blocks, tokens] are ids of the smaller vocabulary, `dense` [blocks, tokens] are the dense
    model's blocks to judge by, which `respell` turns into as many of the smaller one's ids as their
    bytes take. Blocks that become longer than `room` tokens are cut before.
    """
    rows = reencode_blocks(dense, respell)
    longest = max(len(opening) + len(rest) for opening, rest in rows)
    if room is not None and longest > room:
        shorter = dense[:, : dense.shape[1] * room // longest]
        return respelled_text(fit, shorter, respell, kept, room=room)
    judged = torch.zeros(len(rows), longest, dtype=torch.long)
    scored = torch.zeros(len(rows), longest, dtype=torch.bool)
    for row, (opening, rest) in enumerate(rows):
        length = len(opening) + len(rest)
        judged[row, :length] = torch.cat([opening, rest])
        scored[row, len(opening) : length] = True
    known = torch.tensor(kept)
    return RehearsalText(
        fit=known[fit],
        judged=known[judged],
        scored=scored,
        dense_tokens=dense[:, 1:].numel(),
        kept=known,
    )


def _all_but_first(ids: torch.Tensor) -> torch.Tensor:
    scored = torch.ones_like(ids, dtype=torch.bool)
    scored[:, 0] = False
    return scored


def rehearse_plans(
    model: Any,
    plans: Sequence[PruningPlan],
    text_of: Callable[[PruningPlan], RehearsalText],
    how: RefitSettings,
) -> list[Rehearsed]:
    """What was found of every plan."""
    tried = []
    for plan in tqdm(plans, "rehearse", unit="plan"):
        loss = float(rehearse_plan(model, plan, text_of(plan), how).mean())
        tried.append(
            Rehearsed(
                layers=plan.layers,
                channels=plan.allocation.channels,
                tokens=len(plan.tokens),
                loss_nats=loss,
            )
        )
    return tried


def rehearse_plan(
    model: Any,
    plan: PruningPlan,
    text: RehearsalText,
    how: RefitSettings,
    *,
    start: tuple[int, Streams] | None = None,
    see: See | None = None,
) -> torch.Tensor:
    """Loss on each block that judges [blocks] after a refit on the rest.

    In nats per token of the dense model's; `model` is that one. With `start`, a layer that stays
    and the streams before it, nothing before it is run. `see` is shown every layer that stays, the
    next one, and the streams before it; nothing of a plan that changes no layer, since it is the
    refit that moves streams on.
    """
    run = start_rehearsal(model, plan, text.fit, text.states_at, how)
    judging = LayerStream(model, text.judged)
    judged = judging.hidden
    pairs = pair_kept_layers(plan, len(run.layers))
    if start is not None:
        first, (run.dense, run.pruned, judged) = start
        pairs = [one for one in pairs if one[0] >= first]
    for index, following in pairs:
        if see is not None and plan.changes_blocks:
            see(index, following, (run.dense, run.pruned, judged))
        layer = run.layers[index]
        if plan.changes_blocks:
            layer = copy_layer(layer)
            refit_layer(run, layer, index, following)
        judged = judging.run(layer, index, judged)
    return _losses(model, judged, text)


def copy_layer(layer: DecoderLayer) -> DecoderLayer:
    """A layer that can be cut and refit while the model stays as it is."""
    return replace(layer, module=deepcopy(layer.module))


def start_rehearsal(
    model: Any,
    plan: PruningPlan,
    ids: torch.Tensor,
    states_at: StatesAt | None,
    how: RefitSettings,
) -> RefitRun:
    """A refit of a plan on blocks of text, before the first layer that stays.

    `ids` [blocks, tokens] are the dense model's, `states_at` its stream on them; None where that
    has to be computed.
    """
    layers = layers_of(model)
    calls = LayerStream(model, ids)
    first, _ = pair_kept_layers(plan, len(layers))[0]
    return RefitRun(
        layers=layers,
        plan=plan,
        calls=calls,
        how=replace(how, dtype="float32", reconstruction=None),
        dense=_stream_before(states_at, layers, calls, first),
        pruned=calls.hidden,
        dense_states_at=states_at,
    )


def _stream_before(
    states_at: StatesAt | None, layers: Sequence[DecoderLayer], calls: LayerStream, first: int
) -> torch.Tensor:
    """The dense model's stream on what is refit on before a layer [blocks, tokens, hidden]."""
    if states_at is not None:
        return states_at(first).to(calls.hidden.device)
    stream = calls.hidden
    for index in range(first):
        stream = calls.run(layers[index], index, stream)
    return stream


def _losses(model: Any, hidden: torch.Tensor, text: RehearsalText) -> torch.Tensor:
    """Cross-entropy of each block that judges [blocks], in nats per token of the dense model's.

    `hidden` is the last layer's output on what judges [blocks, tokens, hidden].
    """
    norm = final_norm_of(model)
    head = head_of(model)
    sums = []
    rows = zip(hidden, text.judged.to(hidden.device), text.scored.to(hidden.device), strict=True)
    with torch.no_grad():
        for states, tokens, scored in rows:
            wanted = scored[1:]
            logits = head(norm(states[:-1][wanted]))
            if text.kept is not None:
                gone = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
                gone[text.kept.to(logits.device)] = False
                logits[:, gone] = -torch.inf
            targets = tokens[1:][wanted]
            lost = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
            sums.append(lost.double().cpu())
    return torch.stack(sums) * len(sums) / text.dense_tokens


def as_cost(loss: float) -> float:
    """What is no number costs most."""
    return loss if math.isfinite(loss) else math.inf


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
