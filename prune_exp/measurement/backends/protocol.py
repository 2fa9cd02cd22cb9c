"""What a measured process is told of the model it serves, and what it can then be asked."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from prune_exp.measurement.footprint import Footprint

FOOTPRINT_FILE = "footprint.json"

Arrived = Callable[[], None]
"""Called when a new token of every sequence has come."""
Generate = Callable[[list[list[int]], int, Arrived], tuple[list[list[int]], int]]
"""Equally long prompts and a number of new tokens, to greedy tokens for each and the bytes of keys
and values held in the end."""


@dataclass(frozen=True, kw_only=True)
class ServeSpec:
    """How a model is served; travels as one line of JSON."""

    folder: str
    """The checkpoint, or what a backend has made of it."""
    backend: str
    dtype: str
    """float32 or bfloat16."""
    cache: str
    compile: bool
    device: str
    """cpu or cuda."""
    threads: int
    sequences: int
    """Most sequences in a request."""
    cache_tokens: int
    """Most tokens in a sequence, the new ones included."""

    def to_line(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


def from_line(text: str) -> ServeSpec:
    """What `ServeSpec.to_line` wrote."""
    return ServeSpec(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A loaded model."""

    generate: Generate
    footprint: Footprint


Load = Callable[[ServeSpec], LoadedModel]
Start = Callable[[ServeSpec], Load]
"""Imports what a backend needs, so that it is there before memory is looked at."""


def write_footprint(footprint: Footprint, folder: Path) -> None:
    """Notes beside an export what a token reads of it."""
    (folder / FOOTPRINT_FILE).write_text(json.dumps(asdict(footprint)), encoding="ascii")


def read_footprint(folder: str) -> Footprint:
    """What `write_footprint` noted."""
    return Footprint.from_facts(json.loads(Path(folder, FOOTPRINT_FILE).read_text("ascii")))
