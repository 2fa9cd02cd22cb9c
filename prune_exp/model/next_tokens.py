"""Next-token distributions from final hidden states, a few tokens at a time.

The log-probabilities of a whole text [tokens, vocab] never exist at once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

CHUNK_TOKENS = 128
TINY = 1e-30
"""Probabilities below that count as that."""


@dataclass(frozen=True, kw_only=True)
class MergedTokens:
    """Tokens that are counted as others."""

    places: torch.Tensor
    """The place of each token among the others [vocab]."""
    count: int
    """How many others there are."""


@dataclass(frozen=True, kw_only=True)
class NextTokens:
    """What one model expects after each token of a text."""

    hidden: torch.Tensor
    """Final hidden states [tokens, hidden]."""
    head: torch.Tensor
    """Language-model head [vocab, hidden]."""
    merged: "MergedTokens | None" = None
    """How tokens are counted together; None: each by itself."""
    certain: torch.Tensor | None = None
    """What follows each token for certain [tokens], -1 where that is open; None: nowhere."""

    def logits(self, rows: slice) -> torch.Tensor:
        """Logits [chunk, vocab] in fp32 after some of the tokens, none merged."""
        return (self._states(rows) @ self.head.T).float()

    def log_probs(self, rows: slice) -> torch.Tensor:
        """Log-probabilities [chunk, vocab] in fp32 after some of the tokens.

        Of merged tokens [chunk, merged tokens].
        """
        expected = self._expected(rows)
        if self.certain is not None:
            follower = self.certain[rows].to(expected.device)
            sure = (follower >= 0).nonzero()[:, 0]
            expected[sure] = math.log(TINY)
            expected[sure, follower[sure]] = 0.0
        return expected

    def _expected(self, rows: slice) -> torch.Tensor:
        if self.merged is None:
            return self.logits(rows).log_softmax(-1)
        states = self._states(rows)
        by_token = (self.head @ states.T).float().softmax(0)  # [vocab, chunk]: rows are summed fast
        summed = by_token.new_zeros(self.merged.count, len(states))
        summed.index_add_(0, self.merged.places.to(by_token.device), by_token)
        return summed.clamp_min_(TINY).log_().T

    def _states(self, rows: slice) -> torch.Tensor:
        return self.hidden[rows].to(device=self.head.device, dtype=self.head.dtype)


def token_losses(after: NextTokens, targets: torch.Tensor, *, start: int = 0) -> torch.Tensor:
    """Loss, in nats, of each token that came [tokens] after those from `start` on.

    Whole distributions exist for a few tokens at a time, and are not normalized one by one.
    """
    losses = []
    for rows in split_tokens(len(targets)):
        logits = after.logits(slice(start + rows.start, start + rows.stop))
        wanted = logits.gather(-1, targets[rows, None].to(logits.device))[:, 0]
        losses.append((logits.logsumexp(-1) - wanted).double().cpu())
    return torch.cat(losses)


def split_tokens(count: int, chunk: int = CHUNK_TOKENS) -> Iterator[slice]:
    """Rows of `count` tokens, `chunk` at a time."""
    for start in range(0, count, chunk):
        yield slice(start, min(start + chunk, count))


def divergence(dense: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Summed KL(dense || student) of log-probabilities [tokens, vocab], in nats."""
    return (dense.exp() * (dense - student)).sum()


def sum_divergence(dense: NextTokens, student: NextTokens, *, chunk: int = CHUNK_TOKENS) -> float:
    """Summed KL(dense || student) over all tokens of a text, in nats."""
    total = 0.0
    with torch.no_grad():
        for rows in split_tokens(len(dense.hidden), chunk):
            total += float(divergence(dense.log_probs(rows), student.log_probs(rows)))
    return total
