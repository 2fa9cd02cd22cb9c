"""Every voter's own plan stands for election beside the vote's; text that no voter read decides.

Few blocks judge all candidates, more of them the best (successive halving: Jamieson and Talwalkar
2016, arXiv:1502.07943). Where the vote cannot be told from the best, it is carried out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from tqdm import tqdm

from prune_exp.pruning.consensus import Ballot, Scores, vote_on_channels
from prune_exp.pruning.plan import THE_VOTE, Elected, PruningPlan

HALVING = ((4, 8), (8, 3), (16, 1))
"""Blocks that a candidate is refit on, and as many that judge it, and how many candidates go on."""

Judge = Callable[[PruningPlan, int], torch.Tensor]
"""A plan and a number of blocks to its loss on each block that judges [blocks], in nats a token."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plan, and who made it."""

    name: str
    plan: PruningPlan


def list_candidates(plan: PruningPlan, scores: Scores, ballot: Ballot) -> list[Candidate]:
    """The vote's plan, then the same with the channels that others take out, each plan once.

    Others are every voter alone and every number of voters that must agree.
    """
    names = sorted(scores)
    found = [Candidate(name=THE_VOTE, plan=plan)]
    alone = Ballot(kind=ballot.kind, vote_threshold=1.0)
    for name in names:
        own = vote_on_channels(plan, {name: scores[name]}, alone)
        found.append(Candidate(name=f"{name} alone", plan=own))
    for needed in range(1, len(names) + 1):
        other = Ballot(kind=ballot.kind, vote_threshold=needed / len(names))
        agreed = vote_on_channels(plan, scores, other)
        found.append(Candidate(name=f"{needed} of {len(names)} agree", plan=agreed))
    first = {one.plan.units: one for one in reversed(found)}
    return [one for one in found if first[one.plan.units] is one]


def hold_election(candidates: Sequence[Candidate], judge: Judge) -> PruningPlan:
    """The plan that loses least, with the record of the election; the vote's is the first.

    The vote stays in the race to the end, and is carried out where the best one's lead over it is
    no larger than that lead's standard error, block by block.
    """
    vote = candidates[0]
    if len(candidates) == 1:
        return vote.plan
    alive = [*candidates]
    last: dict[str, torch.Tensor] = {}
    best = vote
    for blocks, stay in HALVING:
        judged = tqdm(alive, f"elect by {blocks} blocks", unit="plan")
        found = {one.name: judge(one.plan, blocks) for one in judged}
        last |= found
        alive.sort(key=lambda one: _rank_of(found[one.name]))
        best = alive[0]
        if len(last[best.name]) < blocks:
            break  # there is no more text
        alive = [*alive[:stay], *([] if vote in alive[:stay] else [vote])]
    chosen = vote if _is_tie(last[vote.name], last[best.name]) else best
    return _record(candidates, last, chosen)


def _rank_of(losses: torch.Tensor) -> float:
    """The mean of losses [blocks]; what is no number comes last."""
    mean = float(losses.mean())
    return mean if math.isfinite(mean) else math.inf


def _is_tie(vote: torch.Tensor, best: torch.Tensor) -> bool:
    """Whether the vote's losses [blocks] are no further behind than chance would have them."""
    if not bool(best.isfinite().all()):
        return True  # nobody could be judged
    if not bool(vote.isfinite().all()):
        return False
    behind = (vote - best).double()
    if len(behind) < 2:
        return float(behind.mean()) <= 0
    return float(behind.mean()) <= float(behind.std() / len(behind) ** 0.5)


def _record(
    candidates: Sequence[Candidate], last: dict[str, torch.Tensor], chosen: Candidate
) -> PruningPlan:
    rows = tuple(
        Elected(
            name=one.name,
            blocks=len(last[one.name]),
            loss_nats=float(last[one.name].mean()),
            chosen=one is chosen,
        )
        for one in candidates
    )
    return replace(chosen.plan, elected=rows)
