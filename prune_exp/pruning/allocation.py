"""How many layers, heads, channels and tokens a budget of parameters comes to.

All uniform shapes within reach of the request are listed. Those that take no more tokens than
wanted come first, then those that take no heads unasked, then those whose MLPs and vocabulary are
not too thin, then the one nearest to what was asked: the budget and its shares. MLP channels are
the finest unit, so they close the budget, in steps that leave a width which runtimes can quantize.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from prune_exp.model.shape import ModelShape
from prune_exp.pruning.plan import Allocation
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import PruningSettings

NOTHING = Allocation(layers=0, kv_groups=0, queries_per_group=0, channels=0, params_removed=0)
TOLERANCE = 0.005
"""Largest accepted distance between the requested and the achieved sparsity."""


QUANTIZED = 32
"""Weights that share a scale in most 4-bit and 8-bit formats: a row is a multiple of so many."""
QUANTIZED_FINELY = 256
"""The same in llama.cpp's K-quants, the usual ones."""
COSTS = 0.1
"""Share of the budget that may be spent elsewhere than asked for the sake of such rows."""
FINELY_COSTS = 0.002
"""The same, beyond that, for the sake of K-quants."""


@dataclass(frozen=True, kw_only=True)
class _Option:
    """A shape with how it compares to others."""

    allocation: Allocation
    unwanted: tuple[bool, bool, bool]
    """More tokens go than wanted, heads go unasked, the MLPs or the vocabulary get too thin."""
    distance: float
    """From what was asked, in shares of the budget."""


def rehearses_layers(
    pruning: PruningSettings, gone: Allocation, blocks: int, *, on_disk: bool
) -> bool:
    """Whether it is rehearsed who chooses the layers that go, on so many blocks of text."""
    able = pruning.refit and pruning.ballot == "adaptive" and blocks > 1 and not on_disk
    return pruning.rehearse_layers and gone.layers > 0 and able


def allocate_budget(shape: ModelShape, sparsity: float, pruning: PruningSettings) -> Allocation:
    """Splits `sparsity` of the model's parameters between kinds of unit.

    Unless `pruning.width_multiple` says otherwise, the MLP width left is a multiple of 32, or of
    256 where that hardly changes the split; any width where the request cannot be met so.

    Raises:
        SettingError: no allowed shape comes within 0.5 % of the request; says what does.
    """
    if pruning.width_multiple is not None:
        chosen, reach = _choose_shape(shape, sparsity, pruning)
    else:
        chosen, reach = _choose_free_width(shape, sparsity, pruning)
    if chosen is None:
        raise SettingError(_explain_unreachable(shape, sparsity, pruning, reach))
    return chosen.allocation


def can_meet(shape: ModelShape, sparsity: float, pruning: PruningSettings) -> bool:
    """Whether a shape comes close enough to the request."""
    try:
        allocate_budget(shape, sparsity, pruning)
    except SettingError:
        return False
    return True


def shape_after(shape: ModelShape, gone: Allocation) -> ModelShape:
    """The sizes of the model that is left, known before anything is cut."""
    queries = gone.kv_groups * shape.queries_per_group
    queries += (shape.kv_heads - gone.kv_groups) * gone.queries_per_group
    heads = queries * shape.params_query_head + gone.kv_groups * shape.params_kv_head
    vocab = shape.vocab - gone.tokens
    return replace(
        shape,
        layers=shape.layers - gone.layers,
        width=shape.width - gone.channels,
        query_heads=shape.query_heads - queries,
        kv_heads=shape.kv_heads - gone.kv_groups,
        vocab=vocab,
        params_total=shape.params_total - gone.params_removed,
        params_layer=shape.params_layer - heads - gone.channels * shape.params_channel,
        params_embedding_only=shape.params_embedding_only * vocab // shape.vocab,
    )


def _choose_free_width(
    shape: ModelShape, sparsity: float, pruning: PruningSettings
) -> tuple[_Option | None, list[float]]:
    """The best shape whose width can be quantized, if nothing unwanted is the price.

    Where none comes close enough to the request, fewer tokens than asked for make up for more
    channels.
    """
    (free, reach), (coarse, _), (finest, _) = (
        _choose_shape(shape, sparsity, replace(pruning, width_multiple=multiple))
        for multiple in (1, QUANTIZED, QUANTIZED_FINELY)
    )
    if coarse is None:
        even = replace(pruning, width_multiple=QUANTIZED)
        coarse, _ = _choose_shape(shape, sparsity, even, tokens_yield=True)
    if free is None or coarse is None or not _costs_less(coarse, free, COSTS):
        return free, reach
    if finest is not None and _costs_less(finest, coarse, FINELY_COSTS):
        return finest, reach
    return coarse, reach


def _costs_less(option: _Option, other: _Option, share: float) -> bool:
    """Whether one shape does nothing unwanted that another does not, for little of the budget."""
    allowed = all(a <= b for a, b in zip(option.unwanted, other.unwanted, strict=True))
    return allowed and option.distance < other.distance + share


