"""FLAP (arXiv:2312.11983): steady units go, and a bias adds what they gave on average."""

from typing import TYPE_CHECKING, Any

from prune_exp.model.architectures import DecoderLayer, layers_of, weight_matrix
from prune_exp.model.assembly import from_state
from prune_exp.pruning import surgery
from prune_exp.pruning.cutting import keep_channels, keep_heads
from prune_exp.pruning.statistics import Statistics
from prune_exp.pruning.voters import VOTERS

from .own import lowest, plan_of
from .task import Method, Task

if TYPE_CHECKING:
    import torch


def missing(linear: Any, mean: "torch.Tensor", gone: "torch.Tensor") -> "torch.Tensor":
    """What a projection's inputs `gone` added to its outputs on average [outputs].

    `mean` is the mean of every input [inputs].
    """
    return weight_matrix(linear)[:, gone] @ mean[gone]


def with_biases(model: Any, biases: "list[torch.Tensor]") -> Any:
    """A stock model whose MLPs add `biases` [hidden], by layer, to what they write."""
    import copy

    import torch

    config, state = copy.deepcopy(model.config), model.state_dict()
    config.mlp_bias = True
    for name in [name for name in state if name.endswith(("gate_proj.weight", "up_proj.weight"))]:
        state[name.replace("weight", "bias")] = torch.zeros(state[name].shape[0])
    downs = [name for name in state if name.endswith("down_proj.weight")]
    for name, bias in zip(downs, biases, strict=True):
        state[name.replace("weight", "bias")] = bias
    return from_state(config, state, model)


def uniform(task: Task) -> Any:
    """Equally many MLP channels from every layer, those with the least fluctuation."""
    stats, model = task.calibration().statistics, task.model()
    scores = VOTERS["fluctuation"](stats, "mlp", task.settings.seed)
    assert scores is not None
    gone = lowest(scores, task.shape.width - task.width)
    biases = [
        missing(block.mlp_out, mean, row)
        for block, mean, row in zip(layers_of(model), stats.mlp_activation_mean, gone, strict=True)
    ]
    return with_biases(surgery.carry_out_plan(model, plan_of(task, channels=gone), None), biases)


def standardized(scores: "torch.Tensor") -> "torch.Tensor":
    """Scores [layers, units] with mean 0 and deviation 1 in every layer."""
    return (scores - scores.mean(-1, keepdim=True)) / scores.std(-1, keepdim=True)


def masks(task: Task, stats: Statistics) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Key/value groups [layers, groups] and channels [layers, width] that stay, by one threshold.

    Scores are standardized per feature within a layer, averaged over a group's features, and
    ranked together (the paper's AL-AM), each unit weighing its parameters. The best unit of a kind
    in a layer always stays.
    """
    import torch

    shape = task.shape
    heads = stats.heads_out_norm_sq * (
        stats.heads_activation_mean_sq - stats.heads_activation_mean.square()
    )
    channels = stats.mlp_down_norm_sq * (
        stats.mlp_activation_mean_sq - stats.mlp_activation_mean.square()
    )
    by_kind = [standardized(heads.flatten(1)).view(shape.layers, shape.kv_heads, -1).mean(2)]
    by_kind.append(standardized(channels))
    group = shape.params_kv_head + shape.queries_per_group * shape.params_query_head
    sizes = [torch.full_like(by_kind[0], group), torch.full_like(by_kind[1], shape.params_channel)]
    for scores in by_kind:
        scores.scatter_(1, scores.argmax(1, keepdim=True), torch.inf)
    flat = torch.cat([scores.flatten() for scores in by_kind])
    order = flat.argsort(stable=True)
    removed = torch.cat([one.flatten() for one in sizes]).double()[order].cumsum(0)
    count = int((removed - task.settings.sparsity * shape.params_total).abs().argmin()) + 1
    keep = torch.ones_like(flat, dtype=torch.bool)
    keep[order[:count]] = False
    first = by_kind[0].numel()
    return keep[:first].view_as(by_kind[0]), keep[first:].view_as(by_kind[1])


def adaptive(task: Task) -> Any:
    """Heads and MLP channels, as many from each layer as one threshold for all gives."""
    stats, model = task.calibration().statistics, task.model()
    groups, channels = masks(task, stats)
    per_group = task.shape.queries_per_group
    for index, block in enumerate(layers_of(model)):
        heads = groups[index].repeat_interleave(per_group)
        _cut(
            block,
            heads,
            channels[index],
            stats.heads_activation_mean[index],
            stats.mlp_activation_mean[index],
        )
    return model


def _cut(
    block: DecoderLayer,
    heads: "torch.Tensor",
    channels: "torch.Tensor",
    heads_activation_mean: "torch.Tensor",
    mlp_activation_mean: "torch.Tensor",
) -> None:
    """Keeps some heads [heads] and channels [width] of a block, and adds what the others gave."""
    from torch import nn

    features = heads.repeat_interleave(block.heads.dim)
    biases = {
        block.heads_out: missing(block.heads_out, heads_activation_mean.flatten(), ~features),
        block.mlp_out: missing(block.mlp_out, mlp_activation_mean, ~channels),
    }
    keep_heads(block, heads.nonzero().flatten().tolist())
    keep_channels(block, channels.nonzero().flatten().tolist())
    for linear, bias in biases.items():
        linear.bias = nn.Parameter(bias, requires_grad=False)


METHODS = {
    "flap-uniform": Method(
        prune=uniform, statistics=True, note="MLP channels, equal widths, with bias compensation"
    ),
    "flap": Method(
        prune=adaptive,
        statistics=True,
        stock=False,
        note="key/value groups and MLP channels, one threshold for all layers, bias compensation",
    ),
}
