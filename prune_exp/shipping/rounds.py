"""Several files in fresh processes of their runtimes, one after another, round by round."""

import sys
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prune_exp.measurement.turns import take_turn
from prune_exp.shipping.comparison import (
    ROOM_TOKENS,
    ShippingError,
    list_shipped_prompts,
    run_probe,
)
from prune_exp.shipping.probe import ProbeAnswer, ProbeRequest

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class TimedFile:
    """A file or folder that is opened and continues five prompts, in every round."""

    name: str
    path: Path
    runtime: str
    """A name in `RUNTIMES`."""


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How often, how long and with how many threads files are timed."""

    rounds: int
    new_tokens: int
    threads: int


def time_files(files: Mapping[Key, TimedFile], how: Rounds) -> dict[Key, list[ProbeAnswer]]:
    """What each file answered, by round; the machine's measuring turn is taken.

    Raises:
        ShippingError: a file could not be timed.
    """
    found: dict[Key, list[ProbeAnswer]] = {key: [] for key in files}
    with take_turn():
        for turn in range(how.rounds):
            for key, file in files.items():
                print(f"  round {turn + 1}: {file.name}", file=sys.stderr)
                found[key].append(_time_file(file, how))
    return found


def _time_file(file: TimedFile, how: Rounds) -> ProbeAnswer:
    asked = ProbeRequest(
        runtime=file.runtime,
        path=str(file.path),
        texts=[[0, 0]],
        places=[0],
        written=[],
        prompts=list_shipped_prompts(),
        new_tokens=how.new_tokens,
        threads=how.threads,
        context=ROOM_TOKENS,
    )
    try:
        answer, _ = run_probe(asked)
    except ShippingError as error:
        raise ShippingError(f"{file.name} cannot be timed: {error}") from error
    if not answer.tokens_per_s or answer.tokens_per_s < 0:
        raise ShippingError(f"{file.name} cannot be timed: it ends every answer at once")
    return answer
