"""Types of tensors as llama.cpp chooses them, and how far quantized weights are off."""

from typing import Any

import numpy as np
import pytest

from prune_exp.shipping.quantization import CHOICES, encode


def chosen(kind: str, name: str, *shape: int, layers: int = 30, tied: bool = True) -> str:
    return CHOICES[kind][0](name, shape, layers, tied)


@pytest.mark.parametrize("kind", CHOICES)
def test_norms_and_positions_stay(kind: str) -> None:
    assert chosen(kind, "blk.0.attn_norm.weight", 512) == "F32"
    assert chosen(kind, "position_embd.weight", 1024, 512) == "F32"


def test_eight_bits_want_rows_of_32() -> None:
    assert chosen("q8_0", "blk.0.attn_q.weight", 5, 96) == "Q8_0"
    assert chosen("q8_0", "blk.0.attn_q.weight", 5, 100) == "F16"


@pytest.mark.parametrize(
    ("name", "width", "kind"),
    [
        ("token_embd.weight", 512, "Q6_K"),
        ("token_embd.weight", 576, "Q8_0"),
        ("blk.0.attn_q.weight", 512, "Q4_K"),
        ("blk.0.attn_q.weight", 576, "Q5_0"),
        ("blk.0.attn_q.weight", 100, "F16"),
        ("blk.0.attn_qkv.weight", 512, "Q5_K"),
        ("blk.0.attn_qkv.weight", 576, "Q5_1"),
        ("blk.0.ffn_down.weight", 1536, "Q6_K"),
        ("blk.3.ffn_down.weight", 1536, "Q4_K"),
        ("blk.5.ffn_down.weight", 1536, "Q6_K"),
        ("blk.26.attn_v.weight", 1536, "Q6_K"),
        ("blk.26.attn_v.weight", 1504, "Q8_0"),
        ("blk.4.ffn_up.weight", 1536, "Q4_K"),
    ],
)
def test_four_bits_as_llamacpp_chooses(name: str, width: int, kind: str) -> None:
    assert chosen("q4_k_m", name, 8, width) == kind


def test_a_head_of_its_own_has_the_six_bits() -> None:
    assert chosen("q4_k_m", "output.weight", 8, 512, tied=False) == "Q6_K"
    assert chosen("q4_k_m", "token_embd.weight", 8, 512, tied=False) == "Q4_K"


ERRORS = {"F32": 0.0, "F16": 1e-3, "BF16": 4e-3, "Q8_0": 0.007, "Q5_0": 0.05, "Q5_1": 0.05}
K_ERRORS = {"Q6_K": 0.03, "Q5_K": 0.05, "Q4_K": 0.1}


def check_error(kind: str, most: float) -> None:
    """Relative error of Gaussian weights, some rows of them zero or far larger."""
    import gguf

    weights = np.random.default_rng(0).normal(size=(16, 512)).astype(np.float32)
    weights[3] = 0.0
    weights[4] *= 1e3
    encoded, number = encode(weights, kind)
    back: Any = gguf.quants.dequantize(encoded, number)
    assert back.shape == weights.shape
    assert not back[3].any()
    off = np.linalg.norm(back - weights, axis=1) / np.maximum(np.linalg.norm(weights, axis=1), 1)
    assert off.max() <= most


@pytest.mark.parametrize("kind", ERRORS)
def test_what_is_encoded_comes_back(kind: str) -> None:
    check_error(kind, ERRORS[kind])


@pytest.mark.parametrize("kind", K_ERRORS)
def test_k_quants_come_back(kind: str) -> None:
    pytest.importorskip("libgguf")
    check_error(kind, K_ERRORS[kind])
