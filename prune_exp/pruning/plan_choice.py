"""Which plans are rehearsed, and which of them is carried out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch

from prune_exp.pruning import layer_search
from prune_exp.pruning.allocation import can_meet
from prune_exp.pruning.calibration import Calibration
from prune_exp.pruning.consensus import Ballot, as_masks, vote_on_channels
from prune_exp.pruning.election import Candidate, hold_election, list_candidates
from prune_exp.pruning.inputs import Inputs, PruningRequest
from prune_exp.pruning.jury import convene_jury
from prune_exp.pruning.plan import THE_JURY, THE_VOTE, PruningPlan, Rehearsed
from prune_exp.pruning.refit import StatesAt, refit_settings
from prune_exp.pruning.rehearsal import (
    BLOCKS,
    RehearsalText,
    as_cost,
    closest_run,
    plain_text,
    rehearse_plan,
    rehearse_plans,
    respelled_text,
)
from prune_exp.pruning.token_vote import TokenVote, Unread, set_apart, vote_unread
from prune_exp.pruning.vote import list_single_votes, vote_on_plan
from prune_exp.pruning.voters import score_units
from prune_exp.settings.surroundings import note_once
from prune_exp.text.corpus import retokenize
from prune_exp.text.token_bytes import make_reencoder
from prune_exp.text.tokenizer import trim_tokenizer

CLOSEST_RUN = "closest run"
THE_SEARCH = "a search"
CONTESTED_DEEPER = 2
"""Layers beyond those that are to go, by each voter's ranks, among which a search looks."""
UNREAD_BLOCKS = 24
"""That judge how many tokens should go: what a token costs is in few places of a text."""
NOTHING_UNREAD = (
    "pruning.rehearse_vocab is left out: calibration leaves no document of the text unread, and"
    " only such ones can judge tokens; use fewer data.calibration_blocks or a longer text, and none"
    " that the model writes"
)
ROOM_SHARE = 0.75
"""Of a model's positions that text may take which is to be spelled with fewer tokens."""
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

    First every depth share with every choice of layers, then the best of these with every
    vocabulary share, and with those halfway from the best share to its neighbours. How many tokens
    should go is judged by documents in which none were counted.
    """
    pruning = request.pruning
    texts = TextChoice(request=request, inputs=inputs, model=model, calibration=calibration)
    if pruning.rehearse_vocab and inputs.shape.vocab_removable:
        texts = texts.set_apart()
    vote = partial(vote_on_plan, inputs=inputs, statistics=calibration.statistics, decided=decided)
    plans = _propose_depths(texts, voted, vote)
    shares = pruning.rehearse_vocab if texts.unread is not None else []
    if len(plans) == 1 and not shares:
        return voted
    rehearsal = _Rehearsal(texts=texts, plans=[], tried=[])
    rehearsal.try_plans([(tuple(one.by), one.plan) for one in plans])
    best = plans[rehearsal.best_place()]
    lost = {pruning.vocab_share: rehearsal.loss_of(best.plan)}
    for share in _shares_to_ask(shares, lost):
        plan = _with_vocab_share(texts, best, share, vote)
        if plan is not None:
            rehearsal.try_plans([((best.by[0],), plan)])
            lost[share] = rehearsal.loss_of(plan)
    return replace(rehearsal.plans[rehearsal.best_place()], rehearsed=tuple(rehearsal.tried))


def _with_vocab_share(
    texts: "TextChoice", best: "_Proposal", share: float, vote: Callable[..., PruningPlan]
) -> PruningPlan | None:
    """The best proposal's like with another vocabulary share; None where no shape meets it."""
    own = texts.ask_for(vocab_share=share, depth_share=best.depth_share)
    if own is None:
        return None
    one = partial(vote, own)
    plan = one()
    if best.by[0] == THE_VOTE or not plan.layers:
        return plan
    return one(layers=list_layer_choices(texts, plan, one)[best.by[0]]())


def _shares_to_ask(shares: Sequence[float], lost: Mapping[float, float]) -> Iterator[float]:
    """The given ones, and then those that follow from what was lost by then."""
    yield from shares
    yield from halfway(lost)


