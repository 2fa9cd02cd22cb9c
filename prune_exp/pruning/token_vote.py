"""Who decides on tokens: each voter alone, a majority or mean ranks; unread text settles it.

The vote proposes, and documents that no voter has read judge: how many of their tokens would be
cut to pieces. So the tokens' vote is as good on such text as the best voter on it, without knowing
beforehand which one that is (a discrete super learner: van der Laan and Dudoit, 2003).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from prune_exp.pruning.consensus import Ballot, Scores, condemn, rank_units
from prune_exp.pruning.inputs import Inputs, PruningRequest
from prune_exp.pruning.plan import JudgedVote
from prune_exp.pruning.statistics import Statistics
from prune_exp.pruning.voters import score_units
from prune_exp.text.corpus import (
    CalibrationPart,
    Corpus,
    count_documents_read,
    retokenize,
    token_frequency,
    token_ids,
)
from prune_exp.text.documents import leave_out
from prune_exp.text.token_bytes import make_reencoder, reencode_blocks
from prune_exp.text.tokenizer import order_scores, read_vocabulary

JUDGING_SHARE = 0.25
"""Most of a file's calibration documents that judge."""
MEAN_RANK = "mean_rank"


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One way to decide."""

    name: str
    voters: tuple[str, ...]
    vote_threshold: float | None
    """None: the mean of the voters' ranks decides."""
    consensus: bool
    """Whether more than half of several voters must agree."""


@dataclass(frozen=True, kw_only=True)
class TokenVote:
    """What decides, as scores and a threshold, and what was judged before."""

    scores: Scores
    """[1, tokens]; the vocabulary can be cut anywhere in each of their orders."""
    vote_threshold: float
    judged: tuple[JudgedVote, ...]


@dataclass(frozen=True, kw_only=True)
class JudgingText:
    """Documents of one file that no voter has read."""

    share: float
    ids: torch.Tensor
    """Their tokens [tokens]."""


@dataclass(frozen=True, kw_only=True)
class Unread:
    """Documents that are set apart, and a vote on tokens that knows nothing of them."""

    blocks: torch.Tensor
    """Text of these documents [blocks, tokens]."""
    corpus: Corpus
    """What is left."""
    statistics: Statistics
    """With tokens counted in what is left."""


def set_apart(
    request: PruningRequest,
    inputs: Inputs,
    statistics: Statistics,
    blocks: int,
    longest: int | None = None,
) -> Unread | None:
    """So many blocks at most of documents that are not counted; None where all text is read.

    Blocks are cut after `longest` tokens.
    """
    kept, apart = _split_parts(request, inputs)
    data = replace(request.data, calibration_blocks=blocks)
    corpus = replace(inputs.corpus, parts=tuple(apart))
    judging = retokenize(corpus, data, inputs.tokenizer)
    if not len(judging):
        return None
    frequency = token_frequency(kept, inputs.tokenizer, len(statistics.vocab_frequency))
    return Unread(
        blocks=_spell_as_one_text(judging[:, :longest], inputs.tokenizer),
        corpus=replace(inputs.corpus, parts=tuple(kept)),
        statistics=replace(statistics, vocab_frequency=frequency),
    )


def _spell_as_one_text(blocks: torch.Tensor, tokenizer: Any) -> torch.Tensor:
    """Blocks [blocks, tokens] as they are spelled once more from their bytes, cut to one length.

    Where documents meet, line ends become other tokens than at the end of a text. A smaller
    vocabulary reads them so, and would look better than the dense one for that alone.
    """
    respelled = reencode_blocks(blocks, make_reencoder(tokenizer, tokenizer))
    rows = [torch.cat(parts) for parts in respelled]
    shortest = min(blocks.shape[1], *(len(row) for row in rows))
    return torch.stack([row[:shortest] for row in rows])


def vote_unread(
    request: PruningRequest, inputs: Inputs, unread: Unread, count: int
) -> tuple[int, ...]:
    """The `count` tokens that would go if the documents set apart had never been counted."""
    own = replace(inputs, corpus=unread.corpus)
    vote = vote_on_tokens(request, own, unread.statistics, count)
    ballot = Ballot(kind=request.pruning.ballot, vote_threshold=vote.vote_threshold)
    return tuple(condemn(vote.scores, count, ballot)[0].nonzero()[:, 0].tolist())


