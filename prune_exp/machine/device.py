"""Where models run, and the precision of what they compute there."""

import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from prune_exp.settings.errors import SettingError

CLEARLY_FASTER = 1.3
PRODUCT = (512, 576, 1536)
"""Rows, inputs and outputs of the product that tells which type is faster."""
PRODUCTS = 10


def choose_device(wanted: str) -> str:
    """`cpu` or `cuda`, which is what `auto` means where there is one.

    Raises:
        SettingError: `cuda` is wanted and there is none.
    """
    if wanted == "cpu":
        return wanted
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise SettingError(
            "device=cuda needs a GPU and a torch built for it, and torch finds none; use device=cpu"
        )
    return "cpu"


def describe_device(device: str) -> str:
    """A device with its name: `cpu`, `cuda (NVIDIA H100)`."""
    if device == "cpu":
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name()})"


def identify_gpu(device: str) -> tuple[str, ...]:
    """What tells the GPU from others, whichever a process is shown; the processor has nothing."""
    if device == "cpu":
        return ()
    import torch

    return (str(torch.cuda.get_device_properties(0).uuid),)


def cache_key(device: Any) -> tuple[str, ...]:
    """What sets a device's results apart from the processor's in a cache, which have nothing."""
    kind = str(device).partition(":")[0]
    return () if kind == "cpu" else (kind,)


def wait_for_device(device: str) -> None:
    """Waits until a device has done all that it was asked, so that a clock can be read."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def computes_bfloat16(device: Any) -> bool:
    """Whether a device has instructions for products in bfloat16."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def bfloat16_on(device: Any, wanted: str = "auto") -> bool:
    """Whether forward passes on a device are to be taken in bfloat16.

    `wanted` is float32, bfloat16, or auto, which means where they are clearly faster so.
    """
    import torch

    if wanted != "auto":
        return wanted == "bfloat16"
    if not computes_bfloat16(device):
        return False
    return torch.device(device).type == "cuda" or speed_in_bfloat16() >= CLEARLY_FASTER


@cache
def speed_in_bfloat16() -> float:
    """How many times as fast as in float32 this processor takes a product in bfloat16.

    Measured once in a process, since having the instructions says little: some processors take
    twice as long with them.
    """
    import torch

    rows = torch.ones(PRODUCT[0], PRODUCT[1])
    weights = torch.ones(PRODUCT[2], PRODUCT[1])
    pairs = {
        dtype: (rows.to(dtype), weights.to(dtype)) for dtype in (torch.float32, torch.bfloat16)
    }
    seconds = dict.fromkeys(pairs, float("inf"))
    with torch.no_grad():
        for _ in range(PRODUCTS):  # in turns, so that other work slows both
            for dtype, given in pairs.items():
                start = time.perf_counter()
                torch.nn.functional.linear(*given)
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def autocast(device: Any, dtype: str) -> AbstractContextManager[Any]:
    """Runs matrix products in `dtype`, float32 or bfloat16; weights stay in fp32."""
    import torch

    if dtype == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
