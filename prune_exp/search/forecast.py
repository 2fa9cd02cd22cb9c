"""What a sweep would run, how long that may take and what memory it needs; nothing is started."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from prune_exp.machine.display import show_duration
from prune_exp.search.space import Space

MOST_ROWS = 20
"""Trials that are shown one by one."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What one trial will do and need."""

    steps: tuple[str, ...]
    seconds: float
    memory_mib: float
    runs: int = 0
    """Earlier runs that say so; 0 where only sizes do."""
    shared_s: float = 0.0
    """What is done once for all trials that share it."""


def show_plan(
    rows: Sequence[Mapping[str, Any]],
    space: Space,
    forecasts: Sequence[Forecast],
    *,
    at_a_time: int = 1,
    may_end: Sequence[str] = (),
    done: int = 0,
) -> None:
    """Prints the trials that are left, each with its forecast, and why they may be fewer."""
    console = Console(markup=False, highlight=False)
    table = Table(title="What would be run", padding=(0, 0))
    for name in ("Trial", "Tries", "Does", "Takes about"):
        table.add_column(name, overflow="fold")
    shown = list(zip(rows, forecasts, strict=True))[:MOST_ROWS]
    for number, (row, one) in enumerate(shown, start=done):
        table.add_row(
            str(number),
            _describe_point(row, space) or "the settings as they are",
            ", ".join(one.steps),
            show_duration(one.seconds),
        )
    console.print(table)
    left = len(rows) - len(shown)
    lines = [f"and {left} more like these"] if left else []
    lines += _describe_total(forecasts, at_a_time)
    console.print("\n".join([*lines, *may_end, "Nothing was started."]), soft_wrap=True)


def average_forecasts(corners: Sequence[Forecast]) -> Forecast:
    """What a trial somewhere between the corners of a space takes; the memory of the largest."""
    first = corners[0]
    return replace(
        first,
        seconds=mean(one.seconds for one in corners),
        memory_mib=max(one.memory_mib for one in corners),
        shared_s=max(one.shared_s for one in corners),
        runs=min(one.runs for one in corners),
    )


def _describe_point(row: Mapping[str, Any], space: Space) -> str:
    """A listed point, with the intervals that are searched in it."""
    searched = {key: text for key, text in space.describe().items() if key in space.searched}
    return " ".join(f"{key}={value}" for key, value in (searched | dict(row)).items())


def _describe_total(forecasts: Sequence[Forecast], at_a_time: int) -> list[str]:
    if not forecasts:
        return ["Every point has a result; nothing is left to run."]
    at_a_time = min(at_a_time, len(forecasts))
    seconds = sum(one.seconds for one in forecasts) / at_a_time
    seconds += max(one.shared_s for one in forecasts)
    memory = sorted((one.memory_mib for one in forecasts), reverse=True)[:at_a_time]
    count = len(forecasts)
    order = "one after the other" if at_a_time == 1 else f"{at_a_time} at a time"
    trials = f"{count} trials, {order}" if count > 1 else "1 trial"
    by_sizes = sum(not one.runs for one in forecasts)
    if not by_sizes:
        known = f"by {max(one.runs for one in forecasts)} runs of this store that were alike"
    elif by_sizes == len(forecasts):
        known = "by sizes and this machine's speed, so it may well be half or twice that"
    else:
        known = f"by runs of this store, {by_sizes} of them by sizes and this machine's speed"
    return [
        f"{trials}: about {show_duration(seconds)} and {sum(memory):,.0f} MiB of memory, {known}."
    ]
