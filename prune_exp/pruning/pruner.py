"""From a dense model to a pruned one, by the configured method."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from prune_exp.machine.device import bfloat16_on
from prune_exp.machine.stopwatch import Stopwatch
from prune_exp.pruning import surgery, weight_masks
from prune_exp.pruning.allocation import NOTHING, allocate_budget
from prune_exp.pruning.calibration import Calibration, ReadingSettings, calibrate_model
from prune_exp.pruning.consensus import Ballot, make_plan
from prune_exp.pruning.inputs import Inputs, PruningRequest
from prune_exp.pruning.plan import PruningPlan, Rehearsed
from prune_exp.pruning.refit import RefitSettings, StatesAt
from prune_exp.pruning.rehearsal import (
    BLOCKS,
    RehearsalText,
    closest_run,
    plain_text,
    rehearse_plans,
    respelled_text,
)
from prune_exp.pruning.statistics import Statistics
from prune_exp.pruning.token_statistics import count_scripts, describe_tokens
from prune_exp.pruning.token_vote import TokenVote, vote_on_tokens
from prune_exp.pruning.voters import score_units
from prune_exp.settings.choices import UNITS
from prune_exp.settings.groups import PruningSettings
from prune_exp.text.corpus import retokenize
from prune_exp.text.token_bytes import make_reencoder
from prune_exp.text.tokenizer import trim_tokenizer


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A pruned model with what belongs to it."""

    model: Any
    tokenizer: Any
    plan: PruningPlan
    request: PruningRequest
    """What was asked for."""
    kept: tuple[int, ...] | None = None
    """The dense model's ids of the tokens that are left, in order; None when all are."""


def prune_model(request: PruningRequest, inputs: Inputs, model: Any, watch: Stopwatch) -> Pruned:
    """Prunes `model`, which is used up; phases are timed by `watch`."""
    if request.pruning.method != "structured":
        with watch.phase("prune"):
            return _mask_weights(request, inputs, model)
    with watch.phase("calibrate"):
        calibration = _calibrate_for_vote(request, inputs, model)
    decided: dict[int, TokenVote] = {}
    with watch.phase("vote"):
        plan = vote_on_plan(request, inputs, calibration.statistics, decided=decided)
    if request.pruning.rehearse or request.pruning.rehearse_vocab:
        with watch.phase("rehearse"):
            plan = _rehearse_plans(request, inputs, model, plan, calibration, decided)
    with watch.phase("prune"):
        plan = _note_scripts(plan, inputs)
        return _carry_out(request, inputs, model, plan, calibration)


def repeat_pruning(
    request: PruningRequest, inputs: Inputs, model: Any, plan: PruningPlan
) -> Pruned:
    """What `prune_model` made of the same inputs when it decided on `plan`; nobody votes."""
    if request.pruning.method != "structured":
        return _mask_weights(request, inputs, model)
    return _carry_out(request, inputs, model, plan, _calibrate_dense(request, inputs, model))


def _carry_out(
    request: PruningRequest, inputs: Inputs, model: Any, plan: PruningPlan, calibration: Calibration
) -> Pruned:
    tokenizer, kept, ids = _trim_vocabulary(request, inputs, plan)
    smaller = surgery.carry_out_plan(
        model,
        plan,
        ids,
        how=_refit_settings(request.pruning, model),
        dense_states_at=None if plan.tokens else calibration.states_at,
    )
    return Pruned(model=smaller, tokenizer=tokenizer, plan=plan, request=request, kept=kept)


def _refit_settings(pruning: PruningSettings, model: Any) -> RefitSettings:
    return RefitSettings(
        damping=pruning.refit_damping,
        towards_dense=pruning.refit_towards_dense,
        bfloat16=bfloat16_on(model.device, pruning.refit_dtype),
    )


