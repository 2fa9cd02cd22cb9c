"""The sizes of a decoder whose layers all have one shape."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Head counts of a layer."""

    queries: int
    groups: int
    """Key/value heads."""
    dim: int

    @property
    def per_group(self) -> int:
        """Query heads that share a key/value head."""
        return self.queries // self.groups


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
    accepted_heads: frozenset[Heads] | None = None
    """Smaller head counts that the stock config takes; None where it takes all."""

    @property
    def queries_per_group(self) -> int:
        """Query heads that share one key/value head."""
        return self.query_heads // self.kv_heads

    def can_have(self, *, queries: int, groups: int) -> bool:
        """Whether a smaller model may have so many heads."""
        wanted = Heads(queries=queries, groups=groups, dim=self.head_dim)
        return self.accepted_heads is None or wanted in self.accepted_heads


def heads_of(config: Any) -> Heads:
    """Head counts by a config; without grouped queries every head has its own keys."""
    queries = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or queries
    dim = getattr(config, "head_dim", None) or config.hidden_size // queries
    return Heads(queries=queries, groups=groups, dim=dim)
