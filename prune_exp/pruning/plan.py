"""Which units go and how that was decided: frozen, and JSON-able."""

from dataclasses import asdict, dataclass, field
from typing import Any

from prune_exp.text.scripts import NO_SCRIPT

UNIT_NAMES = {
    "layers": "whole layers",
    "heads": "attention heads",
    "mlp": "MLP channels",
    "vocab": "tokens",
}
"""Kinds of unit in words."""
THE_VOTE = "the vote"
THE_JURY = "the jury"
FEWEST_OF_SCRIPT = 100
"""Tokens from which on a vocabulary knows a script."""
MOST_SCRIPTS = 12
"""Named in a sentence."""
LEAST_LEFT = 0.25
"""Share of a script's tokens below which it counts as lost."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """How many units of each kind go, the same numbers in every layer that stays."""

    layers: int
    kv_groups: int
    """Key/value heads removed per layer, each with its query heads."""
    queries_per_group: int
    """Query heads removed from every group."""
    channels: int
    """MLP channels removed per layer."""
    params_removed: int
    tokens: int = 0
    """Tokens removed from the vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Votes:
    """How the units of one kind were agreed on. A group is a layer that stays, or the model."""

    depth: tuple[float, ...]
    """Share of the units that every ballot held when the last one was condemned, by group."""
    nominated: dict[str, tuple[float, ...]]
    """Share of the removed units that a voter's ballot held, by voter and group; of whole layers,
    1 or 0 for every layer of the dense model."""


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """A plan that was tried on a few blocks of text."""

    layers: tuple[int, ...]
    """Layers it removes whole."""
    channels: int
    """MLP channels it removes in each of the others."""
    loss_nats: float
    """Loss after the short refit, in nats per token of the dense model's."""
    tokens: int = 0
    """Tokens it removes from the vocabulary."""
    by: tuple[str, ...] = ()
    """All who chose its layers: `the vote`, `wanda alone`, `closest run`, `a search`."""


@dataclass(frozen=True, kw_only=True)
class JudgedVote:
    """A way to decide on tokens, judged by documents that no voter has read."""

    name: str
    """Who decides: `expected alone`, `3 of 5 agree`, `mean rank`."""
    lost_pct: float
    """Percentage of those documents' tokens that it would cut to pieces."""
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class Elected:
    """A way to decide on channels that stood for election."""

    name: str
    """Who decides: `the vote`, `wanda alone`, `3 of 4 agree`, `the jury`."""
    blocks: int
    """Blocks that judged it last; the more, the longer it was in the race."""
    loss_nats: float
    """Loss on them after the short refit, in nats per token of the dense model's."""
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class Settled:
    """How the jury settled which MLP channels of one layer go."""

    layer: int
    agreed: int
    """Channels that everyone who stands for election takes out."""
    contested: int
    """Channels that some of them take out and others keep."""
    changed: int
    """Channels that go and that the vote would have kept."""
    by: str
    """Who was least wrong: `removal cost`, or the name of one who stands for election; the vote
    where nothing is contested."""


@dataclass(frozen=True, kw_only=True)
class Reconstructed:
    """A layer that was trained to do what removed ones after it did."""

    layer: int
    removed_after: int
    """How many layers went after it."""
    error_left: float
    """Share of the error after least squares that is left, on blocks that it was not trained on but
    that least squares have read; 1 where training did not help and nothing was changed."""


