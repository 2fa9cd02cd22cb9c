"""How many layers, heads, channels and tokens a budget of parameters comes to.

All uniform shapes within reach of the request are listed. Those that take no more tokens than
wanted come first, then those that take no heads unasked, then those whose MLPs and vocabulary are
not too thin, then the one nearest to the wanted shares of the budget. MLP channels are the finest
unit, so they close the budget.
"""

import math
from collections.abc import Iterator
from itertools import product

from prune_exp.model.shape import ModelShape
from prune_exp.pruning.plan import Allocation
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import PruningSettings

NOTHING = Allocation(layers=0, kv_groups=0, queries_per_group=0, channels=0, params_removed=0)
TOLERANCE = 0.005
"""Largest accepted distance between the requested and the achieved sparsity."""


def allocate_budget(shape: ModelShape, sparsity: float, pruning: PruningSettings) -> Allocation:
    """Splits `sparsity` of the model's parameters between kinds of unit.

    Raises:
        SettingError: no allowed shape comes within 0.5 % of the request; says what does.
    """
    best: tuple[bool, bool, bool, float, float] | None = None
    tokens = _tokens_to_remove(shape, sparsity, pruning)
    chosen: Allocation | None = None
    reach = [1.0, 0.0]
    for option in _list_shapes(shape, sparsity, pruning):
        achieved = option.params_removed / shape.params_total
        reach = [min(reach[0], achieved), max(reach[1], achieved)]
        error = abs(achieved - sparsity)
        if error > TOLERANCE:
            continue
        key = (
            option.tokens > tokens,
            pruning.heads_share == 0 and option.kv_groups + option.queries_per_group > 0,
            _is_thin(shape, option, pruning.keep_share),
            _distance_from_wanted(shape, option, pruning),
            error,
        )
        if best is None or key < best:
            best = key
            chosen = option
    if chosen is None:
        raise SettingError(_explain_unreachable(shape, sparsity, pruning, reach))
    return chosen


def _is_thin(shape: ModelShape, option: Allocation, share: float) -> bool:
    """Whether less than `share` of the MLP channels or of the tokens stays."""
    return (
        shape.width - option.channels < share * shape.width
        or shape.vocab - option.tokens < share * shape.vocab
    )


def _list_shapes(
    shape: ModelShape, sparsity: float, pruning: PruningSettings
) -> Iterator[Allocation]:
    """Every uniform shape, with the MLP width that comes closest to the budget.

    Where no width is small enough, tokens close the budget.
    """
    budget = sparsity * shape.params_total
    tokens = _tokens_to_remove(shape, sparsity, pruning)
    most = _most_tokens(shape, pruning)
    floors = {_least_width(shape, pruning.keep_share, pruning), _least_width(shape, 0, pruning)}
    for layers in range(shape.layers if "layers" in pruning.units else 1):
        left = shape.layers - layers
        for (groups, queries, params), floor in product(_head_options(shape, pruning), floors):
            gone = layers * shape.params_layer + left * params
            rest = budget - gone - tokens * shape.params_token
            channels = _channels_to_remove(
                shape, rest / (left * shape.params_channel), floor, pruning
            )
            gone += left * channels * shape.params_channel
            more = tokens
            if channels == shape.width - floor or "mlp" not in pruning.units:
                more = min(max(round((budget - gone) / shape.params_token), tokens), most)
            yield Allocation(
                layers=layers,
                kv_groups=groups,
                queries_per_group=queries,
                channels=channels,
                tokens=more,
                params_removed=gone + more * shape.params_token,
            )


def _least_width(shape: ModelShape, share: float, pruning: PruningSettings) -> int:
    """Least width that is at least `share` of the MLP and an allowed multiple."""
    multiple = pruning.width_multiple
    return min(max(multiple * math.ceil(share * shape.width / multiple), multiple), shape.width)


def _channels_to_remove(
    shape: ModelShape, wanted: float, floor: int, pruning: PruningSettings
) -> int:
    """MLP channels to remove per layer, so that an allowed width is left."""
    if "mlp" not in pruning.units:
        return 0
    multiple = pruning.width_multiple
    width = multiple * round((shape.width - wanted) / multiple)
    return shape.width - min(max(width, floor), shape.width)


def _most_tokens(shape: ModelShape, pruning: PruningSettings) -> int:
    return shape.vocab_removable if "vocab" in pruning.units else 0


def _tokens_to_remove(shape: ModelShape, sparsity: float, pruning: PruningSettings) -> int:
    """Tokens that make up the wanted share of the budget, as far as there are that many."""
    wanted = pruning.vocab_share * sparsity * shape.params_total / shape.params_token
    return min(round(wanted), _most_tokens(shape, pruning))


def _head_options(shape: ModelShape, pruning: PruningSettings) -> Iterator[tuple[int, int, int]]:
    """(groups, queries per group, parameters) that may go from a layer; one of each stays.

    What would be left must be what the stock config takes.
    """
    yield 0, 0, 0
    if "heads" not in pruning.units or not shape.free_heads:
        return
    if pruning.head_unit == "group":
        each = shape.params_kv_head + shape.queries_per_group * shape.params_query_head
        for groups in range(1, shape.kv_heads):
            left = shape.kv_heads - groups
            if shape.can_have(queries=left * shape.queries_per_group, groups=left):
                yield groups, 0, groups * each
    else:
        for queries in range(1, shape.queries_per_group):
            left = (shape.queries_per_group - queries) * shape.kv_heads
            if shape.can_have(queries=left, groups=shape.kv_heads):
                yield 0, queries, queries * shape.kv_heads * shape.params_query_head


def _distance_from_wanted(shape: ModelShape, option: Allocation, pruning: PruningSettings) -> float:
    """How far an option's shares of the budget are from the wanted ones."""
    total = max(option.params_removed, 1)
    tokens = option.tokens * shape.params_token
    in_layers = max(total - tokens, 1)
    depth = option.layers * shape.params_layer
    mlp = (shape.layers - option.layers) * option.channels * shape.params_channel
    heads = in_layers - depth - mlp
    wanted_heads = (1 - pruning.depth_share) * pruning.heads_share
    return (
        abs(tokens / total - pruning.vocab_share)
        + abs(depth / in_layers - pruning.depth_share)
        + abs(heads / in_layers - wanted_heads)
    )


def _explain_unreachable(
    shape: ModelShape, sparsity: float, pruning: PruningSettings, reach: list[float]
) -> str:
    fixed = 1 - shape.layers * shape.params_layer / shape.params_total
    if sparsity > reach[1]:
        return (
            f"sparsity={sparsity:g} cannot be reached by removing {', '.join(pruning.units)}: the"
            f" embeddings hold {fixed:.1%} of the parameters, {shape.vocab_removable} of"
            f" {shape.vocab} tokens could go, and one layer must stay; use"
            f" sparsity={int(1000 * reach[1]) / 1000:g} or less"
        )
    return (
        f"sparsity={sparsity:g} is not within {TOLERANCE:.1%} of any shape that removing"
        f" {', '.join(pruning.units)} gives; add mlp to pruning.units or lower"
        " pruning.width_multiple"
    )
