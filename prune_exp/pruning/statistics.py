"""What voters know of every unit: records, filled by the calibration."""

from dataclasses import dataclass, fields

import torch


@dataclass(frozen=True, kw_only=True)
class TokenStatistics:
    """Facts about tokens that cost more, or need the tokenizer; V tokens."""

    expected: torch.Tensor
    """Mean over all calibration positions of the dense model's next-token probability [V]."""
    place: torch.Tensor
    """Place in the order in which the tokenizer's merges made the token, from 0, single characters
    after them; -1 where it always stays [V]."""
    script: torch.Tensor
    """Number of the script that it is written in; -1 where it always stays [V]."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Per-feature facts; a feature is an MLP channel, or one of a head's `head_dim` outputs.

    L layers, W channels, Q query heads, K key/value heads, D = head_dim, V tokens.
    """

    mlp_weight_norm: torch.Tensor
    """Norm of each channel's rows of gate and up and column of down [L, W]."""
    mlp_down_norm_sq: torch.Tensor
    """Squared norm of each channel's column of down [L, W]."""
    mlp_activation_mean_sq: torch.Tensor
    """Mean squared activation [L, W]."""
    mlp_activation_mean: torch.Tensor
    """Mean activation [L, W]."""
    mlp_inverse_moment_diag: torch.Tensor
    """Diagonal of the inverse of the damped second moment of the activations [L, W]."""
    mlp_taylor: torch.Tensor
    """Mean over blocks of |sum of activation * gradient| [L, W]."""
    heads_weight_norm: torch.Tensor
    """Norm of each query head's weights, with its share of its key/value head [L, Q]."""
    heads_out_norm_sq: torch.Tensor
    """Squared norm of each column of the output projection [L, Q, D]."""
    heads_activation_mean_sq: torch.Tensor
    """Mean squared activation [L, Q, D]."""
    heads_activation_mean: torch.Tensor
    """Mean activation [L, Q, D]."""
    heads_inverse_moment_diag: torch.Tensor
    """Diagonal of the inverse second moment [L, Q, D]."""
    heads_taylor: torch.Tensor
    """Mean over blocks of |sum of activation * gradient| per head [L, Q]."""
    layers_cosine_distance: torch.Tensor
    """Mean 1 - cosine of a layer's input and output [L]."""
    layers_input_norm_sq: torch.Tensor
    """Mean squared norm of a layer's input [L]."""
    vocab_norm_sq: torch.Tensor
    """Squared norm of each token's embedding [V]."""
    vocab_frequency: torch.Tensor
    """Share of each token in the text that calibrates [V]."""
    vocab_taylor: torch.Tensor
    """Mean over blocks of |sum of a token's weights * their gradients| [V]."""
    kv_heads: torch.Tensor
    """Number of key/value heads, a scalar."""
    tokens: TokenStatistics | None = None
    """What is known of tokens besides; None where none of them may go."""


def tensors_of(statistics: Statistics) -> dict[str, torch.Tensor]:
    """All tensors by their name, those of tokens left out."""
    found = {one.name: getattr(statistics, one.name) for one in fields(statistics)}
    return {name: value.contiguous() for name, value in found.items() if name != "tokens"}