def vote_on_tokens(
    request: PruningRequest, inputs: Inputs, statistics: Statistics, count: int
) -> TokenVote:
    """Decides who decides on `count` tokens.

    Where the calibration blocks leave no document unread, a majority decides unjudged.
    """
    scores = score_tokens(request, inputs, statistics)
    proposals = list_proposals(sorted(scores))
    majority = next(one for one in proposals if one.consensus or len(scores) == 1)
    read, judging = _split_unread(request, inputs)
    if not judging:
        return _carry(majority, scores, ())
    frequency = token_frequency(read, inputs.tokenizer, len(statistics.vocab_frequency))
    unread = score_tokens(request, inputs, replace(statistics, vocab_frequency=frequency))
    gone = {one.name: condemn(*_ballot_of(one, unread, count))[0] for one in proposals}
    lost_pct = {name: mean_lost_pct(mask, judging) for name, mask in gone.items()}
    chosen = choose_proposal(proposals, lost_pct)
    judged = tuple(
        JudgedVote(name=one.name, lost_pct=lost_pct[one.name], chosen=one is chosen)
        for one in proposals
    )
    return _carry(chosen, scores, judged)


def score_tokens(request: PruningRequest, inputs: Inputs, statistics: Statistics) -> Scores:
    """Every voter's scores [1, tokens] as places in an order in which tokens can go."""
    vocabulary = read_vocabulary(inputs.tokenizer)
    given = score_units(
        request.pruning.voters,
        statistics,
        "vocab",
        head_unit=request.pruning.head_unit,
        seed=request.seed,
    )
    return {name: order_scores(values[0], vocabulary)[None] for name, values in given.items()}


def list_proposals(voters: Sequence[str]) -> list[Proposal]:
    """Majorities from the least on, mean ranks, then every voter alone."""
    count = len(voters)
    several = tuple(voters) if count > 1 else ()
    agreeing = [
        Proposal(
            name=f"{needed} of {count} agree",
            voters=several,
            vote_threshold=needed / count,
            consensus=True,
        )
        for needed in range(count // 2 + 1, count + 1)
        if several
    ]
    mean = [
        Proposal(name="mean rank", voters=several, vote_threshold=None, consensus=True)
        for _ in several[:1]
    ]
    alone = [
        Proposal(name=f"{voter} alone", voters=(voter,), vote_threshold=1.0, consensus=False)
        for voter in voters
    ]
    return [*agreeing, *mean, *alone]


def _split_unread(
    request: PruningRequest, inputs: Inputs
) -> tuple[list[CalibrationPart], list[JudgingText]]:
    """The parts without the documents that judge, and those documents."""
    read, apart = _split_parts(request, inputs)
    judging: list[JudgingText] = []
    for part in apart:
        ids = [i for one in part.documents for i in token_ids(one, inputs.tokenizer)]
        if ids:
            judging.append(JudgingText(share=part.share, ids=torch.tensor(ids)))
    return read, judging


def _split_parts(
    request: PruningRequest, inputs: Inputs
) -> tuple[list[CalibrationPart], list[CalibrationPart]]:
    """The parts without the documents that judge, and with these alone."""
    read: list[CalibrationPart] = []
    apart: list[CalibrationPart] = []
    seen = count_documents_read(inputs.corpus, request.data, inputs.tokenizer)
    starts: list[int] = []
    for part, used in zip(inputs.corpus.parts, seen, strict=True):
        starts.append(max(used, int((1 - JUDGING_SHARE) * len(part.documents))))
        read.append(replace(part, documents=part.documents[: starts[-1]]))
    known = [one for part in read for one in part.documents]  # a text may be there twice
    for part, start in zip(inputs.corpus.parts, starts, strict=True):
        apart.append(replace(part, documents=leave_out(part.documents[start:], known)))
    return read, apart


def mean_lost_pct(gone: torch.Tensor, judging: Sequence[JudgingText]) -> float:
    """Percentage of all tokens that a mask [tokens] cuts to pieces, files by their share."""
    lost = [text.share * float(gone[text.ids].double().mean()) for text in judging]
    return 100 * sum(lost) / sum(text.share for text in judging)


def choose_proposal(proposals: Sequence[Proposal], lost_pct: dict[str, float]) -> Proposal:
    """The proposal that loses least; of equal ones a consensus, then the first."""
    return min(proposals, key=lambda one: (lost_pct[one.name], not one.consensus))


def _ballot_of(proposal: Proposal, scores: Scores, count: int) -> tuple[Scores, int, Ballot]:
    own, threshold = _scores_of(proposal, scores)
    return own, count, Ballot(kind="adaptive", vote_threshold=threshold)


def _scores_of(proposal: Proposal, scores: Scores) -> tuple[Scores, float]:
    own = {name: scores[name] for name in proposal.voters}
    if proposal.vote_threshold is not None:
        return own, proposal.vote_threshold
    return {MEAN_RANK: rank_units(own).double().mean(0)}, 1.0


def _carry(proposal: Proposal, scores: Scores, judged: tuple[JudgedVote, ...]) -> TokenVote:
    own, threshold = _scores_of(proposal, scores)
    return TokenVote(scores=own, vote_threshold=threshold, judged=judged)
