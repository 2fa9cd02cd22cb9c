"""The vote on all kinds of unit: scores in, a plan out."""

from dataclasses import replace

from prune_exp.pruning.allocation import allocate_budget
from prune_exp.pruning.consensus import Ballot, condemn, make_plan
from prune_exp.pruning.inputs import Inputs, PruningRequest
from prune_exp.pruning.plan import PruningPlan
from prune_exp.pruning.statistics import Statistics
from prune_exp.pruning.token_vote import TokenVote, vote_on_tokens
from prune_exp.pruning.voters import score_units
from prune_exp.settings.choices import UNITS


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


def list_single_votes(
    request: PruningRequest, statistics: Statistics, count: int
) -> dict[str, tuple[int, ...]]:
    """The `count` whole layers that each voter would take out if it were alone, by its name."""
    pruning = request.pruning
    scores = score_units(
        pruning.voters, statistics, "layers", head_unit=pruning.head_unit, seed=request.seed
    )
    alone = Ballot(kind="fixed", vote_threshold=1.0)
    gone = {name: condemn({name: own}, count, alone)[0] for name, own in sorted(scores.items())}
    return {name: tuple(mask.nonzero()[:, 0].tolist()) for name, mask in gone.items()}
