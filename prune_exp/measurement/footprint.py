"""Bytes that decoding reads and operations it does, from a model's own tensors and config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prune_exp.model.shape import heads_of

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a request reads and computes, whatever its length."""

    weight_bytes: int
    """All parameters, tied ones once."""
    weight_bytes_read: int
    """Read for every token: all matrices once, the head too when tied; of tables one row."""
    weights_multiplied: int
    """Parameters that each token is multiplied with, the head's left out."""
    head_params: int
    query_heads: int
    kv_heads: int
    head_dim: int
    windows: tuple[int, ...]
    """Tokens that each layer attends to at most; 0 where there is no limit."""
    element_bytes: int
    cache_tokens: int = 0
    """Tokens of a sequence that a preallocated cache has room for, all of which every step reads;
    0 where the cache grows."""

    @staticmethod
    def from_facts(facts: Mapping[str, Any]) -> "Footprint":
        """The inverse of `asdict`, also after a journey as JSON."""
        return Footprint(**{**facts, "windows": tuple(facts["windows"])})

    def kv_bytes(self, tokens: int) -> int:
        """Keys and values that one sequence of so many tokens holds.

        A layer with a sliding window keeps one token less than the window: the next one joins it.
        Preallocated, it has room for the whole window.
        """
        room = self.cache_tokens
        if room:
            held = sum(min(room, window) if window else room for window in self.windows)
        else:
            held = sum(min(tokens, window - 1) if window else tokens for window in self.windows)
        return held * self._kv_bytes_of_token

    def kv_bytes_read(self, prompt: float, new: int) -> float:
        """Mean keys and values read for a token after the first, of `new` after `prompt`.

        The step that makes token i + 1 attends to the prompt and i tokens after it.
        """
        return self._attended(prompt, new) * self._kv_bytes_of_token

    def decode_bytes(self, batch: int, prompt: float, new: int) -> float:
        """Bytes one step reads: the weights once for the batch, each sequence's cache."""
        return self.weight_bytes_read + batch * self.kv_bytes_read(prompt, new)

    def decode_flop(self, batch: int, prompt: float, new: int) -> float:
        """Operations of one step: a multiplication and an addition per weight and per attended
        element of keys and of values."""
        attention = 4 * self.query_heads * self.head_dim * self._attended(prompt, new)
        return batch * (2 * (self.weights_multiplied + self.head_params) + attention)

    def prefill_bytes(self, prompt: float) -> float:
        """Bytes a prompt's pass reads and writes: the weights, and its keys and values."""
        return self.weight_bytes_read + self.kv_bytes(round(prompt))

    def prefill_flop(self, prompt: float) -> float:
        """Operations of a prompt's pass; the head sees the last token only.

        Attention counts the causal half of all pairs of tokens, whatever the cache has room for.
        """
        beyond = [max(prompt - window, 0) if window else 0 for window in self.windows]
        pairs = sum((prompt * (prompt + 1) - late * (late + 1)) / 2 for late in beyond)
        attention = 4 * self.query_heads * self.head_dim * pairs
        return 2 * (self.weights_multiplied * prompt + self.head_params) + attention

    @property
    def _kv_bytes_of_token(self) -> int:
        """Of one layer."""
        return 2 * self.kv_heads * self.head_dim * self.element_bytes

    def _attended(self, prompt: float, new: int) -> float:
        """Tokens attended to in all layers, mean over the steps after the first token.

        Of a preallocated cache that is all of it: what has no token yet is read and masked.
        """
        lengths = [self.cache_tokens or prompt + step for step in range(1, new)]
        return sum(
            sum(min(length, window) if window else length for length in lengths)
            for window in self.windows
        ) / len(lengths)


def footprint_of(model: Any) -> Footprint:
    """Reads a loaded model's footprint off its tensors and config."""
    from torch import nn

    weights = {id(p): p for p in model.parameters()}
    head = model.get_output_embeddings().weight
    tables = {
        id(module.weight): module.weight
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module.weight is not head
    }
    size = next(iter(weights.values())).element_size()
    total = sum(p.numel() for p in weights.values())
    looked_up = sum(table.numel() for table in tables.values())
    rows = sum(table.shape[1] for table in tables.values())
    heads = heads_of(model.config)
    return Footprint(
        weight_bytes=total * size,
        weight_bytes_read=(total - looked_up + rows) * size,
        weights_multiplied=total - looked_up - head.numel(),
        head_params=head.numel(),
        query_heads=heads.queries,
        kv_heads=heads.groups,
        head_dim=heads.dim,
        windows=windows_of(model.config),
        element_bytes=size,
    )


def windows_of(config: Any) -> tuple[int, ...]:
    """Each layer's sliding window in tokens, 0 for full attention."""
    layers = config.num_hidden_layers
    window = getattr(config, "sliding_window", None) or 0
    every = ["sliding_attention" if window else "full_attention"] * layers
    kinds: Sequence[str] = getattr(config, "layer_types", None) or every
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