def halfway(lost: Mapping[float, float]) -> list[float]:
    """Between the share that lost least and its neighbours on either side, as far as it has any."""
    shares = sorted(lost)
    place = shares.index(min(shares, key=lambda share: as_cost(lost[share])))
    near = shares[max(place - 1, 0) : place + 2]
    return [(low + high) / 2 for low, high in pairwise(near)]


def _propose_depths(
    texts: "TextChoice", voted: PruningPlan, vote: Callable[..., PruningPlan]
) -> "list[_Proposal]":
    """Every depth share that can be met with every choice of layers, each set of them once."""
    pruning = texts.request.pruning
    plans: dict[tuple[int, ...], _Proposal] = {}
    for share in (pruning.depth_share, *pruning.rehearse):
        own = texts.ask_for(depth_share=share)
        if own is None:
            continue
        one = partial(vote, own)
        plan = voted if share == pruning.depth_share else one()
        plans.setdefault(plan.layers, _Proposal(plan=plan, depth_share=share, by=[THE_VOTE]))
        for name, choose in list_layer_choices(texts, plan, one).items():
            layers = choose()
            if layers not in plans:
                plans[layers] = _Proposal(plan=one(layers=layers), depth_share=share)
            if name not in plans[layers].by:
                plans[layers].by.append(name)
    return [*plans.values()]