@dataclass(frozen=True, kw_only=True)
class PruningPlan:
    """Which units go. Indices are those of the dense model."""

    sparsity_requested: float
    vote_threshold: float
    ballot: str
    allocation: Allocation
    layers: tuple[int, ...]
    """Layers removed whole."""
    heads: dict[int, tuple[int, ...]]
    """Query heads removed, by layer that stays; a group's key/value head goes with its last one."""
    channels: dict[int, tuple[int, ...]]
    """MLP channels removed, by layer that stays."""
    voters: dict[str, tuple[str, ...]]
    """Who voted, by kind of unit."""
    tokens: tuple[int, ...] = ()
    """Token ids removed from the vocabulary."""
    weights_zeroed: int = 0
    """Single weights that were set to zero and are all still there."""
    agreement: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """Mean rank correlation of every two voters, by kind of unit."""
    votes: dict[str, Votes] = field(default_factory=dict)
    """Who nominated what was removed, by kind of unit; kinds that lost nothing are not in it."""
    rehearsed: tuple[Rehearsed, ...] = ()
    """What was tried before this plan was chosen; empty when the vote decided alone."""
    elected: tuple[Elected, ...] = ()
    """Who stood for election on channels; empty when the vote decided alone."""
    jury: tuple[Settled, ...] = ()
    """What the jury, which stood for election too, found layer by layer."""
    reconstructed: tuple[Reconstructed, ...] = ()
    """Layers before removed ones, and what training them came to."""
    judged_tokens: tuple[JudgedVote, ...] = ()
    """Ways to decide on tokens, the chosen one among them; empty where nothing was judged."""
    scripts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Tokens of each script in the dense vocabulary, and how many of them stay; empty where no
    token goes."""

    @property
    def decided_by_jury(self) -> bool:
        """Whether the jury's channels go."""
        return any(one.chosen and one.name == THE_JURY for one in self.elected)

    @property
    def layers_chosen_by(self) -> tuple[str, ...]:
        """Who chose the layers that go, where not the vote did; else empty."""
        names = next((one.by for one in self.rehearsed if one.layers == self.layers), ())
        return () if THE_VOTE in names else names

    @property
    def lost_scripts(self) -> list[str]:
        """Scripts of which hardly a token stays, those that had most tokens first."""
        lost = [
            (before, name)
            for name, (before, left) in self.scripts.items()
            if name != NO_SCRIPT and before >= FEWEST_OF_SCRIPT and left < LEAST_LEFT * before
        ]
        return [name for _, name in sorted(lost, reverse=True)]

    @property
    def units(self) -> tuple[Any, ...]:
        """What goes, and nothing of how that was decided."""
        gone = (tuple(sorted(one.items())) for one in (self.heads, self.channels))
        return self.layers, *gone, self.tokens

    @property
    def changes_blocks(self) -> bool:
        """Whether anything goes besides tokens."""
        return bool(self.layers or any(self.heads.values()) or any(self.channels.values()))

    def to_json(self) -> dict[str, Any]:
        """A dict that `json` can write and `from_json` reads back to an equal plan."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "PruningPlan":
        """Reads what `to_json` wrote, also after a trip through a JSON file."""
        return cls(
            **{
                **data,
                "allocation": Allocation(**data["allocation"]),
                "layers": tuple(data["layers"]),
                "heads": {int(k): tuple(v) for k, v in data["heads"].items()},
                "channels": {int(k): tuple(v) for k, v in data["channels"].items()},
                "voters": {k: tuple(v) for k, v in data["voters"].items()},
                "tokens": tuple(data["tokens"]),
                "votes": {k: _read_votes(v) for k, v in data.get("votes", {}).items()},
                "scripts": {k: tuple(v) for k, v in data.get("scripts", {}).items()},
                "judged_tokens": tuple(JudgedVote(**one) for one in data.get("judged_tokens", ())),
                "elected": tuple(Elected(**one) for one in data.get("elected", ())),
                "jury": tuple(Settled(**one) for one in data.get("jury", ())),
                "reconstructed": tuple(
                    Reconstructed(**one) for one in data.get("reconstructed", ())
                ),
                "rehearsed": tuple(_read_rehearsed(one) for one in data.get("rehearsed", ())),
            }
        )


def _read_votes(data: dict[str, Any]) -> Votes:
    return Votes(
        depth=tuple(data["depth"]),
        nominated={voter: tuple(shares) for voter, shares in data["nominated"].items()},
    )


def _read_rehearsed(data: dict[str, Any]) -> Rehearsed:
    by = tuple(data.get("by", ()))
    return Rehearsed(**{**data, "layers": tuple(data["layers"]), "by": by})


def describe_lost_scripts(plan: PruningPlan) -> str:
    """A sentence about scripts that the smaller vocabulary spells in bytes, or hardly knows."""
    names = [name.capitalize() if name != "CJK" else "Chinese" for name in plan.lost_scripts]
    shown = ", ".join(names[:MOST_SCRIPTS])
    more = len(names) - MOST_SCRIPTS
    rest = f" and {more} more" if more > 0 else ""
    return (
        f"The vocabulary hardly knows these scripts any more: {shown}{rest}. Text in them takes"
        " several times as many tokens, and languages written in them are lost. Languages that the"
        " calibration text lacks have lost words in every script."
    )