def _mask_weights(request: PruningRequest, inputs: Inputs, model: Any) -> Pruned:
    zeroed = weight_masks.zero_weights(
        model,
        inputs.corpus.calibration.ids[: request.data.gradient_blocks],
        request.pruning,
        sparsity=request.sparsity,
        vote_threshold=request.vote_threshold,
        seed=request.seed,
    )
    plan = PruningPlan(
        sparsity_requested=request.sparsity,
        vote_threshold=request.vote_threshold,
        ballot=request.pruning.ballot,
        allocation=NOTHING,
        layers=(),
        heads={},
        channels={},
        voters={"weights": tuple(sorted(request.pruning.voters))},
        weights_zeroed=zeroed,
    )
    return Pruned(model=model, tokenizer=inputs.tokenizer, plan=plan, request=request)


def _calibrate_dense(request: PruningRequest, inputs: Inputs, model: Any) -> Calibration:
    return calibrate_model(
        model,
        inputs.source.digest,
        inputs.corpus,
        inputs.tokenizer,
        ReadingSettings(
            voting_blocks=request.data.voting_blocks,
            gradient_blocks=request.data.gradient_blocks,
            bfloat16=bfloat16_on(model.device, request.pruning.refit_dtype),
        ),
        cache_dir=inputs.cache_dir,
    )


def _calibrate_for_vote(request: PruningRequest, inputs: Inputs, model: Any) -> Calibration:
    """The calibration, with what is known of tokens where some of them are to go."""
    calibration = _calibrate_dense(request, inputs, model)
    pruning = request.pruning
    shares = (pruning.vocab_share, *pruning.rehearse_vocab)
    options = [replace(pruning, vocab_share=share) for share in shares]
    if not any(allocate_budget(inputs.shape, request.sparsity, one).tokens for one in options):
        return calibration
    tokens = describe_tokens(model, calibration, inputs.tokenizer)
    return replace(calibration, statistics=replace(calibration.statistics, tokens=tokens))


def _rehearse_plans(
    request: PruningRequest,
    inputs: Inputs,
    model: Any,
    voted: PruningPlan,
    calibration: Calibration,
    decided: dict[int, TokenVote],
) -> PruningPlan:
    """The plan that loses least of the voted one and the others that are to be rehearsed.

    First every depth share, then the best of these with every vocabulary share.
    """
    pruning = request.pruning
    states_at = partial(calibration.states_at, blocks=2 * BLOCKS)
    vote = partial(vote_on_plan, statistics=calibration.statistics, decided=decided)
    rehearsal = _Rehearsal(
        request=request, inputs=inputs, model=model, states_at=states_at, plans=[], tried=[]
    )
    plans = {voted.layers: (voted, pruning.depth_share)}
    for share in (pruning.depth_share, *pruning.rehearse):
        other = replace(request, pruning=replace(pruning, depth_share=share))
        plan = voted
        if share != pruning.depth_share:
            plan = vote(other, inputs)
        plans.setdefault(plan.layers, (plan, share))
        run = closest_run(states_at, inputs.shape.layers, plan.allocation.layers)
        if run not in plans:
            plans[run] = (vote(other, inputs, layers=run), share)
    rehearsal.try_plans([plan for plan, _ in plans.values()])
    best = rehearsal.best_place()
    _, depth_share = list(plans.values())[best]
    others = [
        replace(pruning, vocab_share=share, depth_share=depth_share)
        for share in pruning.rehearse_vocab
    ]
    rehearsal.try_plans([vote(replace(request, pruning=other), inputs) for other in others])
    return replace(rehearsal.plans[rehearsal.best_place()], rehearsed=tuple(rehearsal.tried))


