"""How the dense model reads the text that a student reads in other tokens.

A smaller vocabulary spells some tokens in pieces. The teacher reads the same bytes in its own
tokens, as it was trained to, and what it expects after one of them is the lesson for the student's
piece that ends there. Inside such a token the student has no choice left: the piece that comes is
certain.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch

from prune_exp.text.corpus import SEPARATOR, as_blocks, opening_tokens, token_ids
from prune_exp.text.token_bytes import Recoder, recoder_of


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Blocks of a student's tokens, and what the dense model reads in their place."""

    ids: torch.Tensor
    """The student's tokens [blocks, tokens]."""
    dense: tuple[tuple[int, ...], ...]
    """The dense model's tokens of each block, of the same bytes."""
    places: torch.Tensor
    """Which of the dense model's tokens of the block each of the student's ends with [blocks,
    tokens]."""
    certain: torch.Tensor
    """What follows each of the student's tokens for certain [blocks, tokens], -1 where that is
    open."""

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, count: int) -> "Reading":
        """The first blocks alone."""
        return Reading(
            ids=self.ids[:count],
            dense=self.dense[:count],
            places=self.places[:count],
            certain=self.certain[:count],
        )


def read_alike(ids: torch.Tensor) -> Reading:
    """Blocks [blocks, tokens] of a student that has the dense model's tokens."""
    return Reading(
        ids=ids,
        dense=tuple(tuple(block) for block in ids.tolist()),
        places=torch.arange(ids.shape[1]).expand(ids.shape),
        certain=torch.full_like(ids, -1),
    )


def join_readings(parts: Sequence[Reading]) -> Reading:
    """The blocks of several, one after another."""
    return Reading(
        ids=torch.cat([part.ids for part in parts]),
        dense=tuple(block for part in parts for block in part.dense),
        places=torch.cat([part.places for part in parts]),
        certain=torch.cat([part.certain for part in parts]),
    )


class Reader:
    """Reads text in a student's tokens and in the dense model's at once."""

    def __init__(self, dense_tokenizer: Any, own_tokenizer: Any, kept: Sequence[int]) -> None:
        """Both must be of the kinds that tokens can be taken from.

        `kept` are the dense model's ids of the student's tokens.
        """
        self.dense_tokenizer = dense_tokenizer
        self.own_tokenizer = own_tokenizer
        self.kept = kept
        self.dense = _TokenLengths(recoder_of(dense_tokenizer))
        self.own = _TokenLengths(recoder_of(own_tokenizer))

    def read_documents(self, documents: Sequence[str], context: int) -> Reading:
        """The blocks of `all_blocks` in the student's tokens."""
        stream = _Stream()
        for text in documents:
            dense_ids = token_ids(text + SEPARATOR, self.dense_tokenizer)
            self._append(stream, dense_ids, token_ids(text + SEPARATOR, self.own_tokenizer))
        return self._cut(stream, opening_tokens(self.own_tokenizer), context)

    def read_blocks(self, blocks: torch.Tensor, context: int) -> Reading:
        """Blocks [blocks, tokens] of the dense model's ids, one after another.

        The token that opens every text opens every block, and stands nowhere inside.
        """
        opening = opening_tokens(self.dense_tokenizer)
        stream = _Stream()
        for dense_ids in blocks.tolist():
            if dense_ids[: len(opening)] == opening:
                dense_ids = dense_ids[len(opening) :]
            own_ids = self.own.recoder.ids_of(self.dense.recoder.bytes_of(dense_ids))
            self._append(stream, dense_ids, own_ids)
        return self._cut(stream, opening_tokens(self.own_tokenizer), context)

    def _append(self, stream: "_Stream", dense_ids: list[int], own_ids: list[int]) -> None:
        begin = stream.own_ends[-1] if stream.own_ends else 0
        own_ends = self.own.ends_of(own_ids, begin)
        last = own_ends[-1] if own_ends else begin
        stream.own += own_ids
        stream.own_ends += own_ends
        stream.dense += dense_ids
        stream.dense_ends += [min(end, last) for end in self.dense.ends_of(dense_ids, begin)]

    def _cut(self, stream: "_Stream", start: list[int], context: int) -> Reading:
        ids = as_blocks(stream.own, start, context)
        certain = as_blocks(stream.certain_followers(), [-1] * len(start), context)
        size = context - len(start)
        opening = [self.kept[token] for token in start]
        read = [
            stream.read_span(number * size, (number + 1) * size, self.kept)
            for number in range(len(ids))
        ]
        first = list(range(len(start)))
        places = [[*first, *(len(start) + place for place in own)] for _, own in read]
        return Reading(
            ids=ids,
            dense=tuple((*opening, *dense) for dense, _ in read),
            places=torch.tensor(places, dtype=torch.long).view(len(ids), context),
            certain=certain,
        )


@dataclass(kw_only=True)
class _Stream:
    """The same bytes in both kinds of tokens, and after how many bytes each token ends."""

    own: list[int] = field(default_factory=list)
    own_ends: list[int] = field(default_factory=list)
    dense: list[int] = field(default_factory=list)
    dense_ends: list[int] = field(default_factory=list)

    def certain_followers(self) -> list[int]:
        """The student's next token wherever none of the dense model's ends, else -1."""
        open_at = set(self.dense_ends)
        followers = [*self.own[1:], -1]
        return [
            -1 if end in open_at else follower
            for end, follower in zip(self.own_ends, followers, strict=True)
        ]

    def read_span(self, low: int, high: int, kept: Sequence[int]) -> tuple[list[int], list[int]]:
        """What the dense model reads for the student's tokens from `low` to `high`.

        Also at which of its tokens each of them ends. Tokens that the span cuts are spelled as the
        student spells them.
        """
        ends = self.own_ends[low:high]
        begin = self.own_ends[low - 1] if low else 0
        first = bisect_right(self.dense_ends, begin - 1)
        last = bisect_right(self.dense_ends, ends[-1])
        common = {begin, *ends} & ({0} if not low else set()).union(self.dense_ends[first:last])
        middle = (min(common), max(common)) if common else (ends[-1], ends[-1])
        lead, trail = (bisect_right(ends, byte) for byte in middle)
        of_dense = slice(*(bisect_right(self.dense_ends, byte) for byte in middle))
        whole = self.dense[of_dense]
        inside = self.dense_ends[of_dense]
        spelled = [kept[token] for token in self.own[low:high]]
        places = [
            *range(lead),
            *(max(lead + bisect_right(inside, end) - 1, 0) for end in ends[lead:trail]),
            *range(lead + len(whole), lead + len(whole) + len(ends) - trail),
        ]
        return [*spelled[:lead], *whole, *spelled[trail:]], places


class _TokenLengths:
    """How many bytes each token stands for, looked up once."""

    def __init__(self, recoder: Recoder) -> None:
        self.recoder = recoder
        self.known: dict[int, int] = {}

    def ends_of(self, ids: Sequence[int], begin: int) -> list[int]:
        """After which byte each token ends, the first one starting at `begin`."""
        for token in set(ids) - self.known.keys():
            self.known[token] = len(self.recoder.bytes_of([token]))
        return list(accumulate((self.known[token] for token in ids), initial=begin))[1:]
