"""Which plans are rehearsed, and which of them is carried out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from prune_exp.pruning.calibration import Calibration
from prune_exp.pruning.inputs import Inputs, PruningRequest
from prune_exp.pruning.plan import PruningPlan, Rehearsed
from prune_exp.pruning.refit import StatesAt, refit_settings
from prune_exp.pruning.rehearsal import (
    BLOCKS,
    RehearsalText,
    closest_run,
    plain_text,
    rehearse_plans,
    respelled_text,
)
from prune_exp.pruning.token_vote import TokenVote
from prune_exp.pruning.vote import vote_on_plan
from prune_exp.text.corpus import retokenize
from prune_exp.text.token_bytes import make_reencoder
from prune_exp.text.tokenizer import trim_tokenizer


def choose_rehearsed(
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
        how = refit_settings(self.request.pruning, self.model.device)
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
