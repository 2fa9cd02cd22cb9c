"""Importance criteria. Each scores every unit of a kind; higher means keep.

A voter is a function (statistics, kind, seed) -> scores [groups, units], or None when it cannot
judge that kind and abstains. For `mlp` and `heads` a group is a layer; for `layers` and `vocab`
the whole model is one group.
"""

from collections.abc import Callable

import torch

from prune_exp.pruning.statistics import Statistics
from prune_exp.settings.choices import check_one_of
from prune_exp.settings.errors import SettingError

ZIPF_OFFSET = 50.0
"""Zipf's law with Mandelbrot's offset: the most frequent tokens are less frequent than 1 / rank."""
Voter = Callable[[Statistics, str, int], torch.Tensor | None]


def magnitude(stats: Statistics, kind: str, seed: int) -> torch.Tensor:
    """Norm of the unit's weights."""
    del seed
    if kind == "vocab":
        return stats.vocab_norm_sq[None].sqrt()
    if kind == "layers":
        total = stats.mlp_weight_norm.square().sum(1) + stats.heads_weight_norm.square().sum(1)
        return total.sqrt()[None]
    return stats.mlp_weight_norm if kind == "mlp" else stats.heads_weight_norm


def gradient(stats: Statistics, kind: str, seed: int) -> torch.Tensor | None:
    """First-order Taylor estimate of the loss without the unit (arXiv:1611.06440).

    Abstains on layers: a whole block is no small change, and its terms of both signs cancel.
    """
    del seed
    if kind == "layers":
        return None
    if kind == "vocab":
        return stats.vocab_taylor[None]
    return stats.mlp_taylor if kind == "mlp" else stats.heads_taylor


def wanda(stats: Statistics, kind: str, seed: int) -> torch.Tensor:
    """Weight norm times activation norm (arXiv:2306.11695): the unit's output energy.

    A layer's is the sum of its units' relative to the energy of its input. A token's activation is
    1 where it occurs, so its norm is the root of its frequency.
    """
    del seed
    if kind == "vocab":
        return (stats.vocab_norm_sq * stats.vocab_frequency)[None].sqrt()
    mlp = stats.mlp_down_norm_sq * stats.mlp_activation_mean_sq
    heads = (stats.heads_out_norm_sq * stats.heads_activation_mean_sq).sum(2)
    if kind == "layers":
        return ((mlp.sum(1) + heads.sum(1)) / stats.layers_input_norm_sq)[None].sqrt()
    return (mlp if kind == "mlp" else heads).sqrt()


def fluctuation(stats: Statistics, kind: str, seed: int) -> torch.Tensor | None:
    """Activation variance times squared weight norm (arXiv:2312.11983).

    Abstains on layers, where it ranks almost as wanda does, and on tokens, where it must.
    """
    del seed
    if kind in ("layers", "vocab"):
        return None
    mlp = stats.mlp_down_norm_sq * (
        stats.mlp_activation_mean_sq - stats.mlp_activation_mean.square()
    )
    heads = stats.heads_out_norm_sq * (
        stats.heads_activation_mean_sq - stats.heads_activation_mean.square()
    )
    return mlp if kind == "mlp" else heads.sum(2)


def obs(stats: Statistics, kind: str, seed: int) -> torch.Tensor | None:
    """Error left after the best update of all other weights: optimal brain surgeon.

    Squared weight norm over the diagonal of the inverse second moment (arXiv:2302.04089). Of a
    head, the sum over its outputs, each as if it went alone. Abstains on layers, where it ranks
    almost as wanda does, and on tokens, where it must.
    """
    del seed
    if kind in ("layers", "vocab"):
        return None
    mlp = stats.mlp_down_norm_sq / stats.mlp_inverse_moment_diag
    heads = (stats.heads_out_norm_sq / stats.heads_inverse_moment_diag).sum(2)
    return mlp if kind == "mlp" else heads


def similarity(stats: Statistics, kind: str, seed: int) -> torch.Tensor | None:
    """Distance between a block's input and output (arXiv:2403.03853); judges layers only."""
    del seed
    return stats.layers_cosine_distance[None] if kind == "layers" else None


def expected(stats: Statistics, kind: str, seed: int) -> torch.Tensor | None:
    """How often a token is needed: half as counted, half as the dense model expects it.

    The model knows tokens that the text could have needed and did not; judges tokens only.
    """
    del seed
    if kind != "vocab" or stats.tokens is None:
        return None
    return (0.5 * (stats.vocab_frequency + stats.tokens.expected))[None]


def merges(stats: Statistics, kind: str, seed: int) -> torch.Tensor | None:
    """The order in which the tokenizer made its tokens: the earliest were the most frequent.

    Knows the text that the tokenizer was made from (arXiv:1508.07909), and no other; judges tokens
    only.
    """
    del seed
    if kind != "vocab" or stats.tokens is None:
        return None
    return -stats.tokens.place[None].double()


def script(stats: Statistics, kind: str, seed: int) -> torch.Tensor | None:
    """The frequency of a token by Zipf's law, times how much its script is needed.

    The law goes by the token's place among those of all scripts. Judges tokens only.
    """
    needed = expected(stats, kind, seed)
    if needed is None or stats.tokens is None:
        return None
    number = stats.tokens.script + 1
    share = torch.zeros(int(number.max()) + 1, dtype=torch.float64)
    share.index_add_(0, number, needed[0].double())
    return (share[number] / (stats.tokens.place.clamp_min(0) + ZIPF_OFFSET))[None]


def random(stats: Statistics, kind: str, seed: int) -> torch.Tensor:
    """A control: knows nothing."""
    shape = magnitude(stats, kind, seed).shape
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


VOTERS: dict[str, Voter] = {
    "magnitude": magnitude,
    "gradient": gradient,
    "wanda": wanda,
    "fluctuation": fluctuation,
    "obs": obs,
    "similarity": similarity,
    "expected": expected,
    "merges": merges,
    "script": script,
    "random": random,
}


def check_voters(names: list[str]) -> None:
    """Raises SettingError, with the valid names, unless all `names` are voters."""
    for name in names:
        check_one_of("pruning.voters", name, tuple(VOTERS))


def score_units(
    names: list[str], stats: Statistics, kind: str, *, head_unit: str, seed: int
) -> dict[str, torch.Tensor]:
    """Scores [groups, units] of everyone who can judge `kind`.

    Heads as `group` units: [L, K], the sum over each key/value head's query heads. As `query`
    units: [L * K, Q / K], so that ranks are within a group. Non-finite scores count as lowest.
    """
    scores: dict[str, torch.Tensor] = {}
    for name in names:
        values = VOTERS[name](stats, kind, seed)
        if values is None:
            continue
        if bool(values.isnan().all()):
            raise ArithmeticError(f"the voter {name} gave no number for {kind}")
        if kind == "heads":
            grouped = values.view(values.shape[0], int(stats.kv_heads), -1)
            values = grouped.sum(2) if head_unit == "group" else grouped.flatten(0, 1)
        scores[name] = torch.nan_to_num(values, nan=-torch.inf, neginf=-torch.inf)
    if not scores:
        raise SettingError(
            f"pruning.voters={','.join(names)}: none of them can judge {kind}; add wanda"
        )
    return scores
