"""Plans for tiny decoders."""

from typing import Any

from prune_exp.pruning.allocation import NOTHING
from prune_exp.pruning.plan import PruningPlan


def empty_plan(**changes: Any) -> Any:
    """A plan for a tiny decoder that removes nothing but what is given."""
    nothing: dict[str, Any] = {
        "sparsity_requested": 0.1,
        "vote_threshold": 0.5,
        "ballot": "adaptive",
        "allocation": NOTHING,
        "layers": (),
        "heads": dict.fromkeys(range(4), ()),
        "channels": dict.fromkeys(range(4), ()),
        "voters": {},
    }
    return PruningPlan(**nothing | changes)


def plan_for(kind: str) -> PruningPlan:
    """Layer 1 goes; of the others some heads and channels, different ones in each."""
    heads = {
        "group": {0: (0, 1), 2: (2, 3), 3: (0, 1)},
        "query": {0: (0, 2), 2: (1, 3), 3: (0, 3)},
    }[kind]
    return empty_plan(
        layers=(1,),
        heads=heads,
        channels={i: tuple(range(i, i + 20, 2)) for i in (0, 2, 3)},
    )
