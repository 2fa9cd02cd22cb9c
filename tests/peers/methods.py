"""All peers by name, and our own rows by the overrides that a user would type."""

from dataclasses import dataclass

from . import flap, optipfair_peers, own, torch_pruning_peers
from .task import Method

PEERS: dict[str, Method] = (
    optipfair_peers.METHODS | torch_pruning_peers.METHODS | own.METHODS | flap.METHODS
)


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A row of ours."""

    overrides: tuple[str, ...]
    """What a user would type after `python -m prune_exp`."""
    kind: str = "ours"
    """ours: judged against the peers. voter: one criterion alone, which ours is judged against.
    trap: only asked for by name."""
    whole_layers: bool = False
    """Whether the request becomes the nearest number of whole layers."""
    note: str = ""


def _voter(*names: str, **more: str) -> Ours:
    note = more.get("note", "layers judged by it too")
    voters = f"pruning.voters=[{','.join(names)}]"
    return Ours(overrides=(voters, "pruning.rehearse_layers=false"), kind="voter", note=note)


LAYERS = "layers judged by similarity, since it abstains"
OURS: dict[str, Ours] = {
    "consensus": Ours(
        overrides=("pruning=consensus",), note="five voters, choices of layers rehearsed, refit"
    ),
    "vote": Ours(
        overrides=("pruning=consensus", "pruning.rehearse_layers=false"),
        note="five voters and nothing else, refit",
    ),
    "elected": Ours(
        overrides=("pruning=consensus", "pruning.elect=true"),
        note="voters, levels of agreement and a jury stand for election, refit",
    ),
    "elected-sabotaged": Ours(
        overrides=(
            "pruning=consensus",
            "pruning.elect=true",
            "pruning.voters=[gradient,wanda,fluctuation,obs,similarity,magnitude,random]",
        ),
        kind="trap",
        note="the same with two voters that know nothing",
    ),
    "best": Ours(overrides=("pruning=best",), note="tokens too, plans rehearsed, refit"),
    "vocab": Ours(overrides=("pruning=vocab",), note="tokens too, refit"),
    "voter-gradient": _voter("gradient", "similarity", note=LAYERS),
    "voter-wanda": _voter("wanda"),
    "voter-fluctuation": _voter("fluctuation", "similarity", note=LAYERS),
    "voter-obs": _voter("obs", "similarity", note=LAYERS),
    "voter-similarity": Ours(
        overrides=("pruning.voters=[similarity,fluctuation]", "pruning.units=[layers]"),
        kind="voter",
        whole_layers=True,
        note="whole layers: the nearest count; fluctuation abstains",
    ),
    "voter-magnitude": _voter("magnitude"),
    "voter-random": _voter("random"),
}
"""Recovery and the like are further rows: their overrides are all that is needed."""
