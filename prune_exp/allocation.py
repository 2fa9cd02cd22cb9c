"""How many layers, heads and channels a budget of parameters comes to.

All uniform shapes within reach of the request are listed; the one nearest to the wanted shares
of the budget wins. MLP channels are the finest unit, so they close the budget.
"""

from collections.abc import Iterator

from prune_exp.records import Allocation, ModelShape
from prune_exp.settings import PruningSettings, SettingError

TOLERANCE = 0.005
"""Largest accepted distance between the requested and the achieved sparsity."""


def allocate(shape: ModelShape, sparsity: float, pruning: PruningSettings) -> Allocation:
    """Splits `sparsity` of the model's parameters between kinds of unit.

    Raises:
        SettingError: no allowed shape comes within 0.5 % of the request; says what does.
    """
    best: tuple[float, float] | None = None
    chosen: Allocation | None = None
    reach = [1.0, 0.0]
    for option in _options(shape, sparsity, pruning):
        achieved = option.params_removed / shape.params_total
        reach = [min(reach[0], achieved), max(reach[1], achieved)]
        error = abs(achieved - sparsity)
        if error > TOLERANCE:
            continue
        key = (_distance(shape, option, pruning), error)
        if best is None or key < best:
            best, chosen = key, option
    if chosen is None:
        raise SettingError(_unreachable(shape, sparsity, pruning, reach))
    return chosen


def _options(shape: ModelShape, sparsity: float, pruning: PruningSettings) -> Iterator[Allocation]:
    """Every uniform shape, with the MLP width that comes closest to the budget."""
    budget, multiple = sparsity * shape.params_total, pruning.width_multiple
    for layers in range(shape.layers if "layers" in pruning.units else 1):
        left = shape.layers - layers
        for groups, queries, params in _head_options(shape, pruning):
            gone = layers * shape.params_layer + left * params
            channels = 0
            if "mlp" in pruning.units:
                wanted = shape.width - (budget - gone) / (left * shape.params_channel)
                width = multiple * round(wanted / multiple)
                width = min(max(width, min(multiple, shape.width)), shape.width)
                channels = shape.width - width
            yield Allocation(
                layers=layers,
                kv_groups=groups,
                queries_per_group=queries,
                channels=channels,
                params_removed=gone + left * channels * shape.params_channel,
            )


def _head_options(shape: ModelShape, pruning: PruningSettings) -> Iterator[tuple[int, int, int]]:
    """(groups, queries per group, parameters) that may go from a layer; one of each stays."""
    yield 0, 0, 0
    if "heads" not in pruning.units:
        return
    if pruning.head_unit == "group":
        each = shape.params_kv_head + shape.queries_per_group * shape.params_query_head
        for groups in range(1, shape.kv_heads):
            yield groups, 0, groups * each
    else:
        for queries in range(1, shape.queries_per_group):
            yield 0, queries, queries * shape.kv_heads * shape.params_query_head


def _distance(shape: ModelShape, option: Allocation, pruning: PruningSettings) -> float:
    """How far an option's shares of the budget are from the wanted ones."""
    total = max(option.params_removed, 1)
    depth = option.layers * shape.params_layer
    mlp = (shape.layers - option.layers) * option.channels * shape.params_channel
    heads = total - depth - mlp
    wanted_depth = pruning.depth_share
    wanted_heads = (1 - wanted_depth) * pruning.heads_share
    return abs(depth / total - wanted_depth) + abs(heads / total - wanted_heads)


def _unreachable(
    shape: ModelShape, sparsity: float, pruning: PruningSettings, reach: list[float]
) -> str:
    fixed = 1 - shape.layers * shape.params_layer / shape.params_total
    if sparsity > reach[1]:
        return (
            f"sparsity={sparsity:g} cannot be reached by removing {', '.join(pruning.units)}: the"
            f" embeddings alone hold {fixed:.1%} of the parameters and one layer must stay; use"
            f" sparsity={int(1000 * reach[1]) / 1000:g} or less"
        )
    return (
        f"sparsity={sparsity:g} is not within {TOLERANCE:.1%} of any shape that removing"
        f" {', '.join(pruning.units)} gives; add mlp to pruning.units or lower"
        " pruning.width_multiple"
    )