@dataclass(kw_only=True)
class _Rehearsal:
    """Plans that were tried so far."""

    request: PruningRequest
    inputs: Inputs
    model: Any
    states_at: StatesAt
    plans: list[PruningPlan]
    tried: list[Rehearsed]

    def try_plans(self, plans: Sequence[PruningPlan]) -> None:
        """Rehearses those that were not yet."""
        new = [plan for plan in plans if plan not in self.plans]
        how = _refit_settings(self.request.pruning, self.model)
        texts = {plan.tokens: self._text_for(plan) for plan in new}
        self.plans += new
        self.tried += rehearse_plans(self.model, new, lambda plan: texts[plan.tokens], how)

    def best_place(self) -> int:
        """The place of the plan that lost least."""
        return min(range(len(self.tried)), key=lambda place: self.tried[place].loss_nats)

    def _text_for(self, plan: PruningPlan) -> RehearsalText:
        ids = self.inputs.corpus.calibration.ids[: 2 * BLOCKS]
        if not plan.tokens:
            return plain_text(ids, self.states_at)
        half = len(ids) // 2
        tokenizer, kept = trim_tokenizer(
            self.inputs.tokenizer, plan.tokens, self.inputs.shape.vocab
        )
        return respelled_text(
            retokenize(self.inputs.corpus, self.request.data, tokenizer)[:half],
            ids[half:],
            make_reencoder(self.inputs.tokenizer, tokenizer),
            kept,
            room=getattr(self.model.config, "max_position_embeddings", None),
        )


def vote_on_plan(
    request: PruningRequest,
    inputs: Inputs,
    statistics: Statistics,
    layers: tuple[int, ...] | None = None,
    *,
    decided: dict[int, TokenVote] | None = None,
) -> PruningPlan:
    """Scores every unit and lets the voters decide, but not on `layers` where those are given.

    `decided` keeps who decides on so many tokens, which does not depend on the other units.
    """
    pruning = request.pruning
    allocation = allocate_budget(inputs.shape, request.sparsity, pruning)
    scores = {
        kind: score_units(
            pruning.voters, statistics, kind, head_unit=pruning.head_unit, seed=request.seed
        )
        for kind in UNITS
        if kind != "vocab"
    }
    ballot = Ballot(kind=pruning.ballot, vote_threshold=request.vote_threshold)
    known = {} if decided is None else decided
    token_ballot = ballot
    if allocation.tokens:
        if allocation.tokens not in known:
            known[allocation.tokens] = vote_on_tokens(
                request, inputs, statistics, allocation.tokens
            )
        tokens = known[allocation.tokens]
        scores["vocab"] = tokens.scores
        token_ballot = replace(ballot, vote_threshold=tokens.vote_threshold)
    plan = make_plan(
        scores,
        inputs.shape,
        allocation,
        sparsity=request.sparsity,
        ballot=ballot,
        token_ballot=token_ballot,
        head_unit=pruning.head_unit,
        layers=layers,
    )
    if not allocation.tokens:
        return plan
    return replace(plan, judged_tokens=known[allocation.tokens].judged)


def _note_scripts(plan: PruningPlan, inputs: Inputs) -> PruningPlan:
    """The plan with what it leaves of each script, where tokens go."""
    if not plan.tokens:
        return plan
    scripts = count_scripts(inputs.tokenizer, plan.tokens, inputs.shape.vocab)
    return replace(plan, scripts=scripts)


def _trim_vocabulary(
    request: PruningRequest, inputs: Inputs, plan: PruningPlan
) -> tuple[Any, tuple[int, ...] | None, torch.Tensor | None]:
    """The pruned model's tokenizer, the tokens left, and the text to refit on in dense ids.

    The text is [blocks, tokens], and None where nothing is refit.
    """
    refit = request.pruning.refit and plan.changes_blocks
    ids = inputs.corpus.calibration.ids if refit else None
    if not plan.tokens:
        return inputs.tokenizer, None, ids
    trimmed, kept = trim_tokenizer(inputs.tokenizer, plan.tokens, inputs.shape.vocab)
    if ids is not None:
        ids = torch.tensor(kept)[retokenize(inputs.corpus, request.data, trimmed)]
    return trimmed, tuple(kept), ids
