"""Which plans are rehearsed, and which of them is carried out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch

from prune_exp.pruning.calibration import Calibration
from prune_exp.pruning.consensus import Ballot, as_masks, vote_on_channels
from prune_exp.pruning.election import Candidate, hold_election, list_candidates
from prune_exp.pruning.inputs import Inputs, PruningRequest
from prune_exp.pruning.jury import convene_jury
from prune_exp.pruning.plan import THE_JURY, PruningPlan, Rehearsed
from prune_exp.pruning.refit import StatesAt, refit_settings
from prune_exp.pruning.rehearsal import (
    BLOCKS,
    RehearsalText,
    closest_run,
    plain_text,
    rehearse_plan,
    rehearse_plans,
    respelled_text,
)
from prune_exp.pruning.token_vote import TokenVote
from prune_exp.pruning.vote import vote_on_plan
from prune_exp.pruning.voters import score_units
from prune_exp.text.corpus import retokenize
from prune_exp.text.token_bytes import make_reencoder
from prune_exp.text.tokenizer import trim_tokenizer

JURY_BLOCKS = 2
"""That the jury needs at least: one to solve on, one to judge by."""


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
    texts = TextChoice(request=request, inputs=inputs, model=model, calibration=calibration)
    rehearsal = _Rehearsal(texts=texts, plans=[], tried=[])
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


def choose_elected(
    request: PruningRequest, inputs: Inputs, model: Any, plan: PruningPlan, calibration: Calibration
) -> PruningPlan:
    """The plan, or the same with the channels that another way to decide takes out.

    Only text judges that no voter has read. The jury reads what the voters have.
    """
    pruning = request.pruning
    scores = score_units(
        pruning.voters,
        calibration.statistics,
        "mlp",
        head_unit=pruning.head_unit,
        seed=request.seed,
    )
    ballot = Ballot(kind=pruning.ballot, vote_threshold=request.vote_threshold)
    how = refit_settings(pruning, model.device, request.seed)
    text_for = TextChoice(request=request, inputs=inputs, model=model, calibration=calibration)

    unread = max(request.data.voting_blocks, request.data.gradient_blocks)
    most = len(inputs.corpus.calibration.ids) - unread

    @cache
    def text_of(blocks: int) -> RehearsalText:
        """The same for all candidates, who leave the same tokens."""
        return text_for.plan(plan, blocks, first=unread)

    def judge(one: PruningPlan, blocks: int) -> torch.Tensor:
        return rehearse_plan(model, one, text_of(min(blocks, most)), how)

    candidates = list_candidates(plan, scores, ballot)
    if len(candidates) == 1 or unread < JURY_BLOCKS:
        return hold_election(candidates, judge)
    sets = {one.name: one.plan.channels for one in candidates}
    channels, settled = convene_jury(model, plan, sets, *text_for.read(plan, unread), how)
    if channels not in sets.values():
        # how deep ballots would have had to be says nothing of what the jury decided
        own = replace(ballot, kind="fixed")
        gone = as_masks(channels, inputs.shape.width)
        juried = vote_on_channels(plan, scores, own, given=gone)
        candidates.append(Candidate(name=THE_JURY, plan=juried))
    return replace(hold_election(candidates, judge), jury=settled)


@dataclass(frozen=True, kw_only=True)
class TextChoice:
    """Which calibration blocks plans are refit on and judged by."""

    request: PruningRequest
    inputs: Inputs
    model: Any
    calibration: Calibration

    def plan(self, plan: PruningPlan, blocks: int, first: int = 0) -> RehearsalText:
        """So many blocks to refit on, from `first` on, and as many to judge by; fewer of a text
        that has not as many, and earlier ones."""
        every = self.inputs.corpus.calibration.ids
        half = min(blocks, len(every) // 2)
        start = min(first, len(every) - 2 * half)
        stop = start + 2 * half
        ids = every[start:stop]
        if not plan.tokens:
            return plain_text(
                ids, lambda index: self.calibration.states_at(index, blocks=stop)[start:]
            )
        tokenizer, kept = self._trim(plan)
        return respelled_text(
            retokenize(self.inputs.corpus, self.request.data, tokenizer)[start : start + half],
            ids[half:],
            make_reencoder(self.inputs.tokenizer, tokenizer),
            kept,
            room=getattr(self.model.config, "max_position_embeddings", None),
        )

    def read(self, plan: PruningPlan, blocks: int) -> tuple[torch.Tensor, StatesAt | None]:
        """The first blocks, spelled as the plan's vocabulary spells them, in the dense model's ids.

        With the dense model's stream on them, where it is known.
        """
        if not plan.tokens:
            first = self.inputs.corpus.calibration.ids[:blocks]
            return first, partial(self.calibration.states_at, blocks=blocks)
        tokenizer, kept = self._trim(plan)
        ids = retokenize(self.inputs.corpus, self.request.data, tokenizer)[:blocks]
        return torch.tensor(kept)[ids], None

    def _trim(self, plan: PruningPlan) -> tuple[Any, Sequence[int]]:
        return trim_tokenizer(self.inputs.tokenizer, plan.tokens, self.inputs.shape.vocab)


@dataclass(kw_only=True)
class _Rehearsal:
    """Plans that were tried so far."""

    texts: TextChoice
    plans: list[PruningPlan]
    tried: list[Rehearsed]

    def try_plans(self, plans: Sequence[PruningPlan]) -> None:
        """Rehearses those that were not yet."""
        new = [plan for plan in plans if plan not in self.plans]
        model = self.texts.model
        how = refit_settings(self.texts.request.pruning, model.device, self.texts.request.seed)
        texts = {plan.tokens: self.texts.plan(plan, BLOCKS) for plan in new}
        self.plans += new
        self.tried += rehearse_plans(model, new, lambda plan: texts[plan.tokens], how)

    def best_place(self) -> int:
        """The place of the plan that lost least."""
        return min(range(len(self.tried)), key=lambda place: self.tried[place].loss_nats)
