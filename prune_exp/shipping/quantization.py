"""Which type each of a GGUF file's tensors gets, as llama.cpp's own quantizer chooses.

K-quants hold super-blocks of 256 numbers. A row that 256 does not divide gets the type that
llama.cpp falls back on, and one that 32 does not divide stays in f16.
"""

from collections.abc import Callable
from typing import Any

FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
K_BLOCK = 256
BLOCK = 32
UNTOUCHED = ("position_embd.weight",)
"""Matrices that llama.cpp leaves as they are."""


def choose_f32(_name: str, _shape: tuple[int, ...], _layers: int, _tied: bool) -> str:
    """Everything as it is."""
    return "F32"


def choose_bf16(name: str, shape: tuple[int, ...], _layers: int, _tied: bool) -> str:
    """Matrices in bf16."""
    return "BF16" if _is_matrix(name, shape) else "F32"


def choose_q8_0(name: str, shape: tuple[int, ...], _layers: int, _tied: bool) -> str:
    """Matrices in blocks of 32 numbers of 8 bits."""
    return _fit("Q8_0", shape[-1]) if _is_matrix(name, shape) else "F32"


def choose_q4_k_m(name: str, shape: tuple[int, ...], layers: int, tied: bool) -> str:
    """Matrices mostly in 4 bits; in 6 the head and, in every third layer or so, two others."""
    if not _is_matrix(name, shape):
        return "F32"
    parts = name.split(".")
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        wanted = "Q6_K"
    elif parts[-2] == "attn_qkv":
        wanted = "Q5_K"
    elif parts[-2] in ("attn_v", "ffn_down") and _is_spared(int(parts[1]), layers):
        wanted = "Q6_K"
    else:
        wanted = "Q4_K"
    return _fit(wanted, shape[-1])


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and name not in UNTOUCHED


def _is_spared(layer: int, layers: int) -> bool:
    """`use_more_bits` in llama-quant.cpp: the first and last eighth, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _fit(wanted: str, width: int) -> str:
    if wanted in FALLBACKS and width % K_BLOCK:
        wanted = FALLBACKS[wanted]
    return "F16" if width % (K_BLOCK if wanted in FALLBACKS else BLOCK) else wanted


Choose = Callable[[str, tuple[int, ...], int, bool], str]
CHOICES: dict[str, tuple[Choose, str]] = {
    "f32": (choose_f32, "ALL_F32"),
    "bf16": (choose_bf16, "MOSTLY_BF16"),
    "q8_0": (choose_q8_0, "MOSTLY_Q8_0"),
    "q4_k_m": (choose_q4_k_m, "MOSTLY_Q4_K_M"),
}
"""By the name after `gguf:`: what chooses a tensor's type from its name, its shape, the number of
layers and whether the head is the embedding; and what llama.cpp calls such a file."""


def encode(array: Any, kind: str) -> tuple[Any, Any]:
    """A float32 array in a type, and that type's number."""
    import gguf

    number = gguf.GGMLQuantizationType[kind]
    if kind in FALLBACKS:
        import libgguf  # pyright: ignore[reportMissingImports]

        return libgguf.quantize_rows(array, int(number)), number
    return gguf.quants.quantize(array, number), number
