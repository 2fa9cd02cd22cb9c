"""Published methods in a few lines each, on our calibration statistics; no weight is refit."""

from typing import TYPE_CHECKING, Any

from prune_exp.pruning import surgery
from prune_exp.pruning.allocation import NOTHING
from prune_exp.pruning.plan import PruningPlan
from prune_exp.pruning.voters import VOTERS

from .task import Method, Task

if TYPE_CHECKING:
    import torch


def plan_of(
    task: Task, layers: tuple[int, ...] = (), channels: "torch.Tensor | None" = None
) -> PruningPlan:
    """Removes whole layers, or the MLP channels [layers, removed]."""
    stay = [i for i in range(task.shape.layers) if i not in layers]
    return PruningPlan(
        sparsity_requested=task.settings.sparsity,
        vote_threshold=1.0,
        ballot="adaptive",
        allocation=NOTHING,
        layers=layers,
        heads=dict.fromkeys(stay, ()),
        channels={i: () if channels is None else tuple(channels[i].tolist()) for i in stay},
        voters={},
    )


def lowest(scores: "torch.Tensor", count: int) -> "torch.Tensor":
    """Places of the `count` lowest scores of each row [rows, units], in ascending order."""
    order = scores.argsort(dim=-1, stable=True)
    return order[:, :count].sort(dim=-1).values


def block_influence(task: Task) -> Any:
    """Removes the layers whose output is most like their input (arXiv:2403.03853)."""
    distance = task.calibration().statistics.layers_cosine_distance
    gone = lowest(distance[None], task.layers)[0]
    return surgery.carry_out_plan(task.model(), plan_of(task, layers=tuple(gone.tolist())), None)


def _by_voter(task: Task, name: str) -> "torch.Tensor":
    """MLP channels [layers, removed] that a criterion of ours puts last."""
    scores = VOTERS[name](task.calibration().statistics, "mlp", task.settings.seed)
    assert scores is not None
    return lowest(scores, task.shape.width - task.width)


def wanda(task: Task) -> Any:
    """Norm over a channel's outgoing weights of |weight| * activation norm (arXiv:2306.11695)."""
    return surgery.carry_out_plan(
        task.model(), plan_of(task, channels=_by_voter(task, "wanda")), None
    )


def random(task: Task) -> Any:
    """Channels by chance."""
    return surgery.carry_out_plan(
        task.model(), plan_of(task, channels=_by_voter(task, "random")), None
    )


METHODS = {
    "block-influence": Method(
        prune=block_influence, statistics=True, note="whole layers: the nearest count"
    ),
    "wanda": Method(prune=wanda, statistics=True, note="MLP channels"),
    "random": Method(prune=random, note="MLP channels"),
}
