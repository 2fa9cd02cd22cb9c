"""What a trial found out. Frozen and JSON-able; metrics.py flattens it."""

from dataclasses import asdict, dataclass, field
from typing import Any

from prune_exp.speed import Interval, SpeedComparison


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a decoder whose layers all have the same shape."""

    layers: int
    hidden: int
    width: int
    """MLP channels in a layer."""
    query_heads: int
    kv_heads: int
    head_dim: int
    free_heads: bool
    """Whether heads can be removed: not where the config derives their size from their number."""
    vocab: int
    params_total: int
    """Parameters, tied weights counted once."""
    params_layer: int
    """Parameters of one whole layer."""
    params_channel: int
    """Parameters of one MLP channel: a row of gate and up, a column of down."""
    params_query_head: int
    params_kv_head: int
    """Parameters of one key/value head alone, without its query heads."""
    params_embedding_only: int
    """Parameters that are looked up and not multiplied (an untied embedding): read sparsely."""
    params_token: int
    """Parameters of one token: its embedding row, and its row of an untied head."""
    vocab_removable: int = 0
    """Tokens that the tokenizer can do without."""

    @property
    def queries_per_group(self) -> int:
        """Query heads that share one key/value head."""
        return self.query_heads // self.kv_heads


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
    """Mean loss per token after the short refit, in nats."""


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
                "votes": {k: _votes(v) for k, v in data.get("votes", {}).items()},
                "rehearsed": tuple(_rehearsed(one) for one in data.get("rehearsed", ())),
            }
        )


def _votes(data: dict[str, Any]) -> Votes:
    return Votes(
        depth=tuple(data["depth"]),
        nominated={voter: tuple(shares) for voter, shares in data["nominated"].items()},
    )


def _rehearsed(data: dict[str, Any]) -> Rehearsed:
    return Rehearsed(**{**data, "layers": tuple(data["layers"])})


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Held-out quality of one model, and of the pruned one against the dense one."""

    bits_per_byte: float
    perplexity: float
    """exp of the mean loss per token of the dense model's tokenizer, whoever is judged."""
    bytes_per_token: float
    """UTF-8 bytes of text that one of the model's own tokens stands for."""
    tokens: int


@dataclass(frozen=True, kw_only=True)
class QualityComparison:
    """Both models on the same held-out blocks."""

    dense: Quality
    pruned: Quality
    perplexity_ratio: Interval
    kl_to_dense: float | None
    """Mean KL(dense || pruned) of the next-token distributions, nats; None across vocabularies."""
    top1_agreement: float | None
    """Share of positions where both rank the same token first; None across vocabularies."""
    max_perplexity_ratio: float

    @property
    def maintained(self) -> bool:
        """True when even the upper end of the interval is within the configured limit."""
        return self.perplexity_ratio.high <= self.max_perplexity_ratio


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What training after pruning did; losses are mean KL(dense || pruned) per token, in nats."""

    steps: int
    tokens: int
    seconds: float
    """Time of steps and judgements, over all starts of the trial."""
    best_step: int
    """Step whose weights were exported; 0 when nothing beat the model as it was pruned."""
    validation_kl_before: float
    validation_kl_after: float
    """That of the exported weights."""
    curve: tuple[tuple[int, float, float], ...] = ()
    """(step, training loss since the last judgement, validation loss)."""


@dataclass(frozen=True, kw_only=True)
class TextUsed:
    """Which text played a part, and what identifies it."""

    role: str
    """calibration, heldout, training or validation (of the recovery)"""
    source: str
    digest: str
    blocks: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """Everything one trial found out."""

    model_digest: str
    """Identifies the dense model's config and weights."""
    texts: tuple[TextUsed, ...]

    dense_shape: ModelShape
    pruned_shape: ModelShape
    plan: PruningPlan
    weights_sha256: str
    quality: QualityComparison | None
    speed: SpeedComparison | None
    seconds: dict[str, float]
    """Wall time of every phase."""
    peak_mib: dict[str, float] = field(default_factory=dict)
    """Peak resident memory of the trial's process in every phase, where the kernel tells."""
    recovery: Recovery | None = None

    @property
    def sparsity(self) -> float:
        """Share of the dense model's parameters that is gone."""
        return 1 - self.pruned_shape.params_total / self.dense_shape.params_total
