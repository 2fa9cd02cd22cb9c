"""Looks at quality before all held-out text is read: what surely breaks a limit need not go on."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from prune_exp.measurement.intervals import LARGEST_LOG, ratio_over_documents
from prune_exp.measurement.records import DOMAIN, HIGH
from prune_exp.text.corpus import TokenBlocks

LOOKS = (4, 8, 16)
"""Blocks after which the interval is looked at."""
CHANCE = 0.025 / len(LOOKS)
"""How likely one look may be wrong, so that all are as sure as an end of a 95 % interval."""


class SurelyBeyond(Exception):
    """A metric is beyond the most that it may be, whatever else would be measured."""

    def __init__(self, metric: str, at_least: float, *, blocks: int = 0) -> None:
        super().__init__(metric, at_least, blocks)
        self.metric = metric
        self.at_least = at_least
        self.blocks = blocks
        """Held-out blocks that say so; 0 where the figure is exact."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A metric that may not be beyond a limit, as what the text says of it so far."""

    metric: str
    most: float
    rows: tuple[int, ...]
    """Blocks that it is about, in an order whose every beginning is spread evenly over them."""
    read: Callable[[float], float]
    """The metric by the mean rise in loss per token, in nats."""


@dataclass(kw_only=True)
class EarlyLooks:
    """The order in which blocks are judged, and what is looked at on the way."""

    text: TokenBlocks
    dense: torch.Tensor
    """Loss of each token under the dense model [blocks, tokens - 1]."""
    watched: Sequence[Watched] = ()
    sums: dict[int, torch.Tensor] = field(default_factory=dict)
    """Summed loss of each document [documents], by block judged."""

    @property
    def order(self) -> list[int]:
        """All blocks; the first ones of what is watched come first."""
        early = [row for one in self.watched for row in one.rows[: LOOKS[-1]]]
        return [*dict.fromkeys([*early, *range(len(self.text.ids))])]

    def note_block(self, row: int, owners: torch.Tensor, losses: torch.Tensor) -> None:
        """Hears of the losses of a block and the documents that they are of.

        Raises:
            SurelyBeyond: something watched has surely gone beyond its limit.
        """
        if not self.watched:
            return
        documents = len(self.text.count_predicted())
        self.sums[row] = torch.zeros(documents, dtype=torch.float64).index_add_(
            0, owners, losses.double()
        )
        for one in self.watched:
            for blocks in LOOKS:
                first = one.rows[:blocks]
                if blocks < len(one.rows) and row in first and self.sums.keys() >= set(first):
                    self._look(one, list(first))

    def _look(self, one: Watched, rows: list[int]) -> None:
        owners = self.text.owners[rows, 1:].flatten()
        ours = torch.stack([self.sums[row] for row in rows]).sum(0)
        tokens = torch.bincount(owners, minlength=len(ours))
        gaps = ours.index_add(0, owners, self.dense[rows].flatten().double(), alpha=-1)
        there = tokens > 0
        found = ratio_over_documents(gaps[there].tolist(), tokens[there].tolist())
        at_least = one.read(found.low_end(CHANCE))
        if at_least > one.most:
            raise SurelyBeyond(one.metric, at_least, blocks=len(rows))


def watch_limits(limits: Mapping[str, float], text: TokenBlocks, dense: torch.Tensor) -> EarlyLooks:
    """Looks at those limits that the loss on part of the text can break.

    A look is wrong where the rest of the text would have brought the metric back within its limit.
    """
    watched = [
        Watched(metric=metric, most=limits[metric], rows=spread_rows(rows), read=read)
        for metric, rows, read in _list_metrics(text, dense)
        if metric in limits
    ]
    return EarlyLooks(text=text, dense=dense, watched=watched)


def _list_metrics(
    text: TokenBlocks, dense: torch.Tensor
) -> Iterator[tuple[str, list[int], Callable[[float], float]]]:
    """Metrics that rise with the loss, the blocks that they are about, and how they follow.

    An upper end is never below its value, so what the value surely exceeds it does too; and the
    text that lost most has lost no less than each of those to be kept.
    """
    kept: list[int] = []
    scored = 0
    for domain, rows in text.spans():
        start = f"{DOMAIN}{domain.name}/"
        bits = _bits_reader(dense[list(rows)], domain.bytes_scored)
        yield f"{start}perplexity_ratio", [*rows], _to_ratio
        yield f"{start}perplexity_ratio{HIGH}", [*rows], _to_ratio
        yield f"{start}pruned_bits_per_byte", [*rows], bits
        if domain.kept:
            kept += rows
            scored += domain.bytes_scored
            yield f"worst_perplexity_ratio{HIGH}", [*rows], _to_ratio
    whole = dense[kept]
    nats = float(whole.double().mean())
    bits = _bits_reader(whole, scored)
    yield "perplexity_ratio", kept, _to_ratio
    yield f"perplexity_ratio{HIGH}", kept, _to_ratio
    yield "pruned/perplexity", kept, lambda rise: _to_ratio(nats + rise)
    yield "pruned/bits_per_byte", kept, bits
    yield "bits_per_byte_increase", kept, lambda rise: bits(rise) - bits(0.0)


def _to_ratio(rise: float) -> float:
    return math.exp(min(rise, LARGEST_LOG))


def _bits_reader(dense: torch.Tensor, bytes_scored: int) -> Callable[[float], float]:
    """Bits per byte by the rise over the dense model's losses [blocks, tokens - 1]."""
    loss = float(dense.double().sum())
    tokens = dense.numel()
    return lambda rise: (loss + rise * tokens) / math.log(2) / bytes_scored


def spread_rows(rows: Sequence[int]) -> tuple[int, ...]:
    """Rows in van der Corput's order: every beginning of it is spread evenly over all of them."""
    digits = max(1, (len(rows) - 1).bit_length())
    places = sorted(range(len(rows)), key=lambda place: f"{place:0{digits}b}"[::-1])
    return tuple(rows[place] for place in places)