def list_layer_choices(
    texts: "TextChoice", voted: PruningPlan, vote: Callable[..., PruningPlan]
) -> dict[str, Callable[[], tuple[int, ...]]]:
    """Who would take out which layers, as many as the vote: each is found when it is called.

    Each voter alone, the run of layers that turns the stream least, and a search among those that
    the voters do not agree on. `vote` makes the plan with other `layers`.
    """
    count = voted.allocation.layers
    if not count:
        return {}
    request, calibration = texts.request, texts.calibration
    layers = texts.inputs.shape.layers
    run = partial(closest_run, partial(calibration.states_at, blocks=2 * BLOCKS), layers, count)
    if not request.pruning.rehearse_layers:
        return {CLOSEST_RUN: run}
    ballots = partial(list_single_votes, request, calibration.statistics)
    alone = ballots(count)
    deeper = ballots(min(count + CONTESTED_DEEPER, layers - 1))
    search = partial(
        texts.search_layers,
        lambda gone: vote(layers=gone),
        agreed=set(voted.layers).intersection(*alone.values()),
        contested=set(voted.layers).union(*deeper.values()),
        count=count,
    )
    single = {f"{name} alone": partial(tuple, own) for name, own in alone.items()}
    return {**single, CLOSEST_RUN: run, THE_SEARCH: search}


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
    unread: Unread | None = None
    """Documents that judge how many tokens should go, where that is asked."""

    def ask_for(self, **shares: float) -> PruningRequest | None:
        """The request with other shares; None where no shape meets it."""
        pruning = replace(self.request.pruning, **shares)
        met = can_meet(self.inputs.shape, self.request.sparsity, pruning)
        return replace(self.request, pruning=pruning) if met else None

    def set_apart(self) -> "TextChoice":
        """The same with documents that judge how many tokens go, where some are left unread."""
        most = int(ROOM_SHARE * self._room) if self._room else None
        apart = set_apart(
            self.request, self.inputs, self.calibration.statistics, UNREAD_BLOCKS, most
        )
        if apart is None:
            note_once(NOTHING_UNREAD)
        elif len(apart.blocks) < UNREAD_BLOCKS:
            note_once(
                f"only {len(apart.blocks)} blocks of text that no voter has read judge how many"
                f" tokens should go, in place of {UNREAD_BLOCKS}; a longer text gives more"
            )
        return replace(self, unread=apart)

    @property
    def _room(self) -> int | None:
        """How many positions the model has."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def plan(self, plan: PruningPlan, blocks: int, first: int = 0) -> RehearsalText:
        """So many blocks to refit on, from `first` on, and as many to judge by; fewer of a text
        that has not as many, and earlier ones."""
        if not plan.tokens:
            return self.dense_text(blocks, first)
        start, ids = self._take(blocks, first)
        half = len(ids) // 2
        judged = ids[half:] if self.unread is None else self.unread.blocks
        tokenizer, kept = self._trim(plan)
        return respelled_text(
            retokenize(self.inputs.corpus, self.request.data, tokenizer)[start : start + half],
            judged,
            make_reencoder(self.inputs.tokenizer, tokenizer),
            kept,
            room=self._room,
        )

    def forget_unread(self, plans: Sequence[PruningPlan]) -> list[PruningPlan]:
        """The plans, with the tokens that would go if what judges had never been counted."""
        if self.unread is None:
            return [*plans]
        gone: dict[int, tuple[int, ...]] = {0: ()}
        for count in {len(plan.tokens) for plan in plans} - {0}:
            gone[count] = vote_unread(self.request, self.inputs, self.unread, count)
        return [replace(plan, tokens=gone[len(plan.tokens)]) for plan in plans]

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

    def dense_text(self, blocks: int, first: int) -> RehearsalText:
        """The same for plans that leave every token."""
        start, ids = self._take(blocks, first)
        states_at = partial(self.calibration.states_at, blocks=start + len(ids))
        judged = None if self.unread is None else self.unread.blocks
        return plain_text(ids, lambda index: states_at(index)[start:], judged)

    def search_layers(self, plan_for: layer_search.PlanFor, **choice: Any) -> tuple[int, ...]:
        """As `layer_search.search_layers`, on text that no voter and no rehearsal reads."""
        request, model = self.request, self.model
        first = max(request.data.voting_blocks, request.data.gradient_blocks, 2 * BLOCKS)
        text = replace(self, unread=None).dense_text(layer_search.BLOCKS, first)
        how = refit_settings(request.pruning, model.device, request.seed)
        return layer_search.search_layers(model, text, how, plan_for, **choice)

    def _take(self, blocks: int, first: int) -> tuple[int, torch.Tensor]:
        """Twice so many blocks of the calibration text [blocks, tokens], and where they begin."""
        every = self.inputs.corpus.calibration.ids
        half = min(blocks, len(every) // 2)
        start = min(first, len(every) - 2 * half)
        return start, every[start : start + 2 * half]

    def _trim(self, plan: PruningPlan) -> tuple[Any, Sequence[int]]:
        return trim_tokenizer(self.inputs.tokenizer, plan.tokens, self.inputs.shape.vocab)


@dataclass(kw_only=True)
class _Proposal:
    """A plan to be rehearsed."""

    plan: PruningPlan
    depth_share: float
    by: list[str] = field(default_factory=list)
    """All who chose its layers."""


@dataclass(kw_only=True)
class _Rehearsal:
    """Plans that were tried so far."""

    texts: TextChoice
    plans: list[PruningPlan]
    tried: list[Rehearsed]

    def try_plans(self, plans: Sequence[tuple[tuple[str, ...], PruningPlan]]) -> None:
        """Rehearses those that were not yet, each with who chose its layers."""
        new = [(by, plan) for by, plan in plans if plan not in self.plans]
        model = self.texts.model
        how = refit_settings(self.texts.request.pruning, model.device, self.texts.request.seed)
        blind = self.texts.forget_unread([plan for _, plan in new])
        texts = {plan.tokens: self.texts.plan(plan, BLOCKS) for plan in blind}
        found = rehearse_plans(model, blind, lambda plan: texts[plan.tokens], how)
        self.plans += [plan for _, plan in new]
        self.tried += [replace(one, by=by) for one, (by, _) in zip(found, new, strict=True)]

    def loss_of(self, plan: PruningPlan) -> float:
        """What a plan lost that was tried."""
        return self.tried[self.plans.index(plan)].loss_nats

    def best_place(self) -> int:
        """The place of the plan that lost least."""
        return min(range(len(self.tried)), key=lambda at: as_cost(self.tried[at].loss_nats))
