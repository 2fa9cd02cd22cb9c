"""Carry a plan out: a smaller model whose weights make up for what is gone.

Blocks are visited in order, one model in memory, changed in place.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prune_exp.architectures import Heads, blocks_of
from prune_exp.assembly import keep_tokens, rebuild
from prune_exp.layerwise import Refit, Streams, cut, others, refit_layer, steps
from prune_exp.records import PruningPlan
from prune_exp.settings import PruningSettings
from prune_exp.streaming import LayerStream

if TYPE_CHECKING:
    import torch


def prune(
    model: Any,
    plan: PruningPlan,
    ids: "torch.Tensor | None",
    *,
    damping: float = PruningSettings.refit_damping,
    towards_dense: float = PruningSettings.refit_towards_dense,
    known: Callable[[int], "torch.Tensor"] | None = None,
    bfloat16: bool = False,
) -> Any:
    """Removes what `plan` names and returns a stock model of the new shape.

    `model` is used up. With calibration token ids [blocks, tokens] the weights that read the
    removed units are refit; with None they only lose columns, and the result computes exactly
    what the dense model does with those units silenced. Ids are the dense model's, also where
    tokens are removed. `damping` and `towards_dense` are `pruning.refit_damping` and
    `pruning.refit_towards_dense`. `known` gives the dense model's residual stream on `ids` before
    a block [blocks, tokens, hidden], and so saves computing it. With `bfloat16` the streams go
    through the blocks in that precision; the least squares do not.
    """
    from tqdm import tqdm

    blocks = blocks_of(model)
    order = steps(plan, len(blocks))
    kept = [index for index, _ in order]
    if ids is None:
        for index in kept:
            cut(blocks[index], plan, index)
        return _rebuild(model, plan, kept)
    stream = LayerStream(model, ids)
    run = Refit(
        blocks=blocks,
        plan=plan,
        stream=stream,
        states=Streams(dense=stream.hidden, pruned=stream.hidden),
        damping=damping,
        towards_dense=towards_dense,
        known=known,
        bfloat16=bfloat16,
    )
    for index in range(kept[0]):
        run.states.dense = run.forward(index, run.states.dense)
    for index, following in tqdm(order, "refit", unit="layer"):
        refit_layer(run, index, following)
    return _rebuild(model, plan, kept)


def _rebuild(model: Any, plan: PruningPlan, kept: list[int]) -> Any:
    dense = blocks_of(model)[kept[0]].heads
    left = others(dense.queries, plan.heads[kept[0]])
    groups = len({head // dense.per_group for head in left})
    pruned = rebuild(model, kept, Heads(queries=len(left), groups=groups, dim=dense.dim))
    if not plan.tokens:
        return pruned
    return keep_tokens(pruned, others(pruned.config.vocab_size, plan.tokens))
