"""One row of the comparison: what was found, kept on disk so that it is found once."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prune_exp.measurement.records import Interval, QualityComparison


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method at one size."""

    name: str
    kind: str
    """peer, voter or ours"""
    requested: float
    achieved: float
    dense_perplexity: float
    perplexity: float
    ratio: Interval
    """Perplexity over the dense model's."""
    bits_per_byte: float
    prune_s: float
    """Wall seconds from the dense model in memory to the pruned one, calibration included."""
    speedup: Interval | None
    """None also where no checkpoint of the model could be timed."""
    timed: bool = False
    """Whether the speedup was asked for."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A method that gave no model."""

    name: str
    kind: str
    requested: float
    reason: str


def row_of(quality: QualityComparison, *, speedup: Interval | None, **facts: Any) -> Row:
    """A row from what was measured and the row's other fields."""
    return Row(
        dense_perplexity=quality.dense.perplexity,
        perplexity=quality.pruned.perplexity,
        ratio=quality.perplexity_ratio,
        bits_per_byte=quality.pruned.bits_per_byte,
        speedup=speedup,
        **facts,
    )


def read_row(path: Path) -> Row:
    """Reads what `write_row` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    for name in ("ratio", "speedup"):
        if data[name] is not None:
            data[name] = Interval(**data[name])
    return Row(**data)


def write_json(path: Path, data: Any) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(data, indent=1), encoding="utf-8")
    os.replace(partial, path)


def kept_row(path: Path, compute: Callable[[], Row | Missing], *, speed: bool) -> Row | Missing:
    """The row at `path`, computed when it is not there or lacks the speed asked for.

    A missing row is not kept, so that what it lacked can be put right.
    """
    if path.is_file():
        row = read_row(path)
        if row.timed or not speed:
            return row
    row = compute()
    if isinstance(row, Row):
        write_json(path, asdict(row))
    return row