def _choose_shape(
    shape: ModelShape, sparsity: float, pruning: PruningSettings, *, tokens_yield: bool = False
) -> tuple[_Option | None, list[float]]:
    """The best shape with the given multiple, and the least and the most that can be removed."""
    best: tuple[tuple[bool, bool, bool], float] | None = None
    tokens = _tokens_to_remove(shape, sparsity, pruning)
    chosen: _Option | None = None
    reach = [1.0, 0.0]
    for option in _list_shapes(shape, sparsity, pruning, tokens_yield=tokens_yield):
        achieved = option.params_removed / shape.params_total
        reach = [min(reach[0], achieved), max(reach[1], achieved)]
        error = abs(achieved - sparsity)
        if error > TOLERANCE:
            continue
        unwanted = (
            option.tokens > tokens,
            pruning.heads_share == 0 and option.kv_groups + option.queries_per_group > 0,
            _is_thin(shape, option, pruning.keep_share),
        )
        distance = _distance_from_wanted(shape, option, pruning) + error / sparsity
        if best is None or (unwanted, distance) < best:
            best = (unwanted, distance)
            chosen = _Option(allocation=option, unwanted=unwanted, distance=distance)
    return chosen, reach


def _is_thin(shape: ModelShape, option: Allocation, share: float) -> bool:
    """Whether less than `share` of the MLP channels or of the tokens stays."""
    return (
        shape.width - option.channels < share * shape.width
        or shape.vocab - option.tokens < share * shape.vocab
    )


def _list_shapes(
    shape: ModelShape, sparsity: float, pruning: PruningSettings, *, tokens_yield: bool = False
) -> Iterator[Allocation]:
    """Every uniform shape, with the MLP width that comes closest to the budget.

    Where no width is small enough, tokens close the budget. With `tokens_yield` no width is taken
    that leaves some of it, and fewer tokens go.
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
                shape,
                rest / (left * shape.params_channel),
                floor,
                pruning,
                to_whole=math.floor if tokens_yield else round,
            )
            gone += left * channels * shape.params_channel
            more = tokens
            if tokens_yield:
                more = min(max(round((budget - gone) / shape.params_token), 0), tokens)
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
    multiple = pruning.width_multiple or 1
    return min(max(multiple * math.ceil(share * shape.width / multiple), multiple), shape.width)


def _channels_to_remove(
    shape: ModelShape,
    wanted: float,
    floor: int,
    pruning: PruningSettings,
    *,
    to_whole: Callable[[float], int],
) -> int:
    """MLP channels to remove per layer, so that an allowed width is left, in whole multiples."""
    if "mlp" not in pruning.units:
        return 0
    multiple = pruning.width_multiple or 1
    width = multiple * to_whole((shape.width - wanted) / multiple)
    return shape.width - min(max(width, floor), shape.width)


def _most_tokens(shape: ModelShape, pruning: PruningSettings) -> int:
    return shape.vocab_removable if "vocab" in pruning.units else 0


def _tokens_to_remove(shape: ModelShape, sparsity: float, pruning: PruningSettings) -> int:
    """Tokens that make up the wanted share of the budget, as far as there are that many."""
    wanted = pruning.vocab_share * sparsity * shape.params_total / shape.params_token
    return min(round(wanted), _most_tokens(shape, pruning))


def describe_fixed_heads(shape: ModelShape, pruning: PruningSettings) -> str | None:
    """A sentence where heads are asked for and none can go from this model; None elsewhere.

    Raises:
        SettingError: some could go, by the other `pruning.head_unit`.
    """
    if not pruning.heads_share or "heads" not in pruning.units or _has_options(shape, pruning):
        return None
    given = f"pruning.heads_share={pruning.heads_share:g}"
    other = "query" if pruning.head_unit == "group" else "group"
    if _has_options(shape, replace(pruning, head_unit=other)):
        raise SettingError(
            f"{given} cannot be: no smaller number of heads by"
            f" pruning.head_unit={pruning.head_unit} is one that the model's config takes; use"
            f" pruning.head_unit={other}"
        )
    why = (
        "takes no smaller number of them"
        if shape.free_heads
        else "derives the size of a head from their number"
    )
    return (
        f"all heads stay, since this model's config {why}; layers and channels bear the share that"
        f" {given} gives to heads"
    )


def _has_options(shape: ModelShape, pruning: PruningSettings) -> bool:
    """Whether any head can go."""
    return any(groups or queries for groups, queries, _ in _head_options(shape, pruning))


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


def describe_odd_width(
    dense: ModelShape, width: int, sparsity: float, pruning: PruningSettings
) -> str | None:
    """A sentence about an MLP width that cannot be quantized; None where it can, or was asked for.

    Says what would leave another, where the nearest requests do.
    """
    if pruning.width_multiple is not None or width in (dense.width, 0) or not width % QUANTIZED:
        return None
    sentence = (
        f"the MLP width left, {width}, is no multiple of {QUANTIZED}, so formats of 4 and 8 bits,"
        " GGUF's among them, keep matrices of that width in 16"
    )
    even = replace(pruning, width_multiple=QUANTIZED)
    found = [one.params_removed for one in _list_shapes(dense, sparsity, even)]
    near = min(
        filter(None, found), key=lambda gone: abs(gone / dense.params_total - sparsity), default=0
    )
    if not near:
        return sentence
    return (
        f"{sentence}; type pruning.width_multiple={QUANTIZED}"
        f" sparsity={round(near / dense.params_total, 3):g}"
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
