"""Where a smaller vocabulary spells a token in pieces: what follows inside it is certain.

The dense model writes such a token whole. Having begun it, a student that spells it has no choice
left, so inside it the teacher expects the piece that comes and nothing else.
"""

from collections.abc import Sequence
from typing import Any

import torch

from prune_exp.text.corpus import SEPARATOR, as_blocks, opening_tokens, token_ids
from prune_exp.text.token_bytes import Recoder, recoder_of


class PieceMarker:
    """Finds the pieces inside tokens of the dense model's."""

    def __init__(self, dense_tokenizer: Any, own_tokenizer: Any) -> None:
        """Both must be of the kinds that tokens can be taken from."""
        self.dense_tokenizer = dense_tokenizer
        self.own_tokenizer = own_tokenizer
        self.dense = _TokenLengths(recoder_of(dense_tokenizer))
        self.own = _TokenLengths(recoder_of(own_tokenizer))

    def mark_blocks(self, documents: Sequence[str], context: int) -> torch.Tensor:
        """For the blocks of `all_blocks`: which tokens are inside one of the dense model's.

        As a mask [blocks, context].
        """
        marks: list[int] = []
        for text in documents:
            marks += self.mark_inner(
                token_ids(text + SEPARATOR, self.dense_tokenizer),
                token_ids(text + SEPARATOR, self.own_tokenizer),
            )
        start = [0] * len(opening_tokens(self.own_tokenizer))
        return as_blocks(marks, start, context).bool()

    def spell_tokens(self, dense_ids: Sequence[int]) -> list[int]:
        """The dense model's tokens as own ones, for the same bytes."""
        return self.own.recoder.ids_of(self.dense.recoder.bytes_of(dense_ids))

    def mark_inner(self, dense_ids: Sequence[int], own_ids: Sequence[int]) -> list[int]:
        """1 for each of the own tokens that begins where no dense one of the same bytes does."""
        starts = set(self.dense.starts_of(dense_ids))
        return [int(start not in starts) for start in self.own.starts_of(own_ids)]


class _TokenLengths:
    """How many bytes each token stands for, looked up once."""

    def __init__(self, recoder: Recoder) -> None:
        self.recoder = recoder
        self.known: dict[int, int] = {}

    def starts_of(self, ids: Sequence[int]) -> list[int]:
        """At which byte each token begins."""
        starts = []
        at = 0
        for token in ids:
            starts.append(at)
            if token not in self.known:
                self.known[token] = len(self.recoder.bytes_of([token]))
            at += self.known[token]
        return starts


def certain_followers(ids: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """What follows each token for certain [blocks, tokens]: an inner piece's id, else -1."""
    known = torch.full_like(ids, -1)
    known[:, :-1] = torch.where(inner[:, 1:], ids[:, 1:], -1)
    return known
