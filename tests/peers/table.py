"""Rows to Markdown, and to a sentence or two of what they say."""

import math
from collections.abc import Sequence

from prune_exp.measurement.records import Interval
from prune_exp.pruning.allocation import TOLERANCE

from .rows import Missing, Row

HEADS = (
    "method",
    "removed %",
    "perplexity",
    "ratio to dense",
    "rise in log-perplexity",
    "bits per byte",
    "prune time, s",
    "decode speedup",
    "note",
)


def rise(row: Row) -> float:
    """Rise in log-perplexity over the dense model, in nats a token."""
    return math.log(row.ratio.value)


def table(rows: Sequence[Row | Missing]) -> str:
    """A Markdown table, the best method first, those without a model last."""
    found = sorted((row for row in rows if isinstance(row, Row)), key=rise)
    lines = [_line(HEADS), _line(["---"] * len(HEADS))]
    lines += [_line(_cells(row)) for row in found]
    for row in rows:
        if isinstance(row, Missing):
            lines.append(_line([row.name, *["-"] * (len(HEADS) - 2), row.reason]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row) -> list[str]:
    name = f"**{row.name}**" if row.kind == "ours" else row.name
    uneven = abs(row.achieved - row.requested) > TOLERANCE
    off = f"{100 * (row.achieved - row.requested):+.1f} % off the request; " if uneven else ""
    return [
        name,
        f"{100 * row.achieved:.2f}",
        f"{row.perplexity:.4g}",
        _interval(row.ratio),
        f"{rise(row):.3f}",
        f"{row.bits_per_byte:.3f}",
        f"{row.prune_s:.0f}",
        "-" if row.speedup is None else _interval(row.speedup),
        off + row.note,
    ]


def _interval(one: Interval) -> str:
    return f"{one.value:.3g} [{one.low:.3g}, {one.high:.3g}]"


def best(rows: Sequence[Row | Missing], kind: str) -> Row | None:
    """The row of a kind with the least rise."""
    found = [row for row in rows if isinstance(row, Row) and row.kind == kind]
    return min(found, key=rise, default=None)


def verdicts(rows: Sequence[Row | Missing]) -> list[str]:
    """What the rows of one size say: ours against the best peer, and against the best voter."""
    peer, voter = best(rows, "peer"), best(rows, "voter")
    ours = [row for row in rows if isinstance(row, Row) and row.kind == "ours"]
    said = [against_peer(row, peer) for row in ours] if peer is not None else []
    consensus = next((row for row in ours if row.name == "consensus"), None)
    if consensus is not None and voter is not None:
        said.append(against_voter(consensus, voter))
    return said


def against_peer(row: Row, peer: Row) -> str:
    """Whether a row's rise is at most half of the best peer's."""
    answer = "at most half" if rise(row) <= rise(peer) / 2 else "more than half"
    share = f" ({rise(row) / rise(peer):.2f} of it)" if rise(peer) > 0 else ""
    return (
        f"{row.name}: a rise of {rise(row):.3f} is {answer} of the best peer's{share}:"
        f" {rise(peer):.3f} by {peer.name}, which removed {100 * peer.achieved:.2f} %."
    )


def against_voter(row: Row, voter: Row) -> str:
    """Whether a row beats the best single voter, both refit."""
    answer = "beats" if rise(row) < rise(voter) else "does not beat"
    return (
        f"{row.name}: a rise of {rise(row):.3f} {answer} the best single voter after refit:"
        f" {rise(voter):.3f} by {voter.name}, which removed {100 * voter.achieved:.2f} %."
    )
